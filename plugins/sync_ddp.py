"""Synchronous data parallelism: every device has the model, computes part of the batch, and gradients are averaged."""

from __future__ import annotations

from pydantic import Field

from harness import Layout, Options, Strategy, hookimpl


class SyncDDP(Strategy):
    """One gradient stream over several replicas, exchanged in buckets while the backward pass still runs.

    To the program there is one worker whose gradient happens to be computed by several devices, so it inherits plain
    training and must equal `single`.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.
    """

    name = "sync-ddp"
    also_known_as = ("ddp", "data-parallel", "distributed-data-parallel", "dp", "allreduce", "all-reduce", "sync")
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
