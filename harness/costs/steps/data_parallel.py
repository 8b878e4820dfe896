"""One data-parallel exchange: buckets, their overlap with the backward pass, and waiting for the slowest."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist
from typing import NamedTuple

from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.shape import ModelShape
from harness.costs.steps import collectives
from harness.costs.steps.result import StreamTask

FIRST_BUCKET_BYTES = 2**20
"""DDP's first bucket is small so that the first exchange starts early.

Source: torch 2.13, torch/csrc/distributed/c10d/reducer.hpp, kDefaultFirstBucketBytes.
"""


class Bucket(NamedTuple):
    """Gradients that are exchanged together.

    Attributes:
        layer: whose backward pass completes it.
    """

    num_bytes: float
    layer: int


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


def buckets_of(shape: ModelShape, bucket_bytes: int) -> tuple[Bucket, ...]:
    """Return the buckets in the order of the backward pass; `bucket_bytes` of 0 makes a single one of everything.

    Tensors are taken in reverse order; a bucket is closed by the tensor that fills it.

    Source: Li et al. 2020, "PyTorch Distributed", section 4.2.
    """
    found, pending, limit = [], 0.0, min(FIRST_BUCKET_BYTES, bucket_bytes)
    last = 0
    for number in reversed(range(len(shape.layers))):
        for tensor in reversed(shape.layers[number].tensors):
            pending, last = pending + tensor * shape.element_bytes, number
            if bucket_bytes and pending >= limit:
                found.append(Bucket(pending, number))
                pending, limit = 0.0, bucket_bytes
    return tuple([*found, Bucket(pending, last)] if pending else found)


def exchange(
    backward_s: Sequence[float],
    buckets: Sequence[Bucket],
    seconds: Callable[[float], float],
    overlap: bool = True,
    slowdown_fraction: float = 0.0,
    start_s: float = 0.0,
    record: bool = False,
) -> Exchange:
    """Return what it adds to exchange buckets one after another while the last backward pass is still computing.

    Args:
        backward_s: of each layer, in the order of the forward pass.
        seconds: of the exchange of so many bytes.
        slowdown_fraction: how much longer computing takes while an exchange runs beside it.
        start_s: when the backward pass starts, for the tasks.
    """
    ready_after, elapsed = [0.0] * len(backward_s), 0.0
    for number in reversed(range(len(backward_s))):
        elapsed += backward_s[number]
        ready_after[number] = elapsed
    free, busy, hidden, tasks = 0.0, 0.0, 0.0, []
    for count, bucket in enumerate(buckets):
        length = seconds(bucket.num_bytes)
        begin = max(free, ready_after[bucket.layer] if overlap else elapsed)
        free = begin + length
        busy += length
        hidden += max(0.0, min(free, elapsed) - begin)
        if record:
            tasks.append(StreamTask(0, "communication", f"bucket {count}", start_s + begin, start_s + free))
    slowed = slowdown_fraction * hidden
    return Exchange(max(0.0, free - elapsed - slowed), slowed, busy, tuple(tasks))


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
