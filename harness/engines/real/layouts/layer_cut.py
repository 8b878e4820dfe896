"""A list of layers, cut into the stages of a pipeline by cutting the list."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from harness.costs.memory import Placement
from harness.costs.tracing import tensor_plan
from harness.engines.real.layouts.agree import found_by_all, found_by_first
from harness.engines.real.layouts.assemble import Assembly
from harness.engines.real.layouts.grid import CutLayers, Grid, describe_cuts
from harness.engines.real.layouts.parts import Parts, whole
from harness.engines.real.layouts.private import StageShapes
from harness.engines.shared.chain.events import Chain
from harness.engines.shared.chain.try_on import find_chain, tried_on
from harness.engines.shared.dram_count import stage_limits
from harness.engines.shared.kept_times import kept_costs
from harness.engines.shared.layer_timing import describe_stages, measure_layers, place
from harness.engines.shared.padding import fills_up
from harness.engines.shared.pieces import Piece
from harness.engines.shared.replica import Replica
from harness.engines.shared.sample_order import first_rows
from harness.engines.shared.setup import Setup
from harness.workloads.batches import Inputs


class LayerCut:
    """This device's stages of a list of layers; each may be cut over the grid's tensor axis too.

    Attributes:
        stages: of this device, in their order.
        trained: the module whose parameters are this device's.
        placement: names of the layers of each stage, of all devices.
        fills_up: whether the last micro-batch may be padded.
    """

    def __init__(self, setup: Setup, replica: Replica, grid: Grid, rank: int) -> None:
        self.setup, self.grid, self.rank = setup, grid, rank
        self.fills_up = fills_up(setup, replica.module)
        probe = Piece(first_rows(setup.cell.micro_batch_size, setup.num_train), 1.0)
        names = [name for name, _ in replica.module.named_children()]

        def found_place() -> Placement:
            costs = kept_costs(setup.cell, setup.layout, names, lambda: measure_layers(replica, probe))
            return place(setup.layout, costs, stage_limits(setup))

        self.placement: Placement = found_by_first(rank, found_place)
        self._chain: Chain | None = None
        if not self.fills_up:
            self._chain = found_by_all(lambda: find_chain(replica.module, names, tried_on(setup, replica))[0])
        self.notes = list(_descriptions(replica.module, self.placement, setup.layout.tensor))
        owners = {name: k for k, names in enumerate(self.placement) for name in names}
        self._device = replica.device
        self._assembly = Assembly(replica.module, _by_layer(replica.module, owners), setup.layout, rank)
        self.stages = nn.ModuleList(_stage(replica.module, self.placement[k]) for k in grid.own_stages(setup.layout))
        self.trained: nn.Module = self.stages
        self._tensor_cuts = [CutLayers(stage, grid) for stage in self.stages]

    def shapes(self, stage: int) -> StageShapes | None:
        """Return what a stage takes and gives; None where torch finds it out: all micro-batches are of one size."""
        if self._chain is None:
            return None
        chain = self._chain
        ends = [sum(len(names) for names in self.placement[:k]) for k in range(len(self.placement) + 1)]

        def behind(event: int, samples: int) -> tuple[torch.Tensor, ...]:
            leaf = chain.output if event == len(chain.events) else chain.leaf((event - 1, 0))
            return (leaf.example(samples),) if event else ()

        return StageShapes(lambda n: behind(ends[stage], n), lambda n: behind(ends[stage + 1], n))

    def given(self, inputs: Sequence[Inputs]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Return what the runtime passes to this device's stages: the first one gets the data."""
        first = self.grid.pipeline == 0
        return (torch.cat([part for part in inputs if isinstance(part, torch.Tensor)]),) if first else (), {}

    def needs_inputs(self, last: bool) -> bool:
        """Whether this device reads samples: inputs on the first stage, targets on the last."""
        return self.grid.pipeline == 0 or last

    def begin(self, seed_of: Callable[..., int]) -> None:
        """Draw the masks of a step, other ones on each device of the pipeline, but the same where layers are cut.

        Args:
            seed_of: returns the seed of a purpose within this step.
        """
        torch.manual_seed(seed_of(self.grid.data * self.setup.layout.pipeline + self.grid.pipeline))

    @property
    def names(self) -> list[str]:
        """What the parameters that are trained here are called in the whole model."""
        named = (pair for stage in self.stages for pair in stage.named_parameters())
        return [name for name, parameter in named if parameter.requires_grad]

    shares = False

    def share_gradients(self) -> None:
        """Sum nothing: no parameter is held by two stages."""

    def norm_shares(self, parts: Parts) -> list[float]:
        """Return which share of each squared norm is this device's to add."""
        return parts.norm_shares(copies=self.setup.layout.tensor)

    def sent_bytes(self, microbatches: int) -> float:
        """Return what cut layers send in a step beside what stages send each other."""
        return sum(cuts.sent_bytes(microbatches) for cuts in self._tensor_cuts)

    def settle(self) -> None:
        """Keep no hooks."""
        for cuts in self._tensor_cuts:
            cuts.settle()

    def whole(self) -> Replica | None:
        """Bring all stages of the first replica together on rank 0; None elsewhere."""
        mine: dict[str, torch.Tensor] = {}
        for stage in self.stages:  # a parameter that is cut itself is gathered, by all devices that hold a part
            mine |= {name: whole(p) for name, p in stage.named_parameters()}
            mine |= dict(stage.named_buffers())
        return self._assembly.bring(self.setup, mine, self._device)


def _by_layer(model: nn.Module, owners: dict[str, int]) -> dict[str, int]:
    tensors = (*dict(model.named_parameters()), *dict(model.named_buffers()))
    return {name: owners[name.partition(".")[0]] for name in tensors}


def _descriptions(model: nn.Module, placement: Placement, tensor: int) -> Iterator[str]:
    yield describe_stages(model, placement)
    if tensor > 1:
        plans = [tensor_plan(_stage(model, names), tensor) for names in placement]
        yield describe_cuts({name: cut for plan in plans for name, cut in plan.items()}, tensor)


def _stage(model: nn.Module, names: Sequence[str]) -> nn.Sequential:
    children = dict(model.named_children())
    stage = nn.Sequential()
    for name in names:
        stage.add_module(name, children[name])
    return stage
