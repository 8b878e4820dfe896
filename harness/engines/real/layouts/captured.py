"""What only CUDA devices have: steps recorded once as graphs and replayed, and TF32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

import torch

from harness.api.strategy import Batch
from harness.core.cell import Named
from harness.core.errors import Impossible
from harness.core.step_parts import Part
from harness.core.words import counted
from harness.engines.processes.foreign import lacks_memory
from harness.engines.real.clock import Ledger
from harness.engines.real.layouts.one_device import OneDevice
from harness.engines.shared.flat import Flat
from harness.engines.shared.optimizers import OwnOptimizer, make_optimizer
from harness.engines.shared.pieces import Piece
from harness.engines.shared.setup import Setup
from harness.workloads.accelerator import DeviceGraph
from harness.workloads.batches import Inputs, mapped, tensors_of
from harness.workloads.entries import CUDA_GRAPH

if TYPE_CHECKING:
    from types import ModuleType

T = TypeVar("T")

WARM_UPS = 3
"""Steps on a side stream before a capture: libraries choose their kernels and allocate there; torch's own number.

Source: PyTorch documentation, "CUDA semantics", section "Whole-network capture".
"""


def allow_tf32(allowed: bool | None) -> None:
    """Let single precision be computed in TF32 in this process, or forbid it; None leaves torch's own choice."""
    if allowed is not None:
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed


@dataclass(frozen=True)
class RecordedGraph:
    """Forward and backward pass over samples of one shape: a graph that reads and writes the same memory each time.

    Attributes:
        inputs, targets, weights: what it reads; a weight for each sample.
        loss, gradients: what it writes.
    """

    graph: DeviceGraph
    inputs: Inputs
    targets: torch.Tensor
    weights: torch.Tensor
    loss: torch.Tensor
    gradients: list[torch.Tensor]

    def read(self, inputs: Inputs, targets: torch.Tensor, weight: float | torch.Tensor) -> None:
        """Copy samples to where the graph reads them."""
        theirs, ours = [*tensors_of(inputs), targets], [*tensors_of(self.inputs), self.targets]
        for there, here in zip(theirs, ours, strict=True):
            here.copy_(there)
        _fill(self.weights, weight)


