"""ZeRO stage 2: replicas share out gradients and the optimizer's state; parameters stay whole while they compute."""

from __future__ import annotations

from pydantic import Field

from harness import Impossible, Layout, Options, Strategy, hookimpl


class ZeRO2(Strategy):
    """Data parallelism in which each device keeps 1/N of gradients and state. It must train exactly like `single`.

    Each layer is gathered before its forward pass and stays whole to the end of the backward pass, which scatters the
    gradients as they come: torch's `fully_shard` with `reshard_after_forward=False`. As much is sent as by `sync-ddp`,
    and what lasts between two steps falls to 1/N. Micro-batches add their gradients up whole, and scatter once.

    Source: Rajbhandari, Rasley, Ruwase and He 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", sections 5.2 and 7.1 (P_os+g); Zhao et al. 2023, "PyTorch FSDP", section 3.2.1 (SHARD_GRAD_OP).
    """

    name = "zero-2"
    also_known_as = ("zero2", "zero-stage-2", "shard-grad-op")
    suggested_for = ("sharded-gradients",)
    equals = "single"

    class Options(Options):
        """What is computed twice."""

        recompute: bool = Field(False, description="drop activations and compute them again in the backward pass")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device.

        Raises:
            Impossible: there is nobody to share with.
        """
        if gpus < 2:
            raise Impossible("zero-2 needs at least 2 devices to share gradients out to")
        return Layout(data=gpus, shard="optimizer", recompute=self.options.recompute)


@hookimpl
def harness_strategies():
    return [ZeRO2]
