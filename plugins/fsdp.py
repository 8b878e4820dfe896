"""Fully sharded data parallelism: replicas share out what they would otherwise each keep all of."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness import Impossible, Layout, Options, Strategy, hookimpl


class FSDP(Strategy):
    """Data parallelism in 1/N of the memory on N devices. It must train exactly like `single`.

    With `shard = "parameters"` (ZeRO-3) each layer is gathered before it computes and given back afterwards, in both
    passes: half as much again is sent as by `sync-ddp`, and parameters, gradients and optimizer state fall to 1/N.
    With `shard = "optimizer"` parameters stay gathered through both passes: that is `zero-2`.

    Source: Rajbhandari, Rasley, Ruwase and He 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter
    Models", sections 5 and 7; Zhao et al. 2023, "PyTorch FSDP", section 3.
    """

    name = "fsdp"
    also_known_as = ("fsdp2", "zero", "zero-3", "zero3", "fully-sharded", "fully-shard")
    suggested_for = ("sharded",)
    equals = "single"

    class Options(Options):
        """What is shared out, and what is computed twice."""

        shard: Literal["parameters", "optimizer"] = Field(
            "parameters", description="give parameters back after each layer's pass, or keep them until the step's end"
        )
        recompute: bool = Field(False, description="drop activations and compute them again in the backward pass")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device."""
        if gpus < 2:
            raise Impossible("fsdp needs at least 2 devices to share parameters out to")
        return Layout(data=gpus, shard=self.options.shard, recompute=self.options.recompute)


@hookimpl
def harness_strategies():
    return [FSDP]
