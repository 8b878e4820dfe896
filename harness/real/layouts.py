"""How torch runs one step under a layout. The one file that touches private names of torch.

Every runner has the same four words: gradient, step, whole (the trained model, where rank 0 evaluates it), close.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.real.clock import Ledger
from harness.strategy import Batch
from harness.training.layers import Placement, describe_stages, measure_layers, place
from harness.training.memory import count_dram
from harness.training.order import cut
from harness.training.replica import Piece, Replica, draws, make_pieces
from harness.training.setup import Setup
from harness.training.streams import stream_seed
from harness.training.values import Flat


class OneDevice:
    """The whole model on one device: no communication."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        self.setup, self.ledger, self.worker, self.rank = setup, ledger, worker, rank
        self.replica = setup.replica()
        self.draws = draws(self.replica.module)
        self.placement: Placement | None = None
        self.table: Any = ()

    @property
    def shape(self) -> tuple[int, int]:
        """Parameters, and values in buffers."""
        return self.replica.num_parameters, sum(b.numel() for b in self.replica.buffers)

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return this device's samples, cut into what passes forward at once."""
        weight = batch.shares / batch.size
        return make_pieces(batch.indices, weight, self.setup.cell.micro_batch_size, pad=False)

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], Any, int]:
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
        self.ledger.add("input_s", start, gathered)
        self.ledger.add("compute_s", gathered, self.ledger.stamp())
        return loss

    def seed(self, batch: Batch) -> None:
        """Give dropout the stream of this worker, step and replica; the virtual engine draws from the same."""
        if self.draws:
            torch.manual_seed(stream_seed(self.setup.cell.seed, "dropout", self.worker, batch.step, self.rank))

    def step(self, gradient: Flat, rate: float) -> None:
        """Take one optimizer step."""
        self.replica.step(gradient, rate)

    @property
    def unsplit(self) -> Replica:
        """A replica with all layers, whatever its weights."""
        return self.replica

    def whole(self) -> Replica:
        """Return the trained model; complete on rank 0."""
        return self.unsplit

    def dram(self) -> dict[str, int]:
        """Count this layout's tensors on the fullest device; without any communication."""
        cell = self.setup.cell
        indices = torch.arange(min(cell.micro_batch_size, self.setup.num_train)).numpy()
        probe = Piece(indices, 1.0)
        return count_dram(self.unsplit, probe, cell.workload["optimizer"], self.placement, self.table)

    def bytes_sent_per_step(self) -> float:
        """Return the bytes that one device sends for one gradient."""
        return 0.0

    def notes(self) -> list[str]:
        """Return what the user should know about this layout."""
        return []

    def settle(self) -> None:
        """Called once after the warm-up: measure no more than a run needs."""

    def close(self) -> None:
        """Let go of everything that holds the process group."""


class DataParallel(OneDevice):
    """torch's DistributedDataParallel: gradients averaged in buckets while the backward pass runs."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self.ready: Any = None
        # A static graph is recorded in the first pass, which torch wants synchronised: no accumulation there.
        self._records_graph = setup.layout.static_graph
        layout = setup.layout
        devices = [self.replica.device.index] if self.replica.device.type == "cuda" else None
        self.ddp = nn.parallel.DistributedDataParallel(
            self.replica.module,
            device_ids=devices,
            bucket_cap_mb=layout.bucket_bytes / 2**20,
            static_graph=layout.static_graph,
            gradient_as_bucket_view=True,
        )
        self.replica.forward = self.ddp
        self._last_ready: Any = None
        self._hooks = [p.register_post_accumulate_grad_hook(self._note_last) for p in self.replica.parameters]

    def _note_last(self, parameter: torch.Tensor) -> None:
        self._last_ready, self.ready = parameter, self.ledger.stamp()

    def settle(self) -> None:
        """Keep one hook, on the parameter whose gradient comes last: every hook costs Python time in each step."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = [self._last_ready.register_post_accumulate_grad_hook(self._note_ready)]

    def _note_ready(self, _: torch.Tensor) -> None:
        self.ready = self.ledger.stamp()

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return this replica's part; weighted so that DDP's mean over replicas is the sum over the batch."""
        replicas = self.setup.layout.data
        part = cut(batch.indices, replicas)[self.rank]
        size = len(part) if self._records_graph else self.setup.cell.micro_batch_size
        self._records_graph = False
        return make_pieces(part, replicas * batch.shares / batch.size, max(1, size), pad=False)

    def one_piece(self, piece: Piece, last: bool) -> torch.Tensor:
        """Compute one piece; only the last one exchanges. What follows the last own gradient is communication."""
        with self.ledger.span("input_s"):
            inputs, targets, weight = self.replica.gather(piece)
        start = self.ledger.stamp()
        with nullcontext() if last else self.ddp.no_sync():
            loss = self.replica.backward(inputs, targets, weight)
        end = self.ledger.stamp()
        self.ledger.add("compute_s", start, self.ready)
        self.ledger.add("communication_s", self.ready, end)
        if last:
            self.ledger.moment("_ready_s", self.ready)
        return loss

    def bytes_sent_per_step(self) -> float:
        """Return a ring's share: 2 (n - 1) / n of the gradient."""
        n = self.setup.layout.data
        return 2 * (n - 1) / n * float(self.replica.num_parameters * self.replica.dtype.itemsize)

    def close(self) -> None:
        """Destroy the DDP module before its process group: otherwise gloo hangs at exit in a third of all cells."""
        self.replica.forward = self.replica.module
        del self.ddp
        gc.collect()


