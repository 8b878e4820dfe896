"""Hybrid sharding: parameters are shared out inside a group of neighbours, and groups are replicas of each other."""

from __future__ import annotations

from pydantic import Field

from harness import Impossible, Layout, Options, Strategy, hookimpl

USUAL_NODE = 8
"""Devices of most nodes with GPUs; chosen as the largest group where nobody says otherwise."""


class HSDP(Strategy):
    """FSDP inside each node, data parallelism between nodes. It must train exactly like `single`.

    Neighbours of one `group` gather layers from each other and scatter gradients to each other, over the links of their
    node. What lasts falls to 1/group. Only a device's part of the gradient, 1/group of it, crosses the nodes: it is
    averaged over the devices that hold the same part.

    Source: Zhao et al. 2023, "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", section 3.2.2.
    """

    name = "hsdp"
    also_known_as = ("hybrid-sharding", "hybrid-shard", "hybrid-sharded-data-parallel")
    suggested_for = ("mics", "zero++")
    equals = "single"

    class Options(Options):
        """How large a group is, and what is computed twice."""

        group: int | None = Field(
            None,
            ge=2,
            description="neighbours that share parameters out, as a rule those of a node; default: the most that make "
            f"several groups, up to {USUAL_NODE}",
        )
        recompute: bool = Field(False, description="drop activations and compute them again in the backward pass")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device, in groups of neighbours.

        Raises:
            Impossible: there are not several equal groups.
        """
        sizes = [size for size in range(2, gpus // 2 + 1) if gpus % size == 0]
        if not sizes:
            raise Impossible(f"hsdp needs several groups of at least 2 devices each, which {gpus} devices do not make")
        group = self.options.group or max((size for size in sizes if size <= USUAL_NODE), default=sizes[0])
        if group not in sizes:
            allowed = ", ".join(str(size) for size in sizes)
            raise Impossible(f"{gpus} devices do not make several groups of {group}; set group to one of {allowed}")
        return Layout(data=gpus, shard="parameters", shard_group=group, recompute=self.options.recompute)


@hookimpl
def harness_strategies():
    return [HSDP]
