"""Layers cut into stages, run by torch.distributed.pipelining's runtime from the strategy's own table of actions."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import nn

from harness.api.schedules import check_table
from harness.api.strategy import Batch, Table
from harness.core.step_parts import Part
from harness.core.streams import stream_seed
from harness.costs.memory import Placement
from harness.costs.tracing import tensor_plan
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.real.layouts.grid import CutLayers, Grid, describe_cuts, rank_at
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import Parts, assembled, average_gradients, parts_replica, same_buffers, whole
from harness.engines.real.layouts.private import PassSpan, make_runtime, timed_stage
from harness.engines.shared.dram_count import stage_limits
from harness.engines.shared.layer_timing import describe_stages, measure_layers, place
from harness.engines.shared.replica import Piece, Replica, make_pieces
from harness.engines.shared.sample_order import first_rows
from harness.engines.shared.setup import Setup

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime


class Pipeline(OneDevice):
    """This device's stages; replicas of the pipeline average their gradients after it has run empty.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", sections 2 and 3.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        layout, model = setup.layout, self.replica.module
        self.grid = Grid.of(layout, self.replica.device.type, rank)
        self.number = self.grid.data
        self.placement = self._agree_on_placement()
        self.last = layout.stages - 1 in self._own
        self.sizes = _stage_sizes(model, self.placement)
        self._told = list(_descriptions(model, self.placement, layout.tensor))
        self.stages = nn.ModuleList(_stage(model, self.placement[k]) for k in self._own)
        self.cuts = [CutLayers(stage, self.grid) for stage in self.stages]
        self.replica = parts_replica(setup, self.stages, None, self.replica)
        self.parts: Parts = self.replica.module  # type: ignore[assignment]
        self.replica.norm_shares = self.parts.norm_shares(copies=layout.tensor)
        self.replica.sum_over_ranks = self.grid.sum_over_parts
        self._runtimes: dict[int, tuple[_PipelineScheduleRuntime, list[PipelineStage]]] = {}
        self._spans: list[PassSpan] = []
        self._positions: tuple[Any, Any] = (None, None)

    @property
    def _own(self) -> range:
        """Numbers of this device's stages."""
        return range(self.grid.pipeline, self.setup.layout.stages, self.setup.layout.pipeline)

    def _table(self, microbatches: int) -> Table:
        layout = self.setup.layout
        assert layout.schedule is not None
        table = layout.schedule(layout.pipeline, microbatches)
        check_table(table, layout.stages, microbatches)
        return table

    def _agree_on_placement(self) -> Placement:
        """Measure on rank 0 and tell everybody: two measurements would cut differently."""
        found: list[Any] = [None]
        if self.rank == 0:
            probe = Piece(first_rows(self.setup.cell.micro_batch_size, self.setup.num_train), 1.0)
            found = [place(self.setup.layout, measure_layers(self.replica, probe), stage_limits(self.setup))]
        dist.broadcast_object_list(found, src=0)
        agreed: Placement = found[0]
        return agreed

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return micro-batches of equal shape, the last one padded with samples of weight 0."""
        part, size = self.part(batch), self.setup.cell.micro_batch_size
        if len(part) == 0:  # the other replicas had enough for themselves: pass something through, and count nothing
            return [Piece(np.zeros(size, dtype=np.int64), np.zeros(size))]
        return make_pieces(part, self.weight(batch), size, pad=True)

    def seed(self, batch: Batch) -> None:
        """Give every stage dropout masks of its own, but the same ones to all devices that cut it between them."""
        if self.draws:
            number = self.number * self.setup.layout.pipeline + self.grid.pipeline
            torch.manual_seed(stream_seed(self.setup.cell.seed, "dropout", self.worker, batch.step, number))

    @property
    def reads(self) -> bool:
        """Whether this stage takes inputs or targets."""
        return self.grid.pipeline == 0 or self.last

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Run the table; every stage keeps its own gradients, the last one knows the loss."""
        replicated = self.setup.layout.data > 1
        if replicated:
            same_buffers(self.replica, self.grid.group("data"), source=self._rank_of(self.grid.pipeline))
        pieces = self.pieces(batch)
        self.seed(batch)
        runtime, _ = self._runtime(len(pieces))
        losses: list[torch.Tensor] = []
        start = self.ledger.stamp()
        self._run(runtime, pieces, losses)
        self._account(start)
        self.parts.take_gradients()
        gradients = self.replica.take_gradients()
        if replicated:
            self.ledger.moment("_ready_s", self.ledger.stamp())
            with self.ledger.span(Part.COMMUNICATION, "exchange"):
                gradients = average_gradients(gradients, self.grid.group("data"), self.setup.layout.bucket_bytes)
        loss = torch.stack([x.detach() for x in losses]).sum() if self.last else None
        samples = sum(piece.num_samples for piece in pieces) if self.last and self.grid.tensor == 0 else 0
        return gradients, loss, samples

    def _run(self, runtime: _PipelineScheduleRuntime, pieces: Sequence[Piece], losses: list[torch.Tensor]) -> None:
        first, size = self.grid.pipeline == 0, self.setup.cell.micro_batch_size
        with self.ledger.span(Part.INPUT):
            gathered = [self.replica.gather(piece) for piece in pieces] if first or self.last else []
        inputs = (torch.cat([g[0] for g in gathered]),) if first else ()
        positions = torch.arange(len(pieces) * size) if self.last else None
        self._positions = (gathered, size)
        with self.replica.autocast():
            runtime.step(*inputs, target=positions, losses=losses if self.last else None, return_outputs=False)

    def _account(self, start: Stamp) -> None:
        end = self.ledger.stamp()
        for action, began, ended in self._spans:
            self.ledger.add(Part.COMPUTE, began, ended, self._name(*action), awaits_input=True)
        for number, (action, began, ended) in enumerate(self._spans):
            self.ledger.moment(f"_action_{number}", began)
            self.ledger.moment(f"_ended_{number}", ended)
            self.ledger.row.setdefault("_actions", []).append(action)
        self.ledger.row["_pipeline"] = (self.grid.data, self.grid.tensor)
        self.ledger.row["_group"] = (self.grid.pipeline, self.grid.tensor)
        self.ledger.moment("_step_start", start)
        self.ledger.moment("_step_end", end)
        self._spans.clear()

    def _name(self, kind: str, stage: int, microbatch: int) -> str:
        """Return what a trace calls a pass, as the virtual engine does."""
        where = f" of stage {stage}" if self.setup.layout.chunks > 1 else ""
        return f"{kind.replace('_', ' ')} {microbatch}{where}"

    def _runtime(self, microbatches: int) -> tuple[_PipelineScheduleRuntime, list[PipelineStage]]:
        """Return torch's runtime for so many micro-batches; the last batch of an epoch may have fewer."""
        if microbatches not in self._runtimes:
            group, device, count = self.grid.group("pipeline"), self.replica.device, self.setup.layout.stages
            stages = [
                timed_stage(self.ledger, module, number, count, device, group, self._spans)
                for number, module in zip(self._own, self.stages, strict=True)
            ]
            runtime = make_runtime(stages, self._table(microbatches), microbatches, self._loss)
            self._runtimes[microbatches] = (runtime, stages)
        return self._runtimes[microbatches]

    def _loss(self, outputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Torch cuts the target for us; we give it positions, so that weights travel along with targets."""
        gathered, size = self._positions
        _, targets, weight = gathered[int(positions[0]) // size]
        return self.replica.loss(outputs, targets, weight)

    def whole(self) -> Replica:
        """Bring all stages of the first replica together on rank 0; off the clock."""
        with torch.no_grad():
            full = {k: torch.cat([whole(p) for p in stage.parameters()]) for k, stage in self._stages_with_parameters()}
            kept = {k: _buffers(stage, self.replica.dtype) for k, stage in zip(self._own, self.stages, strict=True)}
            vectors = [self._bring(k, full.get(k), size) for k, (size, _) in enumerate(self.sizes)]
            buffers = [self._bring(k, kept.get(k), size) for k, (_, size) in enumerate(self.sizes)]
        if self.rank > 0:
            return self.replica
        return assembled(self.setup, vectors, torch.cat(buffers))

    def _stages_with_parameters(self) -> list[tuple[int, nn.Module]]:
        numbered = zip(self._own, self.stages, strict=True)
        return [(k, stage) for k, stage in numbered if next(stage.parameters(), None) is not None]

    def _bring(self, stage: int, mine: torch.Tensor | None, size: int) -> torch.Tensor:
        """Send a stage's vector to rank 0; elsewhere the answer means nothing."""
        source = self._rank_of(stage % self.setup.layout.pipeline, first=True)
        size = size if self.rank in (0, source) else 0
        vector = mine if mine is not None else torch.empty(size, dtype=self.replica.dtype, device=self.replica.device)
        if size and source > 0 and self.rank == source:
            dist.send(vector, 0)
        elif size and source > 0 and self.rank == 0:
            dist.recv(vector, source)
        return vector

    def _rank_of(self, pipeline: int, first: bool = False) -> int:
        """Return the rank of the first replica's device at a place in the pipeline."""
        return rank_at(self.setup.layout, 0, pipeline, 0 if first else self.grid.tensor)

    def bytes_sent_per_step(self) -> float:
        """Return the mean over devices: activations, their gradients, what cut layers and replicas sum up."""
        layout, n = self.setup.layout, self.setup.layout.data
        stages = next(iter(self._runtimes.values()))[1] if self._runtimes else []
        microbatches = -(-self.setup.cell.batch_size // self.setup.cell.micro_batch_size)
        sent = 2.0 * microbatches * sum(stage.output_bytes for stage in stages if not stage.is_last)
        sent += sum(cuts.sent_bytes(microbatches) for cuts in self.cuts)
        sent += 2 * (n - 1) / n * float(self.replica.num_parameters * self.replica.dtype.itemsize)
        total = torch.tensor([sent], dtype=torch.float64, device=self.replica.device)
        dist.all_reduce(total)
        return float(total) / layout.devices

    def notes(self) -> list[str]:
        """Print the cut: layers, parameters and tensors of each stage, and which layers are cut themselves."""
        masks = ["stages draw dropout's masks each for itself: other masks than a virtual run draws"]
        return self._told + (masks if self.draws else [])

    def settle(self) -> None:
        """Keep no hooks."""
        for cuts in self.cuts:
            cuts.settle()

    def close(self) -> None:
        """Let go of torch's runtimes, which hold the process groups."""
        self._runtimes.clear()
        del self.stages, self.cuts, self.parts, self.replica, self.grid
        gc.collect()


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


def _buffers(stage: nn.Module, dtype: torch.dtype) -> torch.Tensor | None:
    vectors = [b.detach().to(dtype).reshape(-1) for b in stage.buffers()]
    return torch.cat(vectors) if vectors else None


def _stage_sizes(module: nn.Module, placement: Placement) -> list[tuple[int, int]]:
    children = dict(module.named_children())
    return [
        (
            sum(p.numel() for name in stage for p in children[name].parameters()),
            sum(b.numel() for name in stage for b in children[name].buffers()),
        )
        for stage in placement
    ]
