"""How torch runs one step under a layout: on one device, or on replicas that exchange while they compute.

Every runner has the same four words: gradient, step, whole (the trained model, where rank 0 evaluates it), close.
"""

from __future__ import annotations

import gc
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.api.strategy import Batch
from harness.core.not_known import NotKnown
from harness.core.outcome import CountedDram
from harness.core.step_parts import Part
from harness.core.units import MIB
from harness.costs.memory import Placement
from harness.costs.steps import USUAL_BUCKET_BYTES
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.real.layouts.execution import Execution
from harness.engines.real.layouts.recompute import recompute_blocks
from harness.engines.real.layouts.reducing import Reducing
from harness.engines.real.meetings import Meetings
from harness.engines.shared.buckets import records_graph, refuse_two_types, searches_unused
from harness.engines.shared.dram_count import count_dram
from harness.engines.shared.endpoint import Course
from harness.engines.shared.flat import Flat
from harness.engines.shared.layer_timing import blocks_of
from harness.engines.shared.pieces import Piece, even_pieces, make_pieces
from harness.engines.shared.replica import Replica, seed_step
from harness.engines.shared.sample_order import Indices, cut
from harness.engines.shared.setup import Setup
from harness.workloads.accelerator import has_queue
from harness.workloads.streamed import Streamed

WITHOUT_LIMIT = 2**50
"""Bytes of a bucket that holds all gradients, whatever the model: chosen, more than any device has."""


class OneDevice:
    """The whole model on one device: no communication.

    Attributes:
        number: of the data-parallel replica that this device belongs to.
        reducing: runs the layout's own `reduce`; None without one.
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        self.setup, self.ledger, self.worker, self.rank = setup, ledger, worker, rank
        self.number = 0
        self.replica = setup.replica()
        self.reducing: Reducing | None = None
        if setup.layout.recompute:
            recompute_blocks((block for _, block in blocks_of(self.replica)), self.replica.generators)
        self.placement: Placement | None = None
        self.execution = Execution()

    @property
    def shape(self) -> tuple[int, int]:
        """Parameters, and values in buffers."""
        return self.replica.num_parameters, self.replica.num_buffer_values

    @property
    def reads(self) -> bool:
        """Whether this device reads samples."""
        return True

    @property
    def lends_gradients(self) -> bool:
        """Whether the next gradient may overwrite the memory of this one: DDP's are views of its buckets."""
        return self.setup.layout.data > 1 and self.reducing is None

    @property
    def draws(self) -> bool:
        """Whether a forward pass in training draws random numbers."""
        return self.replica.draws

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return this replica's samples, cut into what passes forward at once.

        They are weighted so that the mean over replicas is the sum over the batch.
        """
        size = self.setup.cell.micro_batch_size
        if self.setup.shares_statistics:
            largest = -(-len(batch.indices) // self.setup.layout.data)
            return even_pieces(self.part(batch), self.weight(batch), -(-largest // size))
        return make_pieces(self.part(batch), self.weight(batch), size, pad=False)

    def part(self, batch: Batch) -> Indices:
        """Return this replica's samples of a batch."""
        return cut(batch.indices, self.setup.layout.data)[self.number]

    def weight(self, batch: Batch) -> float:
        """Return the weight of each of them."""
        return self.setup.layout.data * batch.shares / batch.counted

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Return the gradients by parameter, the loss, and the number of samples of this device."""
        pieces = self.pieces(batch)
        self.seed(batch)
        losses = [self.one_piece(piece, last=piece is pieces[-1]) for piece in pieces]
        loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
        return self.replica.take_gradients(), loss, sum(p.num_samples for p in pieces)

    def one_piece(self, piece: Piece, last: bool) -> torch.Tensor:
        """Compute one piece forward and backward."""
        start = self.ledger.stamp()
        inputs, targets, weight = self.replica.gather(piece)
        gathered = self.ledger.stamp()
        loss = self.replica.backward(inputs, targets, weight)
        self.ledger.add(Part.INPUT, start, gathered)
        self.ledger.add(Part.COMPUTE, gathered, self.ledger.stamp())
        return loss

    def seed(self, batch: Batch) -> None:
        """Let the model draw from the stream of this worker, step and replica; the virtual engine does the same."""
        self.setup.begin_step(self.worker, batch.step)
        seed_step(self.replica.generators, self.setup.cell.seed, self.worker, batch.step, self.number)

    def step(self, gradient: Flat, rate: float) -> None:
        """Take one optimizer step."""
        self.replica.step(gradient, rate)

    def whole(self) -> Replica:
        """Return the trained model; complete on rank 0."""
        return self.replica

    def dram(self) -> CountedDram | NotKnown:
        """Count this layout's tensors on the fullest device; without any communication."""
        return count_dram(self.setup, self.placement)

    def bytes_sent_per_step(self) -> float:
        """Return the bytes that one device sends for one gradient."""
        return 0.0

    def notes(self) -> list[str]:
        """Return what the user should know about this layout."""
        return []

    def read_ahead(self) -> None:
        """Let processes of their own read the samples of the coming steps, where the scenario asks for them."""
        train = self.replica.data.train
        if isinstance(train, Streamed) and self.reads:
            course = Course(self.setup, self.worker)
            train.follow(
                (piece.indices, self.setup.pass_of(self.worker, batch.step))
                for batch in course.batches()
                for piece in self.pieces(batch)
            )

    def warm_up(self, batch: Batch) -> None:
        """Compute a gradient that is discarded: what torch does only once is then behind us."""
        self.execution.first(partial(self.gradient, batch))

    def to_compile(self) -> list[nn.Module]:
        """Return the modules whose forward passes are compiled, each for itself."""
        return [self.replica.module]

    def settle(self) -> None:
        """Called once after the warm-up: measure no more than a run needs, and forget what was exchanged."""
        if self.reducing is not None:
            self.reducing.forget()

    def close(self) -> None:
        """Let go of everything that holds the process group."""
        if self.reducing is not None:
            self.reducing.close()


