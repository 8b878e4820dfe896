"""One copy of the model with its optimizer; its weights come and go as values."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.core.cell import Named
from harness.core.errors import PluginError
from harness.core.streams import stream_seed
from harness.core.words import listed
from harness.engines.processes.foreign import lacks_memory
from harness.engines.shared.buffer_values import as_real, buffer_places, decode, encoded, encoded_size
from harness.engines.shared.flat import Flat
from harness.engines.shared.misfit import GivenBatch, not_taken
from harness.engines.shared.optimizers import OwnOptimizer, Rates, make_optimizer, on_parts
from harness.engines.shared.pieces import Piece
from harness.engines.shared.plain_state import PlainState, plain_state, put_back
from harness.engines.shared.read_only import read_only
from harness.workloads.accelerator import upload
from harness.workloads.batches import Inputs, call, mapped, outputs_of
from harness.workloads.generators import drawing_from
from harness.workloads.losses import Metric, Reduces, evaluate, weighted_loss

if TYPE_CHECKING:
    from harness.engines.shared.shown import Trial
    from harness.workloads.entries import DataShape, Model
    from harness.workloads.losses import OwnLoss

DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.float32}
"""Type of the parameters; bf16 computes under autocast and keeps fp32 parameters."""

_PICTURE_AXES = 4
"""Samples, channels, height and width: of pictures, and of weights that convolve them."""

_FEW = 3
"""Names of parameters that a message lists; chosen."""

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
"""Layers whose output for a sample depends on the others that pass with it, in training."""


class Replica:
    """A module, the data it trains on, and an optimizer.

    Parameters that are frozen are none here: they stay as they were built, on every device alike. Behind the buffers of
    a gradient stands one number for each parameter of a module with `optional` ones: above 0 where it has a gradient.

    Args:
        module: built and initialised; moved to the data's device and type.
        data: what `harness.workloads.data.prepare` returned.
        loss: name of the loss, or a function of the user's own.
        optimizer: one of torch's by name, with options; a function of the user's own; or the one that stands for
            another replica's on these parameters.
        precision: "fp32", "fp64" or "bf16".
        clip_norm: largest norm of a gradient, or None.
        optional: whether some parameters get no gradient in some steps, or in none.
        buffers_of: the module whose buffers are meant, where it is another one.
        channels_last: keep what has four axes channel by channel of each pixel, and give the model its inputs so.

    Attributes:
        parameters: what the optimizer steps: those that require a gradient.
        names: what they are called in the module.
        generators: that a forward pass in training draws random numbers from.
        metric: what evaluations measure beside the loss; None: accuracy.
        trial: what a trial step of a model of the user's own showed; evaluations of one put back whatever they move.
        complete: whether all of such a model is here, so that a parameter without a gradient is seen.
        forward: what a gradient calls: the module, or what a layout wraps around it.
        members: weights of an ensemble that is evaluated in this module's place; none: the module itself is.
    """

    def __init__(
        self,
        module: nn.Module,
        data: Any,
        loss: str | OwnLoss,
        optimizer: Named | OwnOptimizer | Callable[[nn.Module], torch.optim.Optimizer | None],
        precision: str = "fp32",
        clip_norm: float | None = None,
        optional: bool = False,
        buffers_of: nn.Module | None = None,
        channels_last: bool = False,
    ) -> None:
        self.data = data
        self.loss_name = loss
        self.loss = weighted_loss(loss, data.counts is not None)
        self.precision = precision
        self.clip_norm = clip_norm
        self.device = data.train.device
        self._order = torch.channels_last if channels_last else torch.contiguous_format
        self.module = convert(module, self.device, DTYPES[precision])
        self.names = [name for name, p in self.module.named_parameters() if p.requires_grad]
        self.parameters = [p for p in self.module.parameters() if p.requires_grad]
        self._buffer_places = buffer_places(buffers_of or self.module)
        self.dtype = DTYPES[precision]
        # The same memory as the parameters, seen flat: made once, since ten views a step cost as much as the copy.
        for parameter in self.parameters:
            parameter.data = self._ordered(parameter.data)
        parts = [as_real(p.detach()) for p in self.parameters]
        self._in_order = all(part.is_contiguous() for part in parts)
        self._flat = [part.view(-1) for part in parts] if self._in_order else parts
        self._sizes = [part.numel() for part in parts]
        self.num_parameters = sum(self._sizes)
        self.optional = optional
        self.generators: tuple[str, ...] = ("torch",) if draws(self.module) else ()
        self._present = torch.zeros(len(self.parameters) if optional else 0, dtype=self.dtype, device=self.device)
        made = make_optimizer(self.module, optimizer) if isinstance(optimizer, Named | OwnOptimizer) else None
        self.optimizer = optimizer(self.module) if callable(optimizer) else made
        self._rates = Rates(self.optimizer)
        self.trial: Trial | None = None
        self.members: Sequence[Flat] = ()
        self.metric: Metric | None = None
        self.complete = False
        self._idle = False
        self._norms: list[Any] = [p for p in (buffers_of or self.module).modules() if isinstance(p, BATCH_NORMS)]
        self.forward: Any = self.module
        self.sum_over_ranks: Any = None  # a pipeline stage sums squared norms over the other stages
        self.norm_shares: Sequence[float] = [1.0] * len(self.parameters)  # below 1 where other ranks add it too

    @property
    def draws(self) -> bool:
        """Whether a forward pass in training draws random numbers."""
        return bool(self.generators)

    @property
    def loss_of_whole(self) -> bool:
        """Whether the loss of a batch is no mean over its samples, so that none can be computed with other weights."""
        return not isinstance(self.loss_name, str) and self.loss_name.reduces is Reduces.WHOLE

    def take_on(self, trial: Trial) -> None:
        """Know what a trial step showed."""
        self.trial, self.generators = trial, trial.generators

    # -- state ---------------------------------------------------------------------------------------------------

    @property
    def buffers(self) -> list[torch.Tensor]:
        """The buffers as they are now: a module may put another tensor in the place of one."""
        return [tensor for owner, name in self._buffer_places if (tensor := owner._buffers[name]) is not None]

    @property
    def num_buffer_values(self) -> int:
        """Numbers behind the parameters of a value."""
        return sum(encoded_size(b) for b in self.buffers) + len(self._present)

    def vector(self) -> torch.Tensor:
        """Return a copy of all parameters as one vector, shape (parameters,).

        The parameters themselves stay where torch put them: as views of one vector they would lose their alignment,
        which costs 2 to 5 % of a lenet5 step on CPU.
        """
        if not self.parameters:
            return torch.zeros(0, dtype=self.dtype, device=self.device)
        return torch.cat(self._flat if self._in_order else [part.reshape(-1) for part in self._flat])

    def _ordered(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a tensor in this replica's order of memory; only what has four axes can have another one."""
        whole = tensor.dim() != _PICTURE_AXES
        return tensor.contiguous(memory_format=torch.contiguous_format if whole else self._order)

    def buffer_vector(self) -> torch.Tensor | None:
        """Return a copy of all buffers as one float vector, or None; behind them, which parameters have a gradient."""
        parts = [encoded(b.detach(), self.dtype) for b in self.buffers]
        if self.optional:
            parts.append(self._present)
        return torch.cat(parts) if parts else None

    def set_buffers(self, vector: torch.Tensor | None) -> None:
        """Write the buffers back, each in its own type."""
        if vector is None:
            return
        offset = 0
        for buffer in self.buffers:
            size = encoded_size(buffer)
            decode(vector[offset : offset + size], buffer)
            offset += size

    def snapshot(self, version: int = 0, num_samples: int = 0) -> Flat:
        """Return the weights as a value of their own."""
        return Flat([self.vector()], self.buffer_vector(), version=version, num_samples=num_samples)

    def load(self, weights: Flat) -> None:
        """Copy parameters and buffers in."""
        with torch.no_grad():
            if self.parameters:
                parts = list(weights.vector().split(self._sizes))
                views = (
                    parts if self._in_order else [part.view_as(p) for part, p in zip(parts, self._flat, strict=True)]
                )
                torch._foreach_copy_(self._flat, views)
            self.set_buffers(weights.buffers)

    # -- training ------------------------------------------------------------------------------------------------

    def gather(self, piece: Piece) -> tuple[Inputs, torch.Tensor, float | torch.Tensor]:
        """Return inputs (n, ...), targets (n, ...) and weights of a piece, on the device."""
        inputs, targets = self.data.train.rows(piece.indices)
        if self._order is torch.channels_last:
            inputs = mapped(self._ordered, inputs)
        self._idle = piece.num_samples == 0
        if isinstance(piece.weight, float):
            return inputs, targets, piece.weight
        return inputs, targets, upload(torch.from_numpy(piece.weight).to(self.dtype), self.device)

    def backward(self, inputs: Inputs, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        """Add one piece's gradient to the parameters' `.grad`; return its weighted loss, a 0-dim tensor."""
        if self._idle and self._norms:
            return self._only_taking_part(inputs, targets, weight)
        with self.autocast():
            outputs = outputs_of(call(self.forward, inputs))
            loss: torch.Tensor = self.loss(outputs, targets, weight)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    def _only_taking_part(self, inputs: Inputs, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        """Pass samples that do not count, for the sake of an exchange: they enter no statistics."""
        self._idle, modes = False, [norm.training for norm in self._norms]
        for norm in self._norms:
            if hasattr(norm, "idle"):
                norm.idle = True  # it meets the other replicas in the forward pass
            else:
                norm.eval()
        try:
            return self.backward(inputs, targets, weight)
        finally:
            for norm, training in zip(self._norms, modes, strict=True):
                norm.train(training)
                if hasattr(norm, "idle"):
                    norm.idle = False

    def gradient(self, pieces: Sequence[Piece]) -> tuple[list[torch.Tensor], torch.Tensor]:
        """Compute the gradient of the weighted loss over all pieces, one after another.

        Returns:
            One real tensor per parameter, handed over (the next call makes new ones), and the loss.
        """
        losses = [self.backward(*self.gather(piece)) for piece in pieces]
        return self.take_gradients(), losses[0] if len(losses) == 1 else torch.stack(losses).sum()

    def take_gradients(self) -> list[torch.Tensor]:
        """Hand the parameters' gradients over; a parameter without one has zeros, and is remembered as absent."""
        if self.optional:
            present = torch.tensor([p.grad is not None for p in self.parameters], dtype=self.dtype)
            self._present = upload(present, self.device)
        elif self.complete:
            self._refuse_absent()
        gradients = [_handed_over(p) for p in self.parameters]
        for parameter in self.parameters:
            parameter.grad = None
        return gradients

    def _refuse_absent(self) -> None:
        """Stop where a parameter has no gradient that always had one: the optimizer would move it.

        Raises:
            PluginError: there is one.
        """
        if any(p.grad is None for p in self.parameters):
            names = [name for name, p in zip(self.names, self.parameters, strict=True) if p.grad is None]
            raise PluginError(
                f"{listed(names[:_FEW])} got no gradient in this step, and one in the trial step before the run. Set "
                "workload.find_unused_parameters = true, so that the optimizer leaves such parameters alone"
            )

    @property
    def present(self) -> torch.Tensor:
        """Which parameters have a gradient, above 0; empty where all always have one. To be changed in place."""
        return self._present

    def _set_gradients(self, gradient: Flat) -> None:
        """Give every parameter its part of a gradient, and none to those that have none in any part of it."""
        for parameter, part in zip(self.parameters, self.split(gradient), strict=True):
            # Kernels over all parameters walk through memory: gradients lie as their parameters do.
            ordered = part if self._in_order else self._ordered(part)
            parameter.grad = torch.view_as_complex(ordered) if parameter.is_complex() else ordered
        if self.optional and gradient.buffers is not None:
            flags = gradient.buffers[len(gradient.buffers) - len(self.parameters) :]
            for parameter, present in zip(self.parameters, flags.cpu().tolist(), strict=True):
                # A difference of weights is applied like a gradient; its flags cancel, its numbers do not.
                if not present and parameter.grad is not None and not parameter.grad.any():
                    parameter.grad = None

    def step(self, gradient: Flat, rate: float) -> None:
        """Take one optimizer step; the gradient's buffers become the model's."""
        if self.optimizer is None:
            return self._step_without_parameters(gradient)
        self._rates.set(self.optimizer, rate)
        self.update(gradient)
        with torch.no_grad():
            self.set_buffers(gradient.buffers)

    def update(self, gradient: Flat) -> None:
        """Let the optimizer step along a gradient, at the rate that it has."""
        assert self.optimizer is not None
        self._set_gradients(gradient)
        if self.clip_norm is not None:
            self._clip(self.clip_norm)
        self.optimizer.step()
        for parameter in self.parameters:
            parameter.grad = None

    def _step_without_parameters(self, gradient: Flat) -> None:
        """Take part in what the other stages of a pipeline do together, and keep buffers."""
        if self.clip_norm is not None and self.sum_over_ranks is not None:
            self.sum_over_ranks(torch.zeros((), dtype=self.dtype, device=self.device))
        with torch.no_grad():
            self.set_buffers(gradient.buffers)

    def _clip(self, largest: float) -> None:
        # Gradients are values that others may hold: scale copies, never in place.
        held = [(share, p) for share, p in zip(self.norm_shares, self.parameters, strict=True) if p.grad is not None]
        squares = torch.zeros((), dtype=self.dtype, device=self.device)
        if held:
            squares = torch.stack([share * torch.linalg.vector_norm(p.grad) ** 2 for share, p in held]).sum()
        if self.sum_over_ranks is not None:
            self.sum_over_ranks(squares)
        scale = torch.clamp(largest / (squares.sqrt() + 1e-6), max=1.0)
        for _, parameter in held:
            assert parameter.grad is not None
            parameter.grad = parameter.grad * scale

    @property
    def shapes(self) -> dict[str, torch.Size]:
        """Shapes of the parameters, by name; complex numbers as pairs."""
        return {name: as_real(p).shape for name, p in zip(self.names, self.parameters, strict=True)}

    @property
    def parameters_like(self) -> torch.Tensor:
        """Return a tensor of no numbers, of the flat parameters' type and on their device."""
        return torch.empty(0, dtype=self.dtype, device=self.device)

    def split(self, value: Flat) -> list[torch.Tensor]:
        """Return a value's parameters' part as one tensor per parameter."""
        if len(value.pieces) == len(self.parameters) and value.pieces[0].shape == as_real(self.parameters[0]).shape:
            return list(value.pieces)
        parts = zip(value.vector().split(self._sizes), self.parameters, strict=True)
        return [part.view_as(as_real(p)) for part, p in parts]

    def named(self, value: Flat) -> dict[str, torch.Tensor]:
        """Return a value's parameters' part by name, in the parameters' shapes; not to be written to."""
        return {name: read_only(part) for name, part in zip(self.names, self.split(value), strict=True)}

    def autocast(self) -> AbstractContextManager[object]:
        """Compute in bfloat16 where the scenario asks for it."""
        if self.precision != "bf16":
            return nullcontext()
        context: AbstractContextManager[object] = torch.autocast(self.device.type, dtype=torch.bfloat16)
        return context

    # -- evaluation ----------------------------------------------------------------------------------------------

    def evaluate(self, split: str) -> tuple[float, float]:
        """Return mean loss and metric over the "validation" or "test" split; nothing that training uses is moved."""
        dtype = torch.bfloat16 if self.precision == "bf16" else None
        samples, members = getattr(self.data, split), [partial(self.load, weights) for weights in self.members]
        kept = self.snapshot() if members else None
        with self._put_back() if self.trial is not None else nullcontext():
            found = evaluate(self.module, samples, self.loss_name, autocast=dtype, metric=self.metric, members=members)
        if kept is not None:
            self.load(kept)
        return found

    @contextmanager
    def _put_back(self) -> Iterator[None]:
        """Let a model of the user's own draw, count and write to its buffers, and forget it."""
        state, buffers = plain_state(self.module), [(buffer, buffer.detach().clone()) for buffer in self.buffers]
        held = [(owner, name, owner._buffers[name]) for owner, name in self._buffer_places]
        try:
            with seeded(0, "evaluation", device=self.device):
                yield
        finally:
            for owner, name, buffer in held:
                owner._buffers[name] = buffer
            with torch.no_grad():
                for buffer, value in buffers:
                    buffer.copy_(value)
            put_back(self.module, state)

    # -- what a step leaves behind -------------------------------------------------------------------------------

    def plain_state(self) -> PlainState:
        """Return what the model keeps besides parameters and buffers."""
        return plain_state(self.module)

    def set_plain_state(self, state: PlainState) -> None:
        """Give that back."""
        put_back(self.module, state)

    def optimizer_on(self, parts: Mapping[int, torch.Tensor]) -> torch.optim.Optimizer | None:
        """Return this replica's optimizer for tensors that stand for its parameters, by their ids."""
        return None if self.optimizer is None else on_parts(self.optimizer, parts)


def convert(module: nn.Module, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a module, and compute in `dtype`; complex parameters stay complex, in the same precision."""
    if not any(p.is_complex() for p in (*module.parameters(), *module.buffers())):
        return module.to(device=device, dtype=dtype)
    pairs = {False: dtype, True: torch.complex128 if dtype == torch.float64 else torch.complex64}
    return module._apply(
        lambda t: t.to(device, pairs[t.is_complex()] if t.is_complex() or t.is_floating_point() else None)
    )


def _handed_over(parameter: torch.Tensor) -> torch.Tensor:
    gradient = parameter.grad
    if gradient is None:
        return torch.zeros_like(as_real(parameter.detach()))
    return as_real(gradient.to_dense() if gradient.layout is torch.sparse_coo else gradient)


def build_module(model: Model, options: object, shape: DataShape, seed: int) -> nn.Module:
    """Build and initialise a model from the run's own stream; the global generator is left as it was."""
    with seeded(seed, "init"):
        module: nn.Module = model.build(options, shape)
        if any(isinstance(p, nn.parameter.UninitializedParameter) for p in module.parameters()):
            _initialise(model, module, shape)
    return module


@contextmanager
def seeded(seed: int, *stream: str | int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from a stream of the run's own, whichever generator is asked; all are put back as they were.

    Args:
        device: whose own generator is put back too, where it has one.
    """
    with drawing_from(stream_seed(seed, *stream), device):
        yield


def seed_step(generators: Sequence[str], seed: int, *origin: int) -> None:
    """Let a forward pass draw from the stream of its worker, step and replica, whichever generators it draws from.

    Args:
        generators: as a replica has them; nothing is done where there are none.
        origin: worker, step, number of the replica.
    """
    if not generators:
        return
    number = stream_seed(seed, "dropout", *origin)
    torch.manual_seed(number)
    if "numpy" in generators:
        np.random.seed(number % 2**32)
    if "random" in generators:
        random.seed(number)


def _initialise(model: Model, module: nn.Module, shape: DataShape) -> None:
    """Let lazy layers see what they take, without training anything.

    Raises:
        Misfit: the model does not take such data.
    """
    from harness.workloads.batches import blank

    training = module.training
    inputs = blank(shape, 2, next_dtype(module))[0]
    try:
        with torch.no_grad():
            call(module.eval(), inputs)
    except Exception as error:
        if lacks_memory(error):
            raise
        files = [str(model.file.path)] if model.file else []
        raise not_taken(model.name, files, module, error, GivenBatch("the data", (), inputs)) from error
    module.train(training)


def next_dtype(module: nn.Module) -> torch.dtype:
    """Return the type that a module computes in, as far as its first number tells."""
    held = (
        t for t in (*module.parameters(), *module.buffers()) if not isinstance(t, nn.parameter.UninitializedTensorMixin)
    )
    return next((t.dtype for t in held if t.is_floating_point()), torch.float32)


def mergeable(replica: Replica) -> bool:
    """Whether gradients at the same weights may be computed together.

    Not where a layer draws, nor where one has buffers: they are what a forward pass over many samples leaves behind.
    """
    return not (replica.draws or replica.buffers or replica.optional or replica.loss_of_whole)


def draws(module: nn.Module) -> bool:
    """Whether a forward pass in training draws random numbers."""
    drawing = (nn.modules.dropout._DropoutNd, nn.RReLU)
    return any(isinstance(layer, drawing) and getattr(layer, "p", 1.0) > 0 for layer in module.modules())
