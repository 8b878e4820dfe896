"""Whether texts fit a transformer: told from shapes and options, so that a plan knows it without building anything."""

from __future__ import annotations

from harness.core.errors import InputError
from harness.workloads.entries import BertLargeOptions, DataShape, GptOptions


def check_gpt(options: GptOptions, shape: DataShape) -> None:
    """Refuse data that `gpt` cannot be trained on.

    Raises:
        InputError: there is no label for each token, a sample has more tokens than the model positions, or there are
            more different tokens or classes than it knows.
    """
    if not shape.labels_per_token:
        raise InputError(
            ['workload.dataset: gpt predicts every next token; set labels = "next" of the data set tokens']
        )
    vocabulary = options.vocabulary or shape.vocabulary
    _check_length("gpt", "sequence", shape, options.sequence or shape.width)
    _check_vocabulary("gpt", shape, vocabulary)
    if shape.classes > vocabulary:
        raise InputError([f"workload.model: gpt has {vocabulary} outputs, the data {shape.classes} classes"])


def check_bert_large(options: BertLargeOptions, shape: DataShape) -> None:
    """Refuse data that `bert-large` cannot be trained on.

    Raises:
        InputError: there is a label for each token, a sample has more tokens than the model positions, or there are
            more different tokens than it knows.
    """
    if shape.labels_per_token:
        raise InputError(['workload.dataset: bert-large classifies texts; set labels = "kind" of the data set tokens'])
    _check_length("bert-large", "positions", shape, options.positions)
    _check_vocabulary("bert-large", shape, options.vocabulary)


def _check_length(name: str, option: str, shape: DataShape, positions: int) -> None:
    if shape.width > positions:
        raise InputError(
            [
                f"workload.dataset: samples have {shape.width} tokens, and {name} has {positions} positions; set "
                f"sequence = {positions} in workload.dataset, or {option} = {shape.width} in workload.model"
            ]
        )


def _check_vocabulary(name: str, shape: DataShape, vocabulary: int) -> None:
    if shape.vocabulary > vocabulary:
        raise InputError(
            [
                f"workload.dataset: there are {shape.vocabulary} different tokens, and {name} knows {vocabulary}; set "
                f"vocabulary = {shape.vocabulary} in workload.model"
            ]
        )
