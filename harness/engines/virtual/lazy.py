"""Lazy values: a gradient is a handle until somebody applies it, and equal work is done once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from harness.api.strategy import Value
from harness.engines.shared.flat import Flat, Spread
from harness.engines.shared.sample_order import Indices
from harness.engines.shared.started_words import as_value

Merged = Callable[[Flat, Indices, Any], Flat]


class Lazy(Value):
    """A value that is computed when it is first needed, and known by its size until then."""

    def __init__(self, num_bytes: int, num_samples: int, version: int) -> None:
        self._num_bytes = num_bytes
        self.num_samples = num_samples
        self.version = version
        self._flat: Flat | None = None

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def force(self) -> Flat:
        """Compute once."""
        if self._flat is None:
            self._flat = self._compute()
            self._flat.num_samples, self._flat.version = self.num_samples, self.version
        return self._flat

    def tensor(self) -> Any:
        """Compute, and return the parameters' part."""
        return self.force().tensor()

    @property
    def buffers(self) -> Any:
        """Compute, and return the buffers' part."""
        return self.force().buffers

    def _compute(self) -> Flat:
        raise NotImplementedError

    @property
    def spread(self) -> Spread | None:
        """How far the gradients behind it lay apart; None before it is computed, and where they were one pass."""
        return self._flat.spread if self._flat is not None else None

    def averaged_with(self, others: Sequence[Value]) -> Value:
        return Average([self, *others])

    def with_tensor(self, parameters: torch.Tensor | Value) -> Value:
        """Compute, and put other numbers in the parameters' place; where it came from stays known."""
        made = self.force().with_tensor(parameters)
        made.origin = getattr(self, "origin", made.origin)
        return made

    def zeros(self) -> Flat:
        """Compute, and return zeros of the same form."""
        return self.force().zeros()

    def __add__(self, other: Value) -> Value:
        other = as_value(other, "+")
        return Operation(lambda: self.force() + other, self)

    def __sub__(self, other: Value) -> Value:
        other = as_value(other, "-")
        return Operation(lambda: self.force() - other, self)

    def __mul__(self, factor: float) -> Value:
        return Operation(lambda: self.force() * factor, self)

    __rmul__ = __mul__


class Operation(Lazy):
    """Arithmetic on lazy values, done as the real engine would do it."""

    def __init__(self, compute: Callable[[], Flat], like: Value) -> None:
        super().__init__(like.num_bytes, like.num_samples, like.version)
        self._operation = compute

    def _compute(self) -> Flat:
        return self._operation()


class Gradient(Lazy):
    """The gradient of one worker's batch at one version of the weights.

    Args:
        compute: computes it alone.
        merged: computes the gradients of several batches at the same weights in one pass, from weights, indices and
            the weight of each sample; None where that is not exact enough.

    Attributes:
        origin: (worker, step) that it came from.
        loss_box: holds the loss once it is known; outlives the gradient, so that a log of losses keeps no tensors.
    """

    def __init__(
        self,
        compute: Callable[[], Flat],
        weights: Flat,
        indices: Indices,
        weight: float,
        origin: tuple[int, int],
        merged: Merged | None = None,
    ) -> None:
        super().__init__(weights.num_bytes, len(indices), weights.version)
        self.compute: Callable[[], Flat] | None = compute
        self.weights: Flat | None = weights
        self.indices = indices
        self.weight = weight
        self.origin = origin
        self.merged = merged
        self.loss_box: list[object] = [None]

    @property
    def pending(self) -> bool:
        """Whether nobody has needed it yet."""
        return self._flat is None

    def _compute(self) -> Flat:
        assert self.compute is not None
        flat = self.compute()
        self.loss_box[0] = flat.loss
        self.compute = self.weights = None  # lets go of old weights; the result stays
        return flat


class Average(Lazy):
    """The mean of several values; gradients at the same weights are computed in one pass where that is exact enough."""

    def __init__(self, values: Sequence[Value], shares: Sequence[float] | None = None) -> None:
        super().__init__(values[0].num_bytes, sum(v.num_samples for v in values), min(v.version for v in values))
        self.values = values
        self.shares = shares

    def _compute(self) -> Flat:
        together = self._together()
        if together is not None:
            return together
        if self.shares is None:
            first, *others = [v.force() for v in self.values]  # type: ignore[attr-defined]
            averaged: Flat = first.averaged_with(others)
            return averaged
        return weighted_mean([v.force() for v in self.values], self.shares)  # type: ignore[attr-defined]

    def _together(self) -> Flat | None:
        leaves = self.values
        if not all(isinstance(leaf, Gradient) and leaf.pending for leaf in leaves):
            return None
        first = leaves[0]
        assert isinstance(first, Gradient)
        assert first.weights is not None
        pieces = first.weights.pieces
        if first.merged is None or any(leaf.weights.pieces is not pieces for leaf in leaves):  # type: ignore[attr-defined]
            return None
        return self._merge(first, leaves)  # type: ignore[arg-type]

    def _merge(self, first: Gradient, leaves: Sequence[Gradient]) -> Flat:
        shares = self.shares or [1 / len(leaves)] * len(leaves)
        weights = [leaf.weight * share for leaf, share in zip(leaves, shares, strict=True)]
        indices = np.concatenate([leaf.indices for leaf in leaves])
        weight: object = weights[0]
        if any(other != weight for other in weights):
            weight = np.concatenate([np.full(len(x.indices), w) for x, w in zip(leaves, weights, strict=True)])
        assert first.weights is not None
        assert first.merged is not None
        flat = first.merged(first.weights, indices, weight)
        for leaf in leaves:
            leaf.loss_box[0] = flat.loss
        return flat


def weighted_mean(values: Sequence[Flat], shares: Sequence[float]) -> Flat:
    """Return the sum of value times share, in the order given."""
    total = values[0] * shares[0]
    for value, share in zip(values[1:], shares[1:], strict=True):
        total = total + value * share
    return total
