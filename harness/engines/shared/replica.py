"""One copy of the model with its optimizer; its weights come and go as values."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.core.cell import Named
from harness.core.streams import stream_seed
from harness.engines.shared.flat import Flat
from harness.engines.shared.sample_order import Indices, cut

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import DataShape, Model

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.float32}
"""Type of the parameters; bf16 computes under autocast and keeps fp32 parameters."""


@dataclass(frozen=True)
class Piece:
    """Samples that pass forward at once, each with its weight in the gradient.

    Attributes:
        indices: numbers of training samples, shape (n,), n >= 1.
        weight: one number for all, or an array of shape (n,) where padding has weight 0.
    """

    indices: Indices
    weight: float | npt.NDArray[np.floating]

    @property
    def num_samples(self) -> int:
        """Samples that count, padding left out."""
        return len(self.indices) if isinstance(self.weight, float) else int(np.count_nonzero(self.weight))


def make_pieces(indices: Indices, weight: float, micro_batch_size: int, pad: bool) -> list[Piece]:
    """Cut one device's samples into what passes forward at once.

    An empty part becomes one sample of weight 0, so that a replica without samples still takes part in the exchange.

    Args:
        weight: of every sample in the gradient: shares / size of the whole batch.
        pad: fill the last piece up with samples of weight 0, as a pipeline must (its shapes are fixed).
    """
    if len(indices) == 0:
        return [Piece(np.zeros(1, dtype=np.int64), np.zeros(1))]
    if not pad:
        parts = -(-len(indices) // micro_batch_size)
        return [Piece(part, weight) for part in cut(indices, parts)]
    starts = range(0, len(indices), micro_batch_size)
    return [_padded(indices[start : start + micro_batch_size], weight, micro_batch_size) for start in starts]


def _padded(indices: Indices, weight: float, size: int) -> Piece:
    missing = size - len(indices)
    if missing == 0:
        return Piece(indices, weight)
    filled = np.concatenate([indices, np.repeat(indices[:1], missing)])
    return Piece(filled, np.concatenate([np.full(len(indices), weight), np.zeros(missing)]))


class Replica:
    """A module, the data it trains on, and an optimizer.

    Args:
        module: built and initialised; moved to the data's device and type.
        data: what `harness.workloads.data.prepare` returned.
        loss: name of the loss.
        optimizer: "sgd", "adam" or "adamw", with options.
        precision: "fp32", "fp64" or "bf16".
        clip_norm: largest norm of a gradient, or None.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        loss: str,
        optimizer: Named,
        precision: str = "fp32",
        clip_norm: float | None = None,
    ) -> None:
        from harness.workloads.losses import weighted_loss

        self.data = data
        self.loss_name = loss
        self.loss = weighted_loss(loss)
        self.precision = precision
        self.clip_norm = clip_norm
        self.device = data.train_inputs.device
        self.module = module.to(device=self.device, dtype=DTYPES[precision])
        self.parameters = list(self.module.parameters())
        self.buffers = list(self.module.buffers())
        self.dtype = DTYPES[precision]
        self.num_parameters = sum(p.numel() for p in self.parameters)
        # The same memory as the parameters, seen flat: made once, since ten views a step cost as much as the copy.
        for parameter in self.parameters:
            parameter.data = parameter.data.contiguous()
        self._flat = [p.detach().view(-1) for p in self.parameters]
        self._sizes = [p.numel() for p in self.parameters]
        # A pipeline stage may hold layers without parameters only; torch's optimizers refuse an empty list.
        self.optimizer = make_optimizer(self.parameters, optimizer) if self.parameters else None
        self.forward: Any = self.module
        self.sum_over_ranks: Any = None  # a pipeline stage sums squared norms over the other stages
        self.norm_shares: Sequence[float] = [1.0] * len(self.parameters)  # below 1 where other ranks add it too

    # -- state ---------------------------------------------------------------------------------------------------

    def vector(self) -> torch.Tensor:
        """Return a copy of all parameters as one vector, shape (parameters,).

        The parameters themselves stay where torch put them: as views of one vector they would lose their alignment,
        which costs 2 to 5 % of a lenet5 step on CPU.
        """
        if not self.parameters:
            return torch.zeros(0, dtype=self.dtype, device=self.device)
        return torch.cat(self._flat)

    def buffer_vector(self) -> torch.Tensor | None:
        """Return a copy of all buffers as one float vector, or None."""
        if not self.buffers:
            return None
        return torch.cat([b.detach().to(self.dtype).reshape(-1) for b in self.buffers])

    def set_buffers(self, vector: torch.Tensor | None) -> None:
        """Write the buffers back, each in its own type."""
        if vector is None:
            return
        offset = 0
        for buffer in self.buffers:
            buffer.copy_(vector[offset : offset + buffer.numel()].view_as(buffer))
            offset += buffer.numel()

    def snapshot(self, version: int = 0, num_samples: int = 0) -> Flat:
        """Return the weights as a value of their own."""
        return Flat([self.vector()], self.buffer_vector(), version=version, num_samples=num_samples)

    def load(self, weights: Flat) -> None:
        """Copy parameters and buffers in."""
        with torch.no_grad():
            if self.parameters:
                torch._foreach_copy_(self._flat, list(weights.tensor().split(self._sizes)))
            self.set_buffers(weights.buffers)

    # -- training ------------------------------------------------------------------------------------------------

    def gather(self, piece: Piece) -> tuple[torch.Tensor, torch.Tensor, float | torch.Tensor]:
        """Return inputs (n, c, h, w), targets (n,) and weights of a piece, on the device."""
        index = self._upload(torch.from_numpy(piece.indices))
        inputs = self.data.train_inputs.index_select(0, index)
        targets = self.data.train_targets.index_select(0, index)
        if isinstance(piece.weight, float):
            return inputs, targets, piece.weight
        return inputs, targets, self._upload(torch.from_numpy(piece.weight).to(self.dtype))

    def _upload(self, tensor: torch.Tensor) -> torch.Tensor:
        """Bring a small tensor to the device without making the host wait for it."""
        if self.device.type != "cuda":
            return tensor
        return tensor.pin_memory().to(self.device, non_blocking=True)

    def backward(self, inputs: torch.Tensor, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        """Add one piece's gradient to the parameters' `.grad`; return its weighted loss, a 0-dim tensor."""
        with self.autocast():
            outputs = self.forward(inputs)
            loss: torch.Tensor = self.loss(outputs, targets, weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def gradient(self, pieces: Sequence[Piece]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the gradient of the weighted loss over all pieces, one after another.

        Returns:
            One tensor per parameter, handed over (the next call makes new ones), and the loss.
        """
        losses = [self.backward(*self.gather(piece)) for piece in pieces]
        return self.take_gradients(), losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def take_gradients(self) -> list[torch.Tensor]:
        """Hand the parameters' gradients over; a parameter without one has a gradient of zeros."""
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return gradients

    def step(self, gradient: Flat, rate: float) -> None:
        """Take one optimizer step; the gradient's buffers become the model's."""
        if self.optimizer is None:
            return self._step_without_parameters(gradient)
        for parameter, part in zip(self.parameters, self.split(gradient), strict=True):
            parameter.grad = part
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None
        with torch.no_grad():
            self.set_buffers(gradient.buffers)

    def _step_without_parameters(self, gradient: Flat) -> None:
        """Take part in what the other stages of a pipeline do together, and keep buffers."""
        if self.clip_norm is not None and self.sum_over_ranks is not None:
            self.sum_over_ranks(torch.zeros((), dtype=self.dtype, device=self.device))
        with torch.no_grad():
            self.set_buffers(gradient.buffers)

    def _clip(self, largest: float) -> None:
        # Gradients are values that others may hold: scale copies, never in place.
        norms = zip(self.norm_shares, self.parameters, strict=True)
        squares = torch.stack([share * torch.linalg.vector_norm(p.grad) ** 2 for share, p in norms]).sum()
        if self.sum_over_ranks is not None:
            self.sum_over_ranks(squares)
        scale = torch.clamp(largest / (squares.sqrt() + 1e-6), max=1.0)
        for parameter in self.parameters:
            assert parameter.grad is not None
            parameter.grad = parameter.grad * scale

    def split(self, value: Flat) -> list[torch.Tensor]:
        """Return a value's parameters' part as one tensor per parameter."""
        if len(value.pieces) == len(self.parameters) and value.pieces[0].shape == self.parameters[0].shape:
            return list(value.pieces)
        return [part.view_as(p) for part, p in zip(value.tensor().split(self._sizes), self.parameters, strict=True)]

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the scenario asks for it."""
        if self.precision != "bf16":
            return nullcontext()
        context: AbstractContextManager[object] = torch.autocast(self.device.type, dtype=torch.bfloat16)
        return context

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, split: str) -> tuple[float, float]:
        """Return mean loss and accuracy over the "validation" or "test" split; buffers are only read."""
        from harness.workloads.losses import evaluate

        inputs, targets = getattr(self.data, f"{split}_inputs"), getattr(self.data, f"{split}_targets")
        dtype = torch.bfloat16 if self.precision == "bf16" else None
        return evaluate(self.module, inputs, targets, self.loss_name, autocast=dtype)


def make_optimizer(parameters: Sequence[torch.Tensor], spec: Named) -> torch.optim.Optimizer:
    """Build a torch optimizer; its rate is set before every step."""
    classes: dict[str, Any] = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    options = dict(spec.options)
    if "betas" in options:
        options["betas"] = tuple(options["betas"])
    made: torch.optim.Optimizer = classes[spec.name](parameters, lr=0.1, **options)
    return made


def build_module(model: Model, options: object, shape: DataShape, seed: int) -> nn.Module:
    """Build and initialise a model from the run's own stream; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "init"))
        module: nn.Module = model.build(options, shape)
    return module


def mergeable(module: nn.Module) -> bool:
    """Whether gradients at the same weights may be computed together.

    Not where a layer draws, nor where one has buffers: they are what a forward pass over many samples leaves behind.
    """
    return not draws(module) and next(module.buffers(), None) is None


def draws(module: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers."""
    drawing = (nn.modules.dropout._DropoutNd, nn.RReLU)
    return any(isinstance(layer, drawing) and getattr(layer, "p", 1.0) > 0 for layer in module.modules())
