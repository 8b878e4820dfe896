"""Synchronous data parallelism: every device has the model, computes part of the batch, and gradients are averaged."""

from __future__ import annotations

from pydantic import Field

from harness import Layout, Options, Strategy, hookimpl


class SyncDDP(Strategy):
    """Each device computes part of the batch. Gradients are averaged while the backward pass still runs.

    The averaged gradient is that of the whole batch, so the strategy runs the same program as `single` with one worker,
    and must train exactly like it.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.
    """

    name = "sync-ddp"
    also_known_as = ("ddp", "data-parallel", "distributed-data-parallel")
    suggested_for = ("dp", "allreduce", "all-reduce", "sync")
    equals = "single"

    class Options(Options):
        """What DDP lets one choose."""

        bucket_mib: float = Field(25.0, gt=0, description="gradients are exchanged in groups of this many MiB")
        static_graph: bool = Field(False, description="promise that every step uses the same graph")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device."""
        return Layout(
            data=gpus, bucket_bytes=int(self.options.bucket_mib * 2**20), static_graph=self.options.static_graph
        )


@hookimpl
def harness_strategies():
    return [SyncDDP]