class Pipeline(OneDevice):
    """torch.distributed.pipelining's runtime, given the strategy's own table of actions."""

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self._whole = self.replica
        self.placement = self._agree_on_placement()
        cell = setup.cell
        self.table = setup.layout.schedule(  # type: ignore[misc]
            setup.layout.pipeline, -(-cell.batch_size // cell.micro_batch_size)
        )
        children = dict(self._whole.module.named_children())
        stage = nn.Sequential()
        for name in self.placement[rank]:
            stage.add_module(name, children[name])
        self.sizes = _stage_sizes(self._whole.module, self.placement)
        work = cell.workload
        self.replica = Replica(stage, setup.data, work["loss"], work["optimizer"], work["precision"], work["clip_norm"])
        self.replica.sum_over_ranks = dist.all_reduce
        # The layers went into the stages; rank 0 evaluates a copy of the whole. The others need it for names only.
        self._whole = setup.replica()
        if rank > 0:
            self._whole.module.to("cpu")
        self._runtimes: dict[int, tuple[Any, Any]] = {}
        self._positions: tuple[Any, Any] = (None, None)

    def _agree_on_placement(self) -> Placement:
        """Measure on rank 0 and tell everybody: two measurements would cut differently."""
        found: list[Any] = [None]
        if self.rank == 0:
            probe = Piece(torch.arange(self.setup.cell.micro_batch_size).numpy(), 1.0)
            found = [place(self.setup.layout, measure_layers(self.replica, probe))]
        dist.broadcast_object_list(found, src=0)
        agreed: Placement = found[0]
        return agreed

    def pieces(self, batch: Batch) -> list[Piece]:
        """Return micro-batches of equal shape, the last one padded with samples of weight 0."""
        weight = batch.shares / batch.size
        return make_pieces(batch.indices, weight, self.setup.cell.micro_batch_size, pad=True)

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], Any, int]:
        """Run the table; every stage keeps its own gradients, the last one knows the loss."""
        pieces, last = self.pieces(batch), self.rank == self.setup.layout.pipeline - 1
        self.seed(batch)
        runtime, stage = self._runtime(len(pieces))
        losses: list[torch.Tensor] = []
        start = self.ledger.stamp()
        with self.ledger.span("input_s"):
            gathered = [self.replica.gather(piece) for piece in pieces] if last or self.rank == 0 else []
        inputs = (torch.cat([g[0] for g in gathered]),) if self.rank == 0 else ()
        positions = torch.arange(len(pieces) * self.setup.cell.micro_batch_size) if last else None
        self._positions = (gathered, self.setup.cell.micro_batch_size)
        with self.replica.autocast():
            runtime.step(*inputs, target=positions, losses=losses if last else None, return_outputs=False)
        self._account(stage, start)
        loss = torch.stack([x.detach() for x in losses]).sum() if last else None
        return self.replica.take_gradients(), loss, len(batch.indices) if last else 0

    def _account(self, stage: Any, start: Any) -> None:
        end = self.ledger.stamp()
        for _, began, ended in stage.spans:
            self.ledger.add("compute_s", began, ended)
        for number, (action, began, ended) in enumerate(stage.spans):
            self.ledger.moment(f"_action_{number}", began)
            self.ledger.moment(f"_ended_{number}", ended)
            self.ledger.row.setdefault("_actions", []).append(action)
        self.ledger.moment("_step_start", start)
        self.ledger.moment("_step_end", end)
        stage.spans.clear()

    def _runtime(self, microbatches: int) -> tuple[Any, Any]:
        """Return torch's runtime for so many micro-batches; the last batch of an epoch may have fewer."""
        if microbatches not in self._runtimes:
            self._runtimes[microbatches] = self._make_runtime(microbatches)
        return self._runtimes[microbatches]

    def _make_runtime(self, microbatches: int) -> tuple[Any, Any]:
        from torch.distributed.pipelining.schedules import _Action, _ComputationType, _PipelineScheduleRuntime

        layout = self.setup.layout
        stage = timed_stage(self.ledger, self.replica.module, self.rank, layout.pipeline, self.replica.device)
        runtime = _PipelineScheduleRuntime([stage], microbatches, loss_fn=self._loss, scale_grads=False)
        kinds = {"forward": _ComputationType.FORWARD, "backward": _ComputationType.FULL_BACKWARD}
        assert layout.schedule is not None
        table = layout.schedule(layout.pipeline, microbatches)
        actions = {
            rank: [_Action(a.stage, kinds[a.kind], a.microbatch) for a in order] for rank, order in enumerate(table)
        }
        runtime._prepare_schedule_with_comms(actions)
        return runtime, stage

    def _loss(self, outputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Torch cuts the target for us; we give it positions, so that weights travel along with targets."""
        gathered, size = self._positions
        _, targets, weight = gathered[int(positions[0]) // size]
        return self.replica.loss(outputs, targets, weight)

    @property
    def unsplit(self) -> Replica:
        """A replica with all layers, whatever its weights."""
        return self._whole

    def whole(self) -> Replica:
        """Bring all stages together on rank 0; off the clock."""
        with torch.no_grad():
            vectors, buffers = [], []
            for rank, (parameters, values) in enumerate(self.sizes):
                vectors.append(self._from(rank, self.replica.vector(), parameters))
                buffers.append(self._from(rank, self.replica.buffer_vector(), values))
            if self.rank == 0:
                self._whole.load(Flat([torch.cat(vectors)], torch.cat(buffers)))
        return self._whole

    def _from(self, rank: int, mine: torch.Tensor | None, size: int) -> torch.Tensor:
        vector = mine if rank == self.rank else None
        if vector is None:
            vector = torch.empty(size, dtype=self.replica.dtype, device=self.replica.device)
        if size:
            dist.broadcast(vector, src=rank)
        return vector

    def bytes_sent_per_step(self) -> float:
        """Return the mean over stages of activations forward and their gradients back."""
        stages = [stage for _, stage in self._runtimes.values()]
        sent = torch.zeros(1, dtype=torch.float64, device=self.replica.device)
        if stages and self.rank < self.setup.layout.pipeline - 1:
            sent += 2.0 * stages[0].output_bytes * len(self.table[0]) / 2
        dist.all_reduce(sent)
        return float(sent) / self.setup.layout.pipeline

    def notes(self) -> list[str]:
        """Print the cut: layers, parameters and tensors of each stage."""
        notes = [describe_stages(self._whole.module, self.placement or ())]
        if self.draws:
            notes.append("stages draw dropout's masks each for itself: other masks than a virtual run draws")
        return notes

    def close(self) -> None:
        """Let go of torch's runtimes, which hold the process group."""
        self._runtimes.clear()
        gc.collect()


def timed_stage(ledger: Ledger, module: nn.Module, rank: int, stages: int, device: torch.device) -> Any:
    """Return torch's pipeline stage, with a stamp before and after every pass."""
    from torch.distributed.pipelining import PipelineStage

    class TimedStage(PipelineStage):  # type: ignore[misc]
        spans: list[tuple[tuple[str, int], Any, Any]]
        output_bytes = 0

        def forward_one_chunk(self, fwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
            output = self._timed("forward", fwd_chunk_id, super().forward_one_chunk, *args, **kwargs)
            self.output_bytes = output.numel() * output.element_size()
            return output

        def backward_one_chunk(self, bwd_chunk_id: int, *args: Any, **kwargs: Any) -> Any:
            return self._timed("backward", bwd_chunk_id, super().backward_one_chunk, *args, **kwargs)

        def _timed(self, kind: str, chunk: int, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            start = ledger.stamp()
            answer = call(chunk, *args, **kwargs)
            self.spans.append(((kind, chunk), start, ledger.stamp()))
            return answer

    stage = TimedStage(module, rank, stages, device)
    stage.spans = []
    return stage


def _stage_sizes(module: nn.Module, placement: Placement) -> list[tuple[int, int]]:
    children = dict(module.named_children())
    return [
        (
            sum(p.numel() for name in stage for p in children[name].parameters()),
            sum(b.numel() for name in stage for b in children[name].buffers()),
        )
        for stage in placement
    ]


def make_runner(setup: Setup, ledger: Ledger, worker: int, rank: int) -> OneDevice:
    """Return the runner of a layout."""
    if setup.layout.pipeline > 1:
        return Pipeline(setup, ledger, worker, rank)
    if setup.layout.data > 1:
        return DataParallel(setup, ledger, worker, rank)
    return OneDevice(setup, ledger, worker, rank)


def mean_over_ranks(tensors: Sequence[torch.Tensor | None], group: Any = None) -> None:
    """Average tensors in place over all ranks: sum, then divide, as `average` does."""
    for tensor in tensors:
        if tensor is not None:
            dist.all_reduce(tensor, group=group)
            tensor /= dist.get_world_size(group)
