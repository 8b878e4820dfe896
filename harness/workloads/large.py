"""Entries for models that are worth more than one device, and the tokens that the language models read.

Like the catalogue, this imports neither torch nor numpy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.api.strategy import Options
from harness.workloads.entries import (
    BertLargeOptions,
    Dataset,
    DatasetSize,
    DataShape,
    GptOptions,
    Model,
    RawData,
    TokensOptions,
)
from harness.workloads.text_shapes import check_bert_large, check_gpt

if TYPE_CHECKING:
    from torch import nn


def _build_alexnet(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.alexnet(shape)


def _build_vgg16(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.vgg16(shape)


def _build_resnet50(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet50(shape)


def _build_resnet101(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet101(shape)


def _build_resnet152(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.resnet152(shape)


def _build_squeezenet(options: Options, shape: DataShape) -> nn.Module:
    from harness.workloads import convolutional

    return convolutional.squeezenet(shape)


def _build_gpt(options: GptOptions, shape: DataShape) -> nn.Module:
    from harness.workloads import transformers

    return transformers.gpt(shape, options)


def _build_bert_large(options: BertLargeOptions, shape: DataShape) -> nn.Module:
    from harness.workloads import transformers

    return transformers.bert_large(shape, options)


# Rates are those of the papers for their own batches, or usual ones; none of them is measured here.
LARGE_MODELS = (
    Model(
        name="alexnet",
        summary="five convolutions and three linear layers, 61,100,840 parameters for 1,000 classes",
        source="Krizhevsky 2014, one tower (64-192-384-256-256)",
        Options=Options,
        learning_rate=0.01,
        input_size=None,
        build=_build_alexnet,
        least_size=63,
    ),
    Model(
        name="vgg16",
        summary="thirteen convolutions and three linear layers, 138,357,544 parameters for 1,000 classes",
        source="Simonyan and Zisserman 2015, table 1, column D",
        Options=Options,
        learning_rate=0.01,
        input_size=None,
        build=_build_vgg16,
        least_size=32,
    ),
    Model(
        name="resnet50",
        summary="sixteen bottleneck blocks, 25,557,032 parameters for 1,000 classes, BatchNorm",
        source="He et al. 2016, table 1; the stride in the 3 x 3 convolution (Gross and Wilber 2016)",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet50,
        least_size=32,
        batch_norm=True,
    ),
    Model(
        name="resnet101",
        summary="thirty-three bottleneck blocks, 44,549,160 parameters for 1,000 classes, BatchNorm",
        source="as resnet50",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet101,
        least_size=32,
        batch_norm=True,
    ),
    Model(
        name="resnet152",
        summary="fifty bottleneck blocks, 60,192,808 parameters for 1,000 classes, BatchNorm",
        source="as resnet50",
        Options=Options,
        learning_rate=0.1,
        input_size=None,
        build=_build_resnet152,
        least_size=32,
        batch_norm=True,
    ),
    Model(
        name="squeezenet1.0",
        summary="eight fire modules between two convolutions, 1,248,424 parameters for 1,000 classes",
        source="Iandola et al. 2016, table 1",
        Options=Options,
        learning_rate=0.04,
        input_size=None,
        build=_build_squeezenet,
        least_size=21,
    ),
    Model(
        name="gpt",
        summary="a decoder that predicts the next token, from 12 blocks (small) to 96 (175b)",
        source="Radford et al. 2019 (architecture); Brown et al. 2020, table 2.1 (sizes)",
        Options=GptOptions,
        learning_rate=0.1,
        input_size=None,
        build=_build_gpt,
        takes="tokens",
        check=check_gpt,
    ),
    Model(
        name="bert-large",
        summary="an encoder of 24 blocks that classifies a text, 335,143,938 parameters for two classes",
        source="Devlin et al. 2019, section 3 (large)",
        Options=BertLargeOptions,
        learning_rate=0.01,
        input_size=None,
        build=_build_bert_large,
        takes="tokens",
        check=check_bert_large,
    ),
)


def _load_tokens(options: TokensOptions) -> RawData:
    from harness.workloads import tokens

    return tokens.load_tokens(options)


def _tokens_checksum(options: TokensOptions) -> str:
    from harness.workloads import tokens

    return tokens.tokens_checksum(options)


def _tokens_size(options: TokensOptions) -> DatasetSize:
    each = options.labels == "next"
    classes = options.vocabulary if each else options.classes
    shape = DataShape(1, 1, options.sequence, classes, options.vocabulary, each)
    return DatasetSize(options.samples, options.test_samples, shape)


TOKENS = Dataset(
    name="tokens",
    summary="text made up on the spot by random chains of tokens; learnable, nothing to download",
    source="the harness: Markov chains of first order (Shannon 1948, section 3)",
    Options=TokensOptions,
    size=_tokens_size,
    target_accuracy=None,
    load=_load_tokens,
    checksum=_tokens_checksum,
    fixed=True,
)