class UnderDDP(OneDevice):
    """torch's DistributedDataParallel: gradients averaged in buckets while the backward pass runs."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int, meetings: Meetings) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.number = rank
        self.ready: Stamp = None
        layout = setup.layout
        # A search for unused parameters cannot follow torch's older checkpoints; a static graph can.
        static = layout.static_graph or records_graph(setup, self.replica)
        self._records_graph = static
        devices = [self.replica.device.index] if has_queue(self.replica.device) else None
        self.ddp = nn.parallel.DistributedDataParallel(
            self.replica.module,
            device_ids=devices,
            process_group=meetings.replicas,
            bucket_cap_mb=_bucket_mib(layout.bucket_bytes),
            static_graph=static,
            find_unused_parameters=searches_unused(setup, self.replica),
            gradient_as_bucket_view=True,
        )
        self.replica.forward = self.ddp
        if layout.reduce is not None:
            refuse_two_types(self.replica)
            reducing = self.reducing = Reducing(setup, self.replica, ledger, (worker, rank), meetings.beside)
            # A function without annotations: torch compares those it finds with its own types.
            self.ddp.register_comm_hook(None, lambda _, bucket: reducing.hook(bucket))
        self._last_ready: Any = None
        self._hooks = [p.register_post_accumulate_grad_hook(self._note_last) for p in self.replica.parameters]

    def _note_last(self, parameter: torch.Tensor) -> None:
        self._last_ready, self.ready = parameter, self.ledger.stamp()

    def settle(self) -> None:
        """Keep one hook, on the parameter whose gradient comes last: every hook costs Python time in each step."""
        super().settle()
        for hook in self._hooks:
            hook.remove()
        self._hooks = [self._last_ready.register_post_accumulate_grad_hook(self._note_ready)]

    def _note_ready(self, _: torch.Tensor) -> None:
        self.ready = self.ledger.stamp()

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return this replica's samples, in one piece while DDP records its static graph."""
        if self.setup.shares_statistics and not self._records_graph:
            return super().pieces(batch)
        part = self.part(batch)
        # A static graph is recorded in the first pass, which torch wants synchronised: no accumulation there.
        size = len(part) if self._records_graph else self.setup.cell.micro_batch_size
        self._records_graph = False
        return make_pieces(part, self.weight(batch), max(1, size), pad=False)

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Return the gradients by parameter, those that the layout's own `reduce` returned where it has one."""
        gradients, loss, samples = super().gradient(batch)
        return gradients if self.reducing is None else self.reducing.results(), loss, samples

    def one_piece(self, piece: Piece, last: bool) -> torch.Tensor:
        """Compute one piece; only the last one exchanges. What follows the last own gradient is communication."""
        with self.ledger.span(Part.INPUT):
            inputs, targets, weight = self.replica.gather(piece)
        start = self.ledger.stamp()
        with nullcontext() if last else self.ddp.no_sync():
            loss = self.replica.backward(inputs, targets, weight)
        end = self.ledger.stamp()
        self.ledger.add(Part.COMPUTE, start, self.ready)
        self.ledger.add(Part.COMMUNICATION, self.ready, end)
        if last:
            self.ledger.moment("_ready_s", self.ready)
            self.ledger.row["_group"] = self.worker
            if self.reducing is not None:
                self.reducing.account(self.ready, end)
        return loss

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share: 2 (n - 1) / n of the gradient; what `reduce` sends is counted where it does."""
        if self.reducing is not None:
            return 0.0
        n = self.setup.layout.data
        return 2 * (n - 1) / n * float(self.replica.num_parameters * self.replica.dtype.itemsize)

    def close(self) -> None:
        """Destroy the DDP module before its process group: otherwise gloo hangs at exit in a third of all cells."""
        super().close()
        self.replica.forward = self.replica.module
        del self.ddp
        gc.collect()


def _bucket_mib(num_bytes: int) -> float | None:
    """Return what DDP is told of its buckets; None where it chooses itself, as it does where nobody says anything."""
    return None if num_bytes == USUAL_BUCKET_BYTES else (num_bytes or WITHOUT_LIMIT) / MIB


def mean_over_ranks(tensors: Sequence[torch.Tensor | None], group: dist.ProcessGroup | None = None) -> None:
    """Average tensors in place over all ranks: sum, then divide, as `average` does."""
    for tensor in tensors:
        if tensor is not None:
            dist.all_reduce(tensor, group=group)
            tensor /= dist.get_world_size(group)
