"""What passes forward at once: a device's samples, cut into micro-batches and weighted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.engines.shared.sample_order import Indices, cut

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class Piece:
    """Samples that pass forward at once, each with its weight in the gradient.

    Attributes:
        indices: numbers of training samples, shape (n,), n >= 1.
        weight: one number for all, or an array of shape (n,) where padding has weight 0.
    """

    indices: Indices
    weight: float | npt.NDArray[np.floating]

    @property
    def num_samples(self) -> int:
        """Samples that count, padding left out."""
        return len(self.indices) if isinstance(self.weight, float) else int(np.count_nonzero(self.weight))


def make_pieces(indices: Indices, weight: float, micro_batch_size: int, pad: bool) -> list[Piece]:
    """Cut one device's samples into what passes forward at once.

    An empty part becomes one sample of weight 0, so that a replica without samples still takes part in the exchange.

    Args:
        weight: of every sample in the gradient: shares / size of the whole batch.
        pad: fill the last piece up with samples of weight 0, as a pipeline must (its shapes are fixed).
    """
    if len(indices) == 0:
        return [Piece(np.zeros(1, dtype=np.int64), np.zeros(1))]
    if not pad:
        parts = -(-len(indices) // micro_batch_size)
        return [Piece(part, weight) for part in cut(indices, parts)]
    starts = range(0, len(indices), micro_batch_size)
    return [_padded(indices[start : start + micro_batch_size], weight, micro_batch_size) for start in starts]


def _padded(indices: Indices, weight: float, size: int) -> Piece:
    missing = size - len(indices)
    if missing == 0:
        return Piece(indices, weight)
    filled = np.concatenate([indices, np.repeat(indices[:1], missing)])
    return Piece(filled, np.concatenate([np.full(len(indices), weight), np.zeros(missing)]))


def even_pieces(indices: Indices, weight: float, pieces: int) -> list[Piece]:
    """Cut one device's samples into so many pieces: as many as every other device's, which it meets in each."""
    return [make_pieces(part, weight, max(1, len(part)), pad=False)[0] for part in cut(indices, pieces)]
