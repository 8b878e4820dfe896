"""One data-parallel exchange: buckets, their overlap with the backward pass, and waiting for the slowest."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from statistics import NormalDist
from typing import NamedTuple

from harness.core.units import MIB
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.shape import ModelShape
from harness.costs.steps import collectives
from harness.costs.steps.result import StreamTask

FIRST_BUCKET_BYTES = 2**20
"""DDP's first bucket is small, where nobody has chosen a size, so that the first exchange starts early.

Source: torch 2.13, torch/csrc/distributed/c10d/reducer.hpp, kDefaultFirstBucketBytes.
"""

USUAL_BUCKET_BYTES = 25 * MIB
"""What DDP takes where nobody has chosen a size."""


SUMS_DIFFER = 1e-9
"""Share by which sums of sizes may differ from each other: chosen, far below a parameter's."""


class SizedBucket(NamedTuple):
    """Gradients that are exchanged together.

    Attributes:
        layer: whose backward pass completes it.
    """

    num_bytes: float
    layer: int


class ReducedBucket(NamedTuple):
    """What a layout's own `reduce` did with a bucket.

    Attributes:
        num_bytes: of its gradients.
        seconds: from its first word to its end, on the slowest replica.
        computed_s: of them, spent on encoding, decoding and other arithmetic.
        bytes_sent: by one device, mean.
    """

    num_bytes: float
    seconds: float
    computed_s: float
    bytes_sent: float


@dataclass(frozen=True)
class Exchange:
    """What an exchange adds to a step.

    Attributes:
        exposed_s: after the backward pass has ended.
        slowed_s: how much longer computing took because exchanges ran beside it.
        busy_s: of the communication stream.
    """

    exposed_s: float
    slowed_s: float = 0.0
    busy_s: float = 0.0
    tasks: tuple[StreamTask, ...] = ()


def in_buckets(sizes: Sequence[float], bucket_bytes: float) -> list[list[int]]:
    """Return which tensors are exchanged together; `bucket_bytes` of 0 makes a single bucket of all.

    A bucket is closed by the tensor that fills it.

    Source: Li et al. 2020, "PyTorch Distributed", section 4.2.

    Args:
        sizes: of tensors in bytes, in the order in which they are taken.
        bucket_bytes: of a bucket; of all but the first where that is DDP's own choice.
    """
    found: list[list[int]] = []
    pending, filled = [], 0.0
    limit = FIRST_BUCKET_BYTES if bucket_bytes == USUAL_BUCKET_BYTES else bucket_bytes
    for number, size in enumerate(sizes):
        pending.append(number)
        filled += size
        if bucket_bytes and filled >= limit:
            found.append(pending)
            pending, filled, limit = [], 0.0, bucket_bytes
    return [*found, pending] if pending else found


def buckets_of(shape: ModelShape, bucket_bytes: int) -> tuple[SizedBucket, ...]:
    """Return the buckets in the order of the backward pass: tensors are taken in reverse order."""
    backward = reversed(list(enumerate(shape.layers)))
    tensors = [(size * shape.element_bytes, number) for number, layer in backward for size in reversed(layer.tensors)]
    groups = in_buckets([size for size, _ in tensors], bucket_bytes)
    return tuple(SizedBucket(sum(tensors[k][0] for k in group), tensors[group[-1]][1]) for group in groups)


def completed_by(shape: ModelShape, sizes: Sequence[float]) -> tuple[SizedBucket, ...]:
    """Return buckets of so many bytes, in the order of the backward pass, each with the layer that completes it."""
    backward = list(reversed(range(len(shape.layers))))
    there = list(accumulate(shape.layers[number].parameters for number in backward))
    scale = (1 - SUMS_DIFFER) * there[-1] / sum(sizes)
    filled = accumulate(sizes)
    return tuple(
        SizedBucket(size, backward[bisect_left(there, scale * so_far)])
        for size, so_far in zip(sizes, filled, strict=True)
    )


def exchange(
    backward_s: Sequence[float],
    buckets: Sequence[SizedBucket],
    seconds: Sequence[float],
    own_s: Sequence[float] = (),
    *,
    overlap: bool = True,
    slowdown_fraction: float = 0.0,
    start_s: float = 0.0,
    record: bool = False,
) -> Exchange:
    """Return what it adds to exchange buckets one after another while the last backward pass is still computing.

    Args:
        backward_s: of each layer, in the order of the forward pass.
        buckets: in the order in which they are exchanged.
        seconds: of each bucket's exchange.
        own_s: of them, in which the device computes: it makes the step longer, whether it hides or not.
        overlap: exchange while computing; else afterwards.
        slowdown_fraction: how much longer computing takes while an exchange runs beside it.
        start_s: when the backward pass starts, for the tasks.
        record: also return the tasks.
    """
    ready_after, elapsed = [0.0] * len(backward_s), 0.0
    for number in reversed(range(len(backward_s))):
        elapsed += backward_s[number]
        ready_after[number] = elapsed
    free, busy, hidden, computed, tasks = 0.0, 0.0, 0.0, 0.0, []
    for count, (bucket, length, own) in enumerate(zip(buckets, seconds, own_s or [0.0] * len(buckets), strict=True)):
        # What the device computes for an exchange it does not compute of the backward pass: the two take turns.
        begin = max(free, computed + (ready_after[bucket.layer] if overlap else elapsed))
        free = begin + length
        busy += length - own
        computed += own
        hidden += max(0.0, min(free, elapsed + computed) - begin) * (1 - own / length if length else 0.0)
        if record:
            tasks.append(StreamTask(0, "communication", f"bucket {count}", start_s + begin, start_s + free))
    slowed = slowdown_fraction * hidden
    return Exchange(max(0.0, free - elapsed - computed - slowed), slowed + computed, busy, tuple(tasks))


def neighbours_s(cluster: Cluster, groups: int, size: int, num_bytes: float) -> float:
    """Return the seconds of an all-reduce among devices of so many groups, one of each; all of them do it at once.

    Args:
        size: devices of a group, which are neighbours and share each node's link.
        num_bytes: of one device.
    """
    local = max(1, cluster.gpus_per_node // size)
    nodes = -(-groups // local)
    sharing = min(size, cluster.gpus_per_node) if nodes > 1 else 1
    return collectives.all_reduce_s(cluster, groups, num_bytes, nodes, sharing)


STEADY_S = 0.1
"""Of computing, up to which its spread is in proportion: the shortest steps of the published tables; chosen."""


def waiting_s(spread_fraction: float, compute_s: float, ranks: int) -> float:
    """Return how long a device waits for the slowest of all that meet.

    What disturbs a kernel disturbs others independently, so that the spread of many grows with the root of their time.

    Args:
        spread_fraction: standard deviation of what takes `STEADY_S`, as a share of it.
    """
    spread_s = spread_fraction * min(compute_s, math.sqrt(compute_s * STEADY_S))
    return spread_s * slowest_of(ranks)


@lru_cache(maxsize=256)
def slowest_of(ranks: int) -> float:
    """Return the expected largest of independent standard normals, in standard deviations.

    Source: Blom 1958, "Statistical Estimates and Transformed Beta-Variables", chapter 6; within 0.03 of exact values.
    """
    return NormalDist().inv_cdf((ranks - 0.375) / (ranks + 0.25)) if ranks > 1 else 0.0
