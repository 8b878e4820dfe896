"""Layers cut into stages, run by torch.distributed.pipelining's runtime from the strategy's own table of actions."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from harness.api.schedules import check_table
from harness.api.strategy import Batch, Table
from harness.core.errors import Impossible
from harness.core.not_known import Hurdle, NotKnown
from harness.core.outcome import CountedDram
from harness.core.step_parts import Part
from harness.core.streams import stream_seed
from harness.core.text import Text
from harness.costs.memory import named_sizes
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.real.layouts.agree import found_by_all
from harness.engines.real.layouts.chain_cut import ChainCut
from harness.engines.real.layouts.grid import Grid, rank_at
from harness.engines.real.layouts.layer_cut import LayerCut
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.real.layouts.parts import Parts, average_gradients, parts_replica, same_buffers
from harness.engines.real.layouts.private import PassSpan, StagePlace, make_runtime, timed_stage
from harness.engines.shared.dram_count import count_dram
from harness.engines.shared.layer_timing import is_plain, parted
from harness.engines.shared.pieces import Piece, make_pieces
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.engines.shared.trace_or_find import shape_of
from harness.workloads.batches import Inputs

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import _PipelineScheduleRuntime


class Pipeline(OneDevice):
    """This device's stages; replicas of the pipeline average their gradients after it has run empty.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", sections 2 and 3.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.grid = Grid.of(setup.layout, self.replica.device.type, rank)
        self.number = self.grid.data
        self.cut = self._cut()
        self.placement = self.cut.placement
        self.last = setup.layout.stages - 1 in self.grid.own_stages(setup.layout)
        self.replica = parts_replica(setup, self.cut.trained, None, self.replica, self.cut.names)
        self.parts: Parts = self.replica.module  # type: ignore[assignment]
        self.replica.norm_shares = self.cut.norm_shares(self.parts)
        self.replica.sum_over_ranks = self.grid.sum_over_parts
        self._runtimes: dict[tuple[int, ...], tuple[_PipelineScheduleRuntime, list[PipelineStage]]] = {}
        self._spans: list[PassSpan] = []
        self._gathered: list[tuple[Inputs, torch.Tensor, float | torch.Tensor]] = []

    def _cut(self) -> LayerCut | ChainCut:
        """Cut a plain list of layers as such, anything else as a chain of calls."""
        inputs, _, _ = self.replica.gather(Piece(np.arange(min(2, self.setup.num_train)), 1.0))
        with self.replica.autocast():
            plain = found_by_all(partial(is_plain, self.replica.module, inputs))
        return (LayerCut if plain else ChainCut)(self.setup, self.replica, self.grid, self.rank)

    def _table(self, microbatches: int) -> Table:
        layout = self.setup.layout
        assert layout.schedule is not None
        table = layout.schedule(layout.pipeline, microbatches)
        check_table(table, layout.stages, microbatches)
        return table

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return micro-batches: of equal shape, the last one padded, where that changes nothing; else cut evenly."""
        part, size = self.part(batch), self.setup.cell.micro_batch_size
        if len(part) == 0:  # the other replicas had enough for themselves: pass something through, and count nothing
            return [Piece(np.zeros(size, dtype=np.int64), np.zeros(size))]
        return make_pieces(part, self.weight(batch), size, pad=self.cut.fills_up)

    def seed(self, batch: Batch) -> None:
        """Give the stages the streams of this step that they draw from."""
        if self.draws:
            self.cut.begin(partial(stream_seed, self.setup.cell.seed, "dropout", self.worker, batch.step))

    @property
    def reads(self) -> bool:
        """Whether this stage takes inputs or targets."""
        return self.cut.needs_inputs(self.last)

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Run the table; every stage keeps its own gradients, the last one knows the loss."""
        replicated = self.setup.layout.data > 1
        if replicated:
            same_buffers(self.replica, self.grid.group("data"), source=self._rank_of(self.grid.pipeline))
        pieces = self.pieces(batch)
        self.seed(batch)
        runtime, _ = self._runtime(tuple(len(piece.indices) for piece in pieces))
        losses: list[torch.Tensor] = []
        start = self.ledger.stamp()
        self._run(runtime, pieces, losses)
        self._account(start)
        if self.cut.shares:
            with self.ledger.span(Part.COMMUNICATION, "exchange"):
                self.cut.share_gradients()
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
        with self.ledger.span(Part.INPUT):
            self._gathered = [self.replica.gather(piece) for piece in pieces] if self.reads else []
        args, keywords = self.cut.given([inputs for inputs, _, _ in self._gathered])
        # torch cuts targets as it cuts inputs, the first ones the longest; these say which micro-batch they are of.
        numbers = [torch.full((len(piece.indices),), number) for number, piece in enumerate(pieces)]
        targets = torch.cat(numbers) if self.last else None
        with self.replica.autocast():
            runtime.step(*args, **keywords, target=targets, losses=losses if self.last else None, return_outputs=False)

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

    def _runtime(self, sizes: tuple[int, ...]) -> tuple[_PipelineScheduleRuntime, list[PipelineStage]]:
        """Return torch's runtime for micro-batches of so many samples; the last batch of an epoch may have fewer."""
        key = sizes if self.cut.shapes(0) is not None else (len(sizes),)
        if key not in self._runtimes:
            device, group = self.replica.device, self.grid.group("pipeline")
            layout, stages = self.setup.layout, []
            for number, module in zip(self.grid.own_stages(layout), self.cut.stages, strict=True):
                place = StagePlace(number, layout.stages, device, group)
                stages.append(timed_stage(place, module, self.ledger, self._spans, sizes, self.cut.shapes(number)))
            runtime = make_runtime(stages, self._table(len(sizes)), len(sizes), self._loss)
            self._runtimes[key] = (runtime, stages)
        return self._runtimes[key]

    def _loss(self, outputs: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
        """Torch cuts the target for us; we give it the micro-batch's number, so that weights travel along."""
        _, targets, weight = self._gathered[int(numbers[0])]
        return self.replica.loss(outputs, targets, weight)

    def whole(self) -> Replica:
        """Bring all stages of the first replica together on rank 0; off the clock."""
        with torch.no_grad():
            return self.cut.whole() or self.replica

    def _rank_of(self, pipeline: int, first: bool = False) -> int:
        """Return the rank of the first replica's device at a place in the pipeline."""
        return rank_at(self.setup.layout, 0, pipeline, 0 if first else self.grid.tensor)

    def dram(self) -> CountedDram | NotKnown:
        """Count the tensors of the fullest device; not known where stages are made of less than the layers counted."""
        shape = shape_of(self.setup)
        if isinstance(shape, NotKnown):
            return shape
        layers = [layer.name for layer in shape.layers]
        try:
            sizes = named_sizes(self.cut.placement, layers, self.setup.layout.stages)
        except Impossible as error:
            return NotKnown(Hurdle.COUNT, Text(str(error)))
        return count_dram(self.setup, parted(layers, sizes))

    def bytes_sent_per_step(self) -> float:
        """Return the mean over devices: activations, their gradients, what cut layers and replicas sum up."""
        layout, n = self.setup.layout, self.setup.layout.data
        stages = next(iter(self._runtimes.values()))[1] if self._runtimes else []
        microbatches = -(-self.setup.cell.batch_size // self.setup.cell.micro_batch_size)
        sent = 2.0 * microbatches * sum(stage.output_bytes for stage in stages if not stage.is_last)
        sent += self.cut.sent_bytes(microbatches)
        sent += 2 * (n - 1) / n * float(self.replica.num_parameters * self.replica.dtype.itemsize)
        total = torch.tensor([sent], dtype=torch.float64, device=self.replica.device)
        dist.all_reduce(total)
        return float(total) / layout.devices

    def notes(self) -> list[str]:
        """Print the cut: layers, parameters and tensors of each stage, and which layers are cut themselves."""
        masks = ["stages draw dropout's masks each for itself: other masks than a virtual run draws"]
        return self.cut.notes + (masks if self.draws else [])

    def settle(self) -> None:
        """Keep no hooks."""
        self.cut.settle()

    def close(self) -> None:
        """Let go of torch's runtimes, which hold the process groups."""
        self._runtimes.clear()
        del self.cut, self.parts, self.replica, self.grid
        gc.collect()
