"""Weights and gradients as values: immutable, with the same arithmetic, operation for operation, on both engines."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, NamedTuple

import torch

from harness.api.strategy import Value
from harness.engines.shared.read_only import read_only, writable_copy
from harness.engines.shared.started_words import as_value, mistake, type_name


class Spread(NamedTuple):
    """How far the gradients behind an average lie apart; what the gradient noise scale is estimated from.

    Attributes:
        parts: gradients averaged.
        small_square: mean of their squared lengths.
        big_square: squared length of their mean.
    """

    parts: int
    small_square: float
    big_square: float


class Flat(Value):
    """A computed value: the parameters' part as one vector, or as the pieces of one, and the buffers' part.

    Attributes:
        buffers: float vector of all buffers one after another; None where the model has none.
        loss: sum of the losses behind a gradient over the size of the whole batch; None for weights.
        origin: (worker, step) that a gradient came from; (-1, -1) for anything else.
        spread: of the gradients that an average was made of, where they can be compared.
        members: weights of the ensemble that this mean of theirs stands for; none otherwise.
    """

    origin: tuple[int, int] = (-1, -1)
    spread: Spread | None = None
    members: Sequence[Flat] = ()

    def __init__(
        self,
        pieces: Sequence[torch.Tensor],
        buffers: torch.Tensor | None = None,
        *,
        num_samples: int = 0,
        version: int = 0,
        loss: Any = None,
    ) -> None:
        self.pieces = pieces
        self.buffers = buffers
        self.num_samples = num_samples
        self.version = version
        self.loss = loss

    def tensor(self) -> torch.Tensor:
        """Return the parameters' part for a program to read."""
        return read_only(self.vector())

    def vector(self) -> torch.Tensor:
        """Join the pieces; done once."""
        if len(self.pieces) != 1 or self.pieces[0].dim() != 1 or self.pieces[0].requires_grad:
            self.detach_from_engine()
        return self.pieces[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of parameters and buffers."""
        parts = [*self.pieces, *([] if self.buffers is None else [self.buffers])]
        return sum(part.numel() * part.element_size() for part in parts)

    def force(self) -> Flat:
        """Return itself; a deferred value computes first."""
        return self

    def detach_from_engine(self) -> None:
        """Copy what an engine is about to overwrite."""
        self.pieces = [torch.cat([piece.detach().reshape(-1) for piece in self.pieces])]

    def move_to(self, device: torch.device) -> None:
        """Bring a value that has just arrived to the device that will use it."""
        self.pieces = [piece.to(device) for piece in self.pieces]
        self.buffers = None if self.buffers is None else self.buffers.to(device)

    def on(self, device: torch.device) -> Flat:
        """Return this value's numbers on a device; itself where it is there already."""
        if self.vector().device == device:
            return self
        buffers = None if self.buffers is None else self.buffers.to(device)
        return Flat([self.vector().to(device)], buffers, num_samples=self.num_samples, version=self.version)

    def averaged_with(self, others: Sequence[Value]) -> Flat:
        """Sum in the order given, then divide: the order is part of the result."""
        values = [self, *(force(other) for other in others)]
        total = reduce(lambda a, b: a + b, (v.vector() for v in values[1:]), self.vector())
        mean = Flat(
            [total / len(values)],
            mean_buffers([v.buffers for v in values]),
            num_samples=sum(v.num_samples for v in values),
            version=min(v.version for v in values),
            loss=mean_losses([v.loss for v in values]),
        )
        mean.spread = spread(values, mean)
        return mean

    def with_tensor(self, parameters: torch.Tensor | Value) -> Flat:
        """Copy the numbers, so that whoever made them may go on changing them."""
        made = Flat(
            [_numbers(parameters, self.vector())],
            self.buffers,
            num_samples=self.num_samples,
            version=self.version,
            loss=self.loss,
        )
        made.origin = self.origin
        return made

    def zeros(self) -> Flat:
        """Return zeros in place of all numbers."""
        buffers = None if self.buffers is None else torch.zeros_like(self.buffers)
        return Flat([torch.zeros_like(self.vector())], buffers, version=self.version)

    def __add__(self, other: Value) -> Flat:
        return self._combine(force(as_value(other, "+")), 1.0)

    def __sub__(self, other: Value) -> Flat:
        return self._combine(force(as_value(other, "-")), -1.0)

    def __mul__(self, factor: float) -> Flat:
        buffers = None if self.buffers is None else self.buffers * factor
        return Flat([self.vector() * factor], buffers, num_samples=self.num_samples, version=self.version)

    __rmul__ = __mul__

    def _combine(self, other: Flat, sign: float) -> Flat:
        buffers = None
        if self.buffers is not None and other.buffers is not None:
            buffers = torch.add(self.buffers, other.buffers, alpha=sign)
        pieces = [torch.add(self.vector(), other.vector(), alpha=sign)]
        return Flat(pieces, buffers, num_samples=self.num_samples, version=self.version)


def _numbers(given: torch.Tensor | Value, like: torch.Tensor) -> torch.Tensor:
    if isinstance(given, Value):
        return force(given).vector()
    if not isinstance(given, torch.Tensor) or given.shape != like.shape or given.is_complex():
        shown = f"{given.dtype} of shape {tuple(given.shape)}" if isinstance(given, torch.Tensor) else type_name(given)
        raise mistake(
            f"with_tensor takes a tensor of shape {tuple(like.shape)}, as tensor() returns it, or a value; got {shown}"
        )
    return writable_copy(given, like)


def force(value: Value) -> Flat:
    """Return the computed form of any engine's value."""
    computed: Flat = value.force()  # type: ignore[attr-defined]
    return computed


def spread(values: Sequence[Flat], mean: Flat) -> Spread | None:
    """Measure how far gradients lie apart, reading each once more; None for values that cannot be compared so.

    They can be where all are gradients at the same weights, over equally many samples: then each is the mean over its
    own. On another device than the CPU reading a number would make the host wait.
    """
    gradients = len(values) > 1 and all(v.loss is not None and v.num_samples > 0 for v in values)
    alike = len({(v.version, v.num_samples) for v in values}) == 1
    if not (gradients and alike and mean.vector().device.type == "cpu"):
        return None
    return Spread(len(values), sum(_square(v) for v in values) / len(values), _square(mean))


def _square(value: Flat) -> float:
    vector = value.vector()
    return float(torch.dot(vector, vector))


def mean_buffers(buffers: Sequence[torch.Tensor | None]) -> torch.Tensor | None:
    """Average the buffers, where every value has some."""
    present = [b for b in buffers if b is not None]
    return sum(present[1:], present[0]) / len(present) if present and len(present) == len(buffers) else None


def mean_losses(losses: Sequence[Any]) -> Any:
    """Average the losses, where every value has one."""
    present = [loss for loss in losses if loss is not None]
    return sum(present) / len(present) if present and len(present) == len(losses) else None
