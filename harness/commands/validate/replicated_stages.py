"""Pipelines with replicated stages, or that never drain: a mini-batch leaves as often as the slowest stage can."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from harness.costs.profiles import Cluster
from harness.costs.steps import StepCost, all_reduce_s


def steady_step(
    cluster: Cluster, seconds: Sequence[float], num_bytes: Sequence[float], replicas: Sequence[int]
) -> StepCost:
    """Return the time from one mini-batch to the next in steady state.

    Replicas of a stage take mini-batches in turn and exchange their gradients beside computing.

    Source: Narayanan et al. 2019, "PipeDream", section 3.1.

    Args:
        seconds: of each stage for one mini-batch, forward and back.
        num_bytes: of each stage's gradients.
        replicas: devices of each stage.
    """
    slowest = max(time / count for time, count in zip(seconds, replicas, strict=True))
    exchanges = (all_reduce_s(cluster, count, size) / count for size, count in zip(num_bytes, replicas, strict=True))
    devices = sum(replicas)
    compute = sum(seconds) / devices
    communication = max(0.0, max(exchanges) - slowest)
    return StepCost(compute, communication, slowest - compute, bubble_fraction=1 - compute / (slowest + communication))


def cut_for(seconds: Sequence[float], replicas: Sequence[int]) -> list[int]:
    """Return sizes of consecutive stages whose slowest, divided by its replicas, is fastest; every stage has a layer.

    Raises:
        ValueError: there are fewer layers than stages.
    """
    if len(seconds) < len(replicas):
        raise ValueError(f"{len(replicas)} stages need at least {len(replicas)} layers; there are {len(seconds)}")
    before, total = [0.0, *accumulate(seconds)], len(seconds)
    # best[end]: the slowest of the stages so far, where they hold the first `end` layers.
    best, starts = [0.0, *[math.inf] * total], []
    for count in replicas:
        found = [(math.inf, 0)] * (total + 1)
        for end in range(1, total + 1):
            found[end] = min((max(best[k], (before[end] - before[k]) / count), k) for k in range(end))
        best = [slowest for slowest, _ in found]
        starts.append([start for _, start in found])
    sizes, end = [], total
    for chosen in reversed(starts):
        sizes.append(end - chosen[end])
        end = chosen[end]
    return sizes[::-1]
