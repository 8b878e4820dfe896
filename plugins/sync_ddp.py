"""Synchronous data parallelism: every device has the model, computes part of the batch, and gradients are averaged."""

from __future__ import annotations

from harness import DataParallel, hookimpl


class SyncDDP(DataParallel):
    """Each device computes part of the batch. Gradients are averaged while the backward pass still runs.

    The averaged gradient is that of the whole batch, so the strategy runs the same program as `single` with one worker,
    and must train exactly like it.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.
    """

    name = "sync-ddp"
    also_known_as = ("ddp", "data-parallel", "distributed-data-parallel")
    suggested_for = ("dp", "allreduce", "all-reduce", "sync")
    equals = "single"


@hookimpl
def harness_strategies():
    return [SyncDDP]
