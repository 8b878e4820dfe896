"""Pipelines that never run empty: a mini-batch leaves as often as the slowest stage lets one through."""

from __future__ import annotations

from collections.abc import Sequence

from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.steps.collectives import all_reduce_s
from harness.costs.steps.result import StepCost


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
    exchanges = [all_reduce_s(cluster, count, size) / count for size, count in zip(num_bytes, replicas, strict=True)]
    devices = sum(replicas)
    compute = sum(seconds) / devices
    communication = max(0.0, max(exchanges) - slowest)
    sent = sum(2 * (count - 1) / count * size for size, count in zip(num_bytes, replicas, strict=True)) / devices
    return StepCost(
        *(compute, communication, slowest - compute, sent, sum(exchanges) / len(exchanges)),
        1 - compute / (slowest + communication),
    )
