"""Any module, cut into the stages of a pipeline between the calls of its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import torch
import torch.distributed as dist
from torch import nn

from harness.api.strategy import Layout
from harness.core.errors import Impossible
from harness.core.streams import stream_seed
from harness.costs.profiles import ModelShape
from harness.costs.tracing import is_compiled
from harness.engines.real.layouts.agree import found_by_all, found_by_first
from harness.engines.real.layouts.assemble import Assembly
from harness.engines.real.layouts.grid import Grid, rank_at
from harness.engines.real.layouts.parts import Parts
from harness.engines.real.layouts.private import StageShapes
from harness.engines.real.layouts.recompute import recompute_blocks
from harness.engines.shared.buffer_values import as_real
from harness.engines.shared.chain.chain_plan import ChainPlan, MemoryOfBlocks, describe_cut, held_by, make_chain_plan
from harness.engines.shared.chain.chain_stage import ChainStage
from harness.engines.shared.chain.events import Chain, Key
from harness.engines.shared.chain.needs import keywords
from harness.engines.shared.chain.proof import own_buffers
from harness.engines.shared.chain.try_on import find_chain, tried_on
from harness.engines.shared.dram_count import stage_limits
from harness.engines.shared.kept_times import kept_costs
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.engines.shared.trace_or_find import shape_of
from harness.workloads.batches import Inputs, joined


class ChainCut:
    """This device's stages of any module; a parameter that several stages use has its gradients summed over them.

    Every stage runs the model's own forward on all inputs, so each device reads all samples. Attributes as of
    `LayerCut`.

    Raises:
        Impossible: on every rank, where the model cannot be cut like that.
    """

    fills_up = False

    def __init__(self, setup: Setup, replica: Replica, grid: Grid, rank: int) -> None:
        self.setup, self.grid, self.rank, self._device = setup, grid, rank, replica.device
        _refuse(setup.layout)
        self._generators = replica.generators
        batches = tried_on(setup, replica)
        proof_seed = partial(stream_seed, setup.cell.seed, "proof") if replica.draws else None
        plan: ChainPlan = found_by_first(
            rank,
            lambda: make_chain_plan(
                self._build,
                setup.layout,
                batches,
                replica.precision,
                _memory_limits(setup),
                proof_seed,
                partial(kept_costs, setup.cell, setup.layout),
            ),
        )
        names = list(dict.fromkeys(plan.blocks))
        self.chain = found_by_all(lambda: _same_chain(plan, find_chain(replica.module, names, batches)[0]))
        self.plan, self.placement, self.by_keyword = plan, plan.placement, isinstance(batches.inputs, dict)
        self.notes = [describe_cut(replica.module, plan)]
        if is_compiled(replica.module):
            self.notes.append("stages run uncompiled: torch.compile takes no model that is cut between its blocks")
        self._holders = held_by(plan, replica.module)
        self.stages = nn.ModuleList(self._stage(number) for number in grid.own_stages(setup.layout))
        self.trained: nn.Module = HeldParameters(self.stages)
        self._assembly = Assembly(replica.module, self._senders(replica.module), setup.layout, rank)
        self._shared = _SharedGradients(setup.layout, grid, self._holders, self.trained)

    def _build(self) -> nn.Module:
        return self.setup.replica().module.train()

    def _stage(self, number: int) -> ChainStage:
        stage = ChainStage(self._build(), self.chain, self.plan.cuts[number], self.by_keyword)
        for parameter in stage.kept().values():
            parameter.data = parameter.data.contiguous()
        stage.let_go()
        if self.setup.layout.recompute:
            recompute_blocks(stage.own_blocks(), self._generators)
        return stage

    def _senders(self, model: nn.Module) -> dict[str, int]:
        """Return the stage that sends each tensor to rank 0: the first holder; of a buffer, who calls its block."""
        senders = {name: stages[0] for name, stages in self._holders.items()}
        senders |= {name: self.setup.layout.stages - 1 for name, _ in model.named_buffers()}
        for number, cut in enumerate(self.plan.cuts):
            calls = ChainStage(model, self.chain, cut, self.by_keyword)
            senders |= dict.fromkeys(own_buffers(calls), number)
        return senders

    # -- a step ------------------------------------------------------------------------------------------------------

    def shapes(self, stage: int) -> StageShapes:
        """Return what a stage takes and gives."""
        cut = self.plan.cuts[stage]
        return StageShapes(lambda n: self._examples(cut.takes, n), lambda n: self._given_on(stage, n))

    def _examples(self, keys: Sequence[Key], samples: int) -> tuple[torch.Tensor, ...]:
        return tuple(self.chain.leaf(key).example(samples) for key in keys)

    def _given_on(self, stage: int, samples: int) -> tuple[torch.Tensor, ...]:
        cut = self.plan.cuts[stage]
        last = cut.end == len(self.chain.events)
        return (self.chain.output.example(samples),) if last else self._examples(cut.gives, samples)

    def given(self, inputs: Sequence[Inputs]) -> tuple[tuple[torch.Tensor, ...], dict[str, torch.Tensor]]:
        """Return what the runtime passes to this device's stages: all inputs to each, by keyword."""
        return (), keywords(joined(list(inputs)))

    def needs_inputs(self, last: bool) -> bool:
        """Whether this device reads samples: always, since what lies between blocks may use them anywhere."""
        return True

    def begin(self, seed_of: Callable[..., int]) -> None:
        """Let every stage draw from streams of the step, the micro-batch and the event.

        Args:
            seed_of: returns the seed of a purpose within this step.
        """
        for stage in self.stages:
            assert isinstance(stage, ChainStage)
            stage.seeds = partial(seed_of, self.grid.data)

    @property
    def names(self) -> list[str]:
        """What the parameters that are trained here are called in the whole model."""
        assert isinstance(self.trained, HeldParameters)
        return [name for name, parameter in self.trained.kept.items() if parameter.requires_grad]

    def share_gradients(self) -> None:
        """Sum the gradients of parameters that several stages hold."""
        self._shared.add_up()

    @property
    def shares(self) -> bool:
        """Whether there are such parameters."""
        return self._shared.any

    def norm_shares(self, parts: Parts) -> list[float]:
        """Return which share of each squared norm is this device's to add: a shared parameter counts once."""
        pipeline = self.setup.layout.pipeline
        held = {name: len({k % pipeline for k in stages}) for name, stages in self._holders.items()}
        assert isinstance(self.trained, HeldParameters)
        return [1 / held[name] for name, p in self.trained.kept.items() if p.requires_grad]

    def sent_bytes(self, microbatches: int) -> float:
        """Return what sharing gradients sends in a step, beside what stages send each other."""
        return self._shared.sent_bytes

    def settle(self) -> None:
        """Keep no hooks: there are none."""

    def whole(self) -> Replica | None:
        """Bring all stages of the first replica together on rank 0; None elsewhere."""
        mine: dict[str, torch.Tensor] = {}
        for stage in self.stages:
            assert isinstance(stage, ChainStage)
            buffers = dict(stage.model.named_buffers())
            mine |= stage.kept()
            mine |= buffers if stage.is_last else {name: buffers[name] for name in own_buffers(stage)}
        return self._assembly.bring(self.setup, mine, self._device)