class Captured(OneDevice):
    """One device that replays graphs: one of forward and backward pass for each shape, and one of the update.

    They are two, since a program may do something between a gradient and its update. The update reads its rate from the
    device. Samples of a shape that the warm-up has not seen are computed eagerly.

    Source: PyTorch documentation, "CUDA semantics", section "Whole-network capture".
    """

    def __init__(self, setup: Setup, ledger: Ledger, worker: int, rank: int) -> None:
        super().__init__(setup, ledger, worker, rank)
        self._refuse()
        device = self.replica.device
        self._cuda: ModuleType = torch.get_device_module(device)
        self._stream = self._cuda.Stream()
        self._rate = torch.zeros((), dtype=torch.float32, device=device)
        self.replica.optimizer = make_optimizer(self.replica.module, _capturable(setup.optimizer), self._rate)
        self._recorded: dict[tuple[torch.Size, ...], RecordedGraph] = {}
        self._update: DeviceGraph | None = None
        self._applied = Flat([torch.zeros_like(p) for p in self.replica.parameters])

    def _refuse(self) -> None:
        """Refuse a model that decides in Python, in every step, what is computed.

        Raises:
            Impossible: it does.
        """
        trial, replica = self.replica.trial, self.replica
        looks = trial is not None and (trial.looks or bool(trial.keeps))
        if looks or replica.optional or {"random", "numpy"} & set(replica.generators):
            raise self._impossible("it decides in Python what a step computes, which a graph cannot repeat")

    def _impossible(self, why: str) -> Impossible:
        name = self.setup.cell.workload.model.name
        return Impossible(f'workload.step = "{CUDA_GRAPH}": {name}: {why}. Set workload.step = "eager" or "compiled"')

    @property
    def lends_gradients(self) -> bool:
        """Whether the next gradient overwrites the memory of this one: a graph always writes to the same."""
        return True

    def _capture(self, work: Callable[[], T], between: Callable[[], object]) -> tuple[DeviceGraph, T]:
        """Record what the device is given to do; return the graph, and where it writes.

        Args:
            between: undoes what is left of a warm-up on the host.

        Raises:
            Impossible: it asks the device for something meanwhile.
        """
        current = self._cuda.current_stream()
        self._stream.wait_stream(current)
        with self._cuda.stream(self._stream):
            for _ in range(WARM_UPS):
                work()
                between()
        current.wait_stream(self._stream)
        graph = self._cuda.CUDAGraph()
        try:
            with self._cuda.graph(graph, stream=self._stream):
                written = work()
        except RuntimeError as error:
            if lacks_memory(error):
                raise
            raise self._impossible(f"cannot be captured: {str(error).partition(chr(10))[0]}") from error
        return graph, written

    # -- forward and backward ------------------------------------------------------------------------------------

    def gradient(self, batch: Batch) -> tuple[list[torch.Tensor], torch.Tensor, int]:
        """Replay the graph of each piece; with several, their gradients are added up."""
        pieces = self.pieces(batch)
        self.seed(batch)
        loss, gradients = self._piece(pieces[0])
        for number, piece in enumerate(pieces[1:]):
            if number == 0:
                gradients = [gradient.clone() for gradient in gradients]
            more, others = self._piece(piece)
            loss += more
            torch._foreach_add_(gradients, others)
        return gradients, loss, sum(piece.num_samples for piece in pieces)

    def _piece(self, piece: Piece) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Return the loss of a piece, to be kept, and its gradients, which the next piece overwrites."""
        start = self.ledger.stamp()
        inputs, targets, weight = self.replica.gather(piece)
        recorded = self._graph_of(inputs, targets, weight)
        if recorded is not None:
            recorded.read(inputs, targets, weight)
        gathered = self.ledger.stamp()
        if recorded is not None:
            recorded.graph.replay()
            loss, gradients = recorded.loss.clone(), recorded.gradients
        else:
            loss, gradients = self.replica.backward(inputs, targets, weight), self.replica.take_gradients()
        self.ledger.add(Part.INPUT, start, gathered)
        self.ledger.add(Part.COMPUTE, gathered, self.ledger.stamp())
        return loss, gradients

    def _graph_of(self, inputs: Inputs, targets: torch.Tensor, weight: float | torch.Tensor) -> RecordedGraph | None:
        """Return the graph of samples of this shape; None where the warm-up is over and has seen none."""
        key = tuple(tensor.shape for tensor in (*tensors_of(inputs), targets))
        if key not in self._recorded and self._update is None:
            self._recorded[key] = self._record(mapped(torch.clone, inputs), targets.clone(), weight)
        return self._recorded.get(key)

    def _record(self, inputs: Inputs, targets: torch.Tensor, weight: float | torch.Tensor) -> RecordedGraph:
        weights = torch.empty(len(targets), dtype=self.replica.dtype, device=targets.device)
        _fill(weights, weight)

        def work() -> torch.Tensor:
            return self.replica.backward(inputs, targets, weights)

        graph, loss = self._capture(work, between=self.replica.take_gradients)
        return RecordedGraph(graph, inputs, targets, weights, loss, self.replica.take_gradients())

    # -- update --------------------------------------------------------------------------------------------------

    def settle(self) -> None:
        """Record the update, and put back what that moved."""
        before, optimizer = self.replica.snapshot(), self.replica.optimizer
        assert optimizer is not None  # a model without parameters is refused before
        self._update, _ = self._capture(lambda: self.replica.update(self._applied), between=lambda: None)
        for state in optimizer.state.values():
            for value in state.values():
                value.zero_()  # as before the first step: the graph goes on using this memory
        self.replica.load(before)

    def step(self, gradient: Flat, rate: float) -> None:
        """Replay the update."""
        torch._foreach_copy_(list(self._applied.pieces), self.replica.split(gradient))
        self._rate.fill_(rate)
        assert self._update is not None  # a worker settles before its first step
        self._update.replay()
        with torch.no_grad():
            self.replica.set_buffers(gradient.buffers)

    def notes(self) -> list[str]:
        """Return what is replayed."""
        graphs = counted(len(self._recorded), "CUDA graph")
        return [f"captured: {graphs} of forward and backward pass, and one of the update"]

    def close(self) -> None:
        """Let go of the graphs: they hold memory of the device."""
        self._recorded.clear()
        self._update = None


def _fill(weights: torch.Tensor, weight: float | torch.Tensor) -> None:
    if isinstance(weight, torch.Tensor):
        weights.copy_(weight)
    else:
        weights.fill_(weight)


def _capturable(optimizer: Named | OwnOptimizer) -> Named:
    """Return torch's optimizer as a graph can hold it: in a fused kernel, which reads rate and step from the device.

    Raises:
        TypeError: it is a function of the user's own, which the plan refuses.
    """
    if not isinstance(optimizer, Named):
        raise TypeError(f"{optimizer.name} cannot be captured")
    counts = {} if optimizer.name == "sgd" else {"capturable": True}
    return replace(optimizer, options=optimizer.options | counts | {"fused": True})
