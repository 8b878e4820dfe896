"""Text made up on the spot: random chains in which most tokens follow from the one before."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from harness.workloads.entries import RawData, TokensOptions

if TYPE_CHECKING:
    import numpy.typing as npt

RECIPE = "first-order chains, 3 of 4 tokens follow"
"""Part of the checksum; changes whenever the same options make other text."""
FOLLOWS = 0.75
"""Chance that a token is its predecessor's successor and not any token: what a perfect model can know. Chosen: high
enough to be learnt from a few hundred samples, low enough that no model reaches 100 %."""


def load_tokens(options: TokensOptions) -> RawData:
    """Make samples of `sequence` tokens, int64, (n, sequence).

    A chain is a random permutation of the vocabulary: each token's successor. With labels = "next" there is one chain,
    and labels are the text moved by one; with "kind" there is a chain for each class.
    """
    random = np.random.default_rng([options.seed, 1])
    chains = 1 if options.labels == "next" else options.classes
    successors = np.stack([random.permutation(options.vocabulary) for _ in range(chains)])
    train, train_labels = _texts(options.samples, options, successors, random)
    test, test_labels = _texts(options.test_samples, options, successors, random)
    classes = options.vocabulary if options.labels == "next" else options.classes
    return RawData(
        train,
        train_labels,
        test,
        test_labels,
        classes,
        full_scale=1.0,
        checksum=tokens_checksum(options),
        vocabulary=options.vocabulary,
    )


def tokens_checksum(options: TokensOptions) -> str:
    """Return sha256 in hex of what the text follows from: the recipe, its options, numpy's generator."""
    # numpy may change its generators between minor versions, and with them the text.
    made_by = ".".join(np.__version__.split(".")[:2])
    return hashlib.sha256(f"{RECIPE}\nnumpy {made_by}\n{options.model_dump_json()}".encode()).hexdigest()


def _texts(
    num: int, options: TokensOptions, successors: npt.NDArray[np.int64], random: np.random.Generator
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """Return texts and their labels."""
    chain = random.permutation(np.arange(num) % len(successors))
    text = random.integers(options.vocabulary, size=(num, options.sequence + 1))
    follows = random.random(text.shape) < FOLLOWS
    for place in range(1, text.shape[1]):
        after = successors[chain, text[:, place - 1]]
        text[:, place] = np.where(follows[:, place], after, text[:, place])
    labels = text[:, 1:] if options.labels == "next" else chain
    return text[:, :-1].copy(), labels.astype(np.int64)
