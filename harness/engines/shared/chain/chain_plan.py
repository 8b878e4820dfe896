"""A plan for a module of any kind as a pipeline: its events, where it is cut, and the proof that the cut is right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from harness.api.strategy import Layout
from harness.core.errors import Impossible
from harness.costs.memory import Placement, StageMemory, balance_under, named_sizes
from harness.costs.tracing import WHOLE, named_blocks
from harness.engines.shared.chain.chain_stage import ChainSlice, SeedOf
from harness.engines.shared.chain.event_times import measure_events
from harness.engines.shared.chain.needs import StageTrials
from harness.engines.shared.chain.proof import Build, prove, stages_tried
from harness.engines.shared.chain.try_on import Batches, find_chain
from harness.engines.shared.layer_timing import LayerCost


@dataclass(frozen=True)
class ChainPlan:
    """What all devices of a pipeline agree on.

    Attributes:
        blocks: names of the events' blocks, in order of the events.
        cuts: of the stages.
    """

    blocks: tuple[str, ...]
    cuts: tuple[ChainSlice, ...]

    @property
    def placement(self) -> Placement:
        """Return each stage's blocks, by their first call."""
        first = dict(reversed([(name, number) for number, name in enumerate(self.blocks)]))
        names = sorted(first, key=first.__getitem__)
        return tuple(tuple(n for n in names if cut.start <= first[n] < cut.end) for cut in self.cuts)


CostsOf = Callable[[Sequence[str], Callable[[], list[LayerCost]]], list[LayerCost]]
"""Of the events' names, and of what measures them."""


class MemoryOfBlocks(NamedTuple):
    """What stages of these blocks need, and what their devices have."""

    blocks: tuple[str, ...]
    stages: StageMemory


def block_names(model: nn.Module, layout: Layout, batches: Batches) -> list[str]:
    """Return the names of a model's blocks, as far opened as the layout's stages need.

    Raises:
        Impossible: the model is a single block, or the layout names a module that it does not have.
    """
    named = [] if isinstance(layout.placement, str) else [name for stage in layout.placement for name in stage]
    known = {name for name, _ in model.named_modules()}
    wrong = [name for name in named if name not in known]
    if wrong:
        raise Impossible(f"placement names {', '.join(wrong)}, which the model does not have")
    with batches.autocast():
        blocks = named_blocks(model, batches.inputs, fewest=layout.stages, opened=named)
    names = [name for name, block in blocks if block is not model]
    if not names:
        raise Impossible(
            f"this {type(model).__name__} cannot be cut: its forward pass calls no modules with parameters of their "
            f"own. Build it of several modules, or keep it whole: sync-ddp, fsdp"
        )
    assert WHOLE not in names or WHOLE in known
    return names


def make_chain_plan(
    build: Build,
    layout: Layout,
    batches: Batches,
    precision: str,
    memory: MemoryOfBlocks | None = None,
    seed_of: SeedOf | None = None,
    costs_of: CostsOf | None = None,
) -> ChainPlan:
    """Cut a model into the layout's stages, and prove the cut by one step.

    Args:
        build: makes the whole model, in training mode; called several times.
        memory: of stages, where their devices' has an end.
        seed_of: seeds of events where the model draws random numbers.
        costs_of: measures what events cost, or knows it; default: measures.

    Raises:
        Impossible: it cannot be cut like that; the message says why, and what to do.
    """
    model = build()
    names = block_names(model, layout, batches)
    chain, seen = find_chain(model, names, batches)
    with batches.autocast():
        measure = partial(measure_events, model, names, batches.inputs, batches.loss)
        costs = measure() if costs_of is None else costs_of(chain.names, measure)
        sizes = stage_sizes(layout, costs, memory)
        with stages_tried():
            cuts = StageTrials(model, chain, seen, batches.inputs, batches.loss).cuts(sizes)
        del model, seen
        prove(build, chain, cuts, batches.other, batches.other_loss, precision, seed_of)
    return ChainPlan(tuple(chain.names), tuple(cuts))


def stage_sizes(layout: Layout, costs: Sequence[LayerCost], memory: MemoryOfBlocks | None = None) -> list[int]:
    """Return how many events each stage runs: as the user named blocks, or so that the heaviest stage is lightest.

    Raises:
        Impossible: more stages than events, named stages that do not follow the events, or no cut that fits.
    """
    if not isinstance(layout.placement, str):
        return named_sizes(layout.placement, [cost.name for cost in costs], layout.stages)
    if layout.stages > len(costs):
        blocks = ", ".join(dict.fromkeys(cost.name for cost in costs))
        raise Impossible(
            f"{layout.stages} stages need as many blocks; the model has {len(costs)}: {blocks}. Use fewer devices, or "
            "build it of smaller modules"
        )
    by_time = layout.placement == "time"
    weights = [c.forward_s + c.backward_s if by_time else float(c.num_parameters) for c in costs]
    # Memory is counted by blocks: where one is called several times or opened, a run of calls is no run of blocks.
    counted = memory is not None and memory.blocks == tuple(cost.name for cost in costs)
    return balance_under(weights, layout.stages, memory.stages if memory is not None and counted else None)


def describe_cut(model: nn.Module, plan: ChainPlan) -> str:
    """Return what each stage runs, in words: blocks, parameters, and how many tensors it sends on."""
    stages = []
    for number, cut in enumerate(plan.cuts):
        names = list(dict.fromkeys(plan.blocks[cut.start : cut.end]))
        held = {id(p): p.numel() for name in names for p in model.get_submodule(name).parameters()}
        span = names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} blocks)"
        sends = f", sends {len(cut.gives)} tensors" if len(cut.gives) > 1 else ""
        stages.append(f"stage {number}: {span} ({sum(held.values()):,} parameters in {len(held)} tensors{sends})")
    return "; ".join(stages)


def held_by(plan: ChainPlan, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Return which stages hold each parameter, by its name in the whole model."""
    owners: dict[str, tuple[int, ...]] = {}
    for name, parameter in model.named_parameters():
        owners[name] = tuple(
            number
            for number, cut in enumerate(plan.cuts)
            if name in cut.uses or _in_blocks(model, plan.blocks[cut.start : cut.end], parameter)
        )
    return owners


def _in_blocks(model: nn.Module, names: Sequence[str], parameter: torch.Tensor) -> bool:
    blocks = [model.get_submodule(name) for name in dict.fromkeys(names)]
    return any(parameter is p for block in blocks for p in block.parameters())
