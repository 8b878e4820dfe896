"""Devices as a grid of data x pipeline x tensor: who cuts layers together, who exchanges gradients, who hands on.

Neighbours in rank cut layers between them, then come replicas, then stages: what talks most stays inside a node.

Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", section 3, takeaway 1;
the order is Megatron-LM's own (tensor, data, pipeline).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from harness.api.strategy import Layout
from harness.costs.tracing import TensorPlan, tensor_plan

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

AXES = ("pipeline", "data", "tensor")


@dataclass(frozen=True)
class Grid:
    """Where a device stands.

    Attributes:
        data, pipeline, tensor: this device's number along each axis.
    """

    mesh: DeviceMesh
    data: int
    pipeline: int
    tensor: int

    @classmethod
    def of(cls, layout: Layout, device_type: str, rank: int) -> Grid:
        """Make the groups of all axes; every process of the worker calls it."""
        mesh = init_device_mesh(device_type, (layout.pipeline, layout.data, layout.tensor), mesh_dim_names=AXES)
        return cls(mesh, *coordinates(layout, rank))

    def group(self, axis: str) -> dist.ProcessGroup:
        """Return the process group of the devices that differ from this one along one axis only."""
        return self.mesh.get_group(axis)

    def own_stages(self, layout: Layout) -> range:
        """Return the numbers of this device's stages."""
        return range(self.pipeline, layout.stages, layout.pipeline)

    def sum_over_parts(self, tensor: torch.Tensor) -> None:
        """Add up in place what the devices of one replica hold."""
        for axis in ("tensor", "pipeline"):
            if self.mesh[axis].size() > 1:
                dist.all_reduce(tensor, group=self.group(axis))


def coordinates(layout: Layout, rank: int) -> tuple[int, int, int]:
    """Return a rank's numbers along data, pipeline and tensor."""
    rest, tensor = divmod(rank, layout.tensor)
    pipeline, data = divmod(rest, layout.data)
    return data, pipeline, tensor


def rank_at(layout: Layout, data: int, pipeline: int, tensor: int) -> int:
    """Return the rank at a place of the grid."""
    return (pipeline * layout.data + data) * layout.tensor + tensor


class CutLayers:
    """A module whose linear layers are cut over the grid's tensor axis, and what their exchanges send."""

    def __init__(self, module: nn.Module, grid: Grid) -> None:
        self.ways = grid.mesh["tensor"].size()
        self.plan = tensor_plan(module, self.ways)
        self._summed: dict[nn.Module, int] = {}
        styles = {"colwise": ColwiseParallel, "rowwise": RowwiseParallel}
        if self.plan:
            parallelize_module(module, grid.mesh["tensor"], {name: styles[cut]() for name, cut in self.plan.items()})
        self._hooks: list[RemovableHandle] = []
        for name, cut in self.plan.items():
            layer = module.get_submodule(name)
            note = layer.register_forward_pre_hook if cut == "colwise" else layer.register_forward_hook
            self._hooks.append(note(self._note_input if cut == "colwise" else self._note_output))

    def _note_input(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        # The gradient of what a layer cut by outputs is given is a sum; a batch of data has none.
        if inputs[0].requires_grad:
            self._note(layer, inputs[0])

    def _note_output(self, layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        self._note(layer, output)

    def _note(self, layer: nn.Module, summed: torch.Tensor) -> None:
        self._summed[layer] = max(self._summed.get(layer, 0), summed.numel() * summed.element_size())

    def sent_bytes(self, pieces: int) -> float:
        """Return a ring's share of what is summed over the axis in both passes of so many pieces."""
        share: float = 2 * (self.ways - 1) / self.ways
        return share * pieces * sum(self._summed.values())

    def settle(self) -> None:
        """Note no more: every hook costs Python time in each step."""
        for hook in self._hooks:
            hook.remove()


def describe_cuts(plan: TensorPlan, ways: int) -> str:
    """Return which layers are cut, in words."""
    cuts = ", ".join(f"{name} ({cut})" for name, cut in plan.items()) or "no layer divides evenly"
    return f"tensor parallelism over {ways}: {cuts}; its exchanges lie inside layers and count as computing"
