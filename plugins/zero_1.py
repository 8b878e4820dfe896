"""ZeRO stage 1: replicas share out the optimizer's state, and each updates its part of the parameters."""

from __future__ import annotations

from pydantic import Field

from harness import Impossible, Layout, Options, Strategy, hookimpl


class ZeRO1(Strategy):
    """Data parallelism with 1/N of the optimizer's state on each of N devices. It must train exactly like `single`.

    After the backward pass each device is sent the mean of its part of the gradient (reduce-scatter). It updates that
    part of the parameters, and hands it to all others (all-gather). As much is sent as by `sync-ddp`; with Adam in
    single precision a parameter takes 8 + 8 / N bytes instead of 16. Neither exchange overlaps with computing.

    Source: Rajbhandari, Rasley, Ruwase and He 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", sections 5.1 and 7.1 (P_os).
    """

    name = "zero-1"
    also_known_as = ("zero1", "zero-stage-1", "zero-redundancy-optimizer")
    suggested_for = ("distributed-optimizer", "sharded-optimizer")
    equals = "single"

    class Options(Options):
        """How much is exchanged at once."""

        bucket_mib: float = Field(
            25.0, gt=0, description="gradients and parameters are exchanged this many MiB at once"
        )

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device.

        Raises:
            Impossible: there is nobody to share with.
        """
        if gpus < 2:
            raise Impossible("zero-1 needs at least 2 devices to share the optimizer's state out to")
        return Layout(data=gpus, shard="states", bucket_bytes=int(self.options.bucket_mib * 2**20), overlap=False)


@hookimpl
def harness_strategies():
    return [ZeRO1]