def _memory_limits(setup: Setup) -> MemoryOfBlocks | None:
    limits, shape = stage_limits(setup), shape_of(setup) if setup.cell.dram_bytes is not None else None
    if limits is None or not isinstance(shape, ModelShape):
        return None
    return MemoryOfBlocks(tuple(layer.name for layer in shape.layers), limits)


def _refuse(layout: Layout) -> None:
    if layout.tensor > 1:
        raise Impossible(
            "tensor parallelism inside a pipeline needs an nn.Sequential whose layers share nothing. Set tensor = 1, "
            "or give gpt a head of its own: tied = false"
        )
    assert layout.schedule is not None
    kinds = {action.kind for order in layout.schedule(layout.pipeline, layout.pipeline) for action in order}
    if "backward_weight" in kinds:
        raise Impossible(
            "zero-bubble schedules compute the gradients of weights apart, which torch can do for an nn.Sequential "
            'whose layers share nothing only. Set schedule = "1f1b" or "gpipe", or give gpt a head of its own: '
            "tied = false"
        )


def _same_chain(plan: ChainPlan, chain: Chain) -> Chain:
    if tuple(chain.names) != plan.blocks:
        raise Impossible(
            "the order of calls is another one in another process. A pipeline needs the same everywhere and at each "
            "step. Use a strategy that keeps the model whole, such as sync-ddp"
        )
    return chain


