"""Which samples are behind which batch.

Shared: batch k is block k of the epoch's permutation, whatever the number of workers; worker i's part is the i-th
contiguous one, as even as it goes. Own: every worker has a fixed, disjoint shard that it reshuffles itself, without
end. With one worker the two are the same order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from harness.api.strategy import Batch
from harness.core.streams import numpy_stream

Indices = NDArray[np.int64]


def shared_batches(
    seed: int, num_samples: int, batch_size: int, rank: int, workers: int, counts: Indices | None = None
) -> Iterator[Batch]:
    """Yield this worker's part of every batch of the shared order, without end.

    Args:
        num_samples: size of the training set.
        batch_size: samples in a whole batch; the last block of an epoch is what is left.
        counts: how many targets count in each sample; None where that is the same for all.
    """
    everything = np.arange(num_samples, dtype=np.int64)
    for step, before, block in _blocks(seed, 0, everything, batch_size):
        part = cut(block, workers)[rank]
        yield Batch(step, part, len(block), workers, before, _counted(block, counts))


def own_batches(
    seed: int, num_samples: int, batch_size: int, rank: int, workers: int, counts: Indices | None = None
) -> Iterator[Batch]:
    """Yield batches of this worker's own shard, without end; see `shared_batches`."""
    for step, before, block in _blocks(seed, rank, shard(seed, num_samples, rank, workers), batch_size):
        yield Batch(step, block, len(block), 1, before, _counted(block, counts))


def _counted(block: Indices, counts: Indices | None) -> int:
    # At least one: a batch whose targets are all ignored has a loss of 0, not 0 / 0.
    return len(block) if counts is None else max(1, int(counts[block].sum()))


def shard(seed: int, num_samples: int, rank: int, workers: int) -> Indices:
    """Return the samples that only this worker sees, in ascending order; one worker's shard is everything."""
    shuffled = numpy_stream(seed, "shards").permutation(num_samples).astype(np.int64)
    return np.sort(cut(shuffled, workers)[rank])


def first_rows(size: int, num_samples: int) -> Indices:
    """Return so many samples to time something with; the same ones again where there are fewer."""
    return np.arange(size, dtype=np.int64) % num_samples


def steps_of_a_pass(num_samples: int, batch_size: int, rank: int, workers: int) -> int:
    """Return the batches in which a worker passes over its shard; over everything where `workers` is 1."""
    even, larger = divmod(num_samples, workers)
    return max(1, -(-(even + (rank < larger)) // batch_size))


def cut(indices: Indices, parts: int) -> list[Indices]:
    """Cut into contiguous parts whose sizes differ by at most one, larger ones first; there may be empty ones.

    The same as `numpy.array_split`, which takes 45 us where this takes 2, in every step.
    """
    size, larger = divmod(len(indices), parts)
    ends = [(part + 1) * size + min(part + 1, larger) for part in range(parts)]
    return [indices[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def _blocks(seed: int, owner: int, samples: Indices, batch_size: int) -> Iterator[tuple[int, int, Indices]]:
    step = before = epoch = 0
    while len(samples):
        permuted = numpy_stream(seed, "order", owner, epoch).permutation(samples)
        for start in range(0, len(permuted), batch_size):
            block = permuted[start : start + batch_size]
            yield step, before, block
            step, before = step + 1, before + len(block)
        epoch += 1