class HeldParameters(nn.Module):
    """What the stages of a device hold of whole models, each tensor once.

    Where two stages of a device hold one parameter, the second one's lies in the memory of the first one's.
    """

    def __init__(self, stages: nn.ModuleList) -> None:
        super().__init__()
        self.models = nn.ModuleList(stage.model for stage in stages)  # type: ignore[union-attr]
        self.kept: dict[str, nn.Parameter] = {}
        self.again: dict[str, list[nn.Parameter]] = {}
        for stage in stages:
            for name, parameter in stage.kept().items():  # type: ignore[operator, union-attr]
                if name in self.kept:
                    parameter.data = self.kept[name].data
                    self.again.setdefault(name, []).append(parameter)
                else:
                    self.kept[name] = parameter

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Yield what is held: the models' other parameters are empty."""
        return iter(self.kept.values())


class _SharedGradients:
    """Sums gradients of parameters that several stages hold, first on this device, then over those that hold them."""

    def __init__(self, layout: Layout, grid: Grid, holders: Mapping[str, Sequence[int]], held: HeldParameters) -> None:
        self._held = held
        places: dict[tuple[int, ...], list[str]] = {}
        for name, stages in holders.items():
            at = tuple(sorted({k % layout.pipeline for k in stages}))
            if len(at) > 1:
                places.setdefault(at, []).append(name)
        self._groups: list[tuple[dist.ProcessGroup, list[nn.Parameter]]] = []
        for at, names in sorted(places.items()):
            for data in range(layout.data):  # every rank makes every group, in the same order
                group = dist.new_group([rank_at(layout, data, pipeline, 0) for pipeline in at])
                if data == grid.data and grid.pipeline in at:
                    trained = [held.kept[name] for name in names if held.kept[name].requires_grad]
                    self._groups += [(group, trained)] if trained else []
        self.any = bool(self._groups or held.again)
        sizes = [(len(dist.get_process_group_ranks(g)), p.numel() * p.itemsize) for g, ps in self._groups for p in ps]
        self.sent_bytes: float = sum(2 * (n - 1) / n * size for n, size in sizes)

    def add_up(self) -> None:
        """Leave the sum in every holder's `.grad`; none where no holder has a gradient."""
        for name, copies in self._held.again.items():
            for copy in copies:
                _move_gradient(copy, self._held.kept[name])
        for group, parameters in self._groups:
            numbers = [_flat_gradient(p) for p in parameters]
            have = numbers[0].new_tensor([p.grad is not None for p in parameters])
            total = torch.cat([*numbers, have])
            dist.all_reduce(total, group=group)
            *parts, counts = total.split([*(part.numel() for part in numbers), len(parameters)])
            for parameter, part, count in zip(parameters, parts, counts.tolist(), strict=True):
                parameter.grad = None
                if count:
                    summed = part.view_as(as_real(parameter.detach()))
                    parameter.grad = torch.view_as_complex(summed) if parameter.is_complex() else summed


def _move_gradient(source: nn.Parameter, target: nn.Parameter) -> None:
    if source.grad is not None:
        target.grad = source.grad if target.grad is None else target.grad + source.grad
        source.grad = None


def _flat_gradient(parameter: nn.Parameter) -> torch.Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(as_real(parameter.detach())).reshape(-1)
    dense = gradient.to_dense() if gradient.layout is torch.sparse_coo else gradient
    return as_real(dense).reshape(-1)
