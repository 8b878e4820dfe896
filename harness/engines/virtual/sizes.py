"""What a virtual cluster computes in a timing-only cell: nothing, but everything has its size.

Programs run as they are: values know their bytes, samples and versions, so messages take their time, staleness is
counted and budgets are spent. No number is trained, so nothing is evaluated. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from harness.api.strategy import Batch, Table, Value
from harness.core.budget import Marks
from harness.core.errors import PluginError
from harness.core.not_known import NotKnown
from harness.core.outcome import CountedDram
from harness.costs.memory import Placement
from harness.engines.shared.endpoint import Course
from harness.engines.shared.sample_order import Indices
from harness.engines.shared.started_words import as_value

if TYPE_CHECKING:
    import torch

    from harness.core.addresses import Address
    from harness.engines.shared.setup import Setup


class NeedsNumbers(PluginError):
    """A program reads a value's numbers in a timing-only cell."""


class Size(Value):
    """A value of which only the size is known.

    Attributes:
        origin: (worker, step) that a gradient came from; (None, None) for anything else.
        loss_box: what a computed gradient keeps its loss in; here it stays empty.
    """

    def __init__(
        self,
        num_bytes: int,
        num_samples: int = 0,
        version: int = 0,
        origin: tuple[int | None, int | None] = (None, None),
    ) -> None:
        self._num_bytes = num_bytes
        self.num_samples = num_samples
        self.version = version
        self.origin = origin
        self.loss_box: list[object] = [None]

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def tensor(self) -> NoReturn:
        """Refuse: there are no numbers.

        Raises:
            NeedsNumbers: always.
        """
        raise _needs_numbers("tensor()")

    def averaged_with(self, others: Sequence[Value]) -> Size:
        values = [self, *others]
        return Size(self._num_bytes, sum(v.num_samples for v in values), min(v.version for v in values))

    def with_tensor(self, parameters: torch.Tensor | Value) -> Size:
        """Return the same size: what another value's numbers would take.

        Raises:
            NeedsNumbers: the numbers are given as a tensor.
        """
        if not isinstance(parameters, Value):
            raise _needs_numbers("with_tensor(tensor)")
        return Size(self._num_bytes, self.num_samples, self.version, self.origin)

    def zeros(self) -> Size:
        """Return the same size, with no samples behind it."""
        return Size(self._num_bytes, 0, self.version)

    def __add__(self, other: Value) -> Size:
        as_value(other, "+")
        return self * 1.0

    def __sub__(self, other: Value) -> Size:
        as_value(other, "-")
        return self * 1.0

    def __mul__(self, factor: float) -> Size:
        return Size(self._num_bytes, self.num_samples, self.version)

    __rmul__ = __mul__


def _needs_numbers(word: str) -> NeedsNumbers:
    return NeedsNumbers(
        f"{word} in a timing-only cell: values have sizes but no numbers; set a target or evaluate_every in [goal] to "
        "have this cell computed"
    )


class SizedCourse(Course):
    """A worker's way through batches that are all full: in a timing-only cell samples are only counted."""

    def __init__(self, setup: Setup, rank: Address) -> None:
        cell = setup.cell
        self.setup, self.rank = setup, rank
        self.own = setup.strategy.batches == "own"
        self.marks = Marks(setup.budget.evaluate_every)
        self.position = 0
        self.size = cell.global_batch_size
        self.part = _no_numbers(self.size if self.own else _part(self.size, rank, cell.workers))

    def batches(self) -> Iterator[Batch]:
        shares = 1 if self.own else self.setup.cell.workers
        step = 0
        while not self.spent(step * self.size, step):
            self.position = step * self.size
            yield Batch(step, self.part, self.size, shares, self.position, self.size)
            step += 1

    def total(self, samples: int, steps: int) -> int:
        return samples * self.setup.cell.workers if self.own else samples


def _part(size: int, rank: int, workers: int) -> int:
    even, larger = divmod(size, workers)
    return even + (rank < larger)


def _no_numbers(samples: int) -> Indices:
    # One zero seen `samples` times: as long as a batch of a million, and eight bytes in memory.
    indices: Indices = np.broadcast_to(np.zeros(1, dtype=np.int64), samples)
    return indices


class Sizes:
    """The executor of a timing-only cell.

    Args:
        parameter_bytes: of weights and of a gradient.
        buffer_bytes: that travel with both.
        dram: counts the tensors of the fullest device.
    """

    def __init__(
        self, setup: Setup, parameter_bytes: int, buffer_bytes: int, dram: Callable[[], CountedDram | NotKnown]
    ) -> None:
        self.setup = setup
        self.num_bytes = parameter_bytes + buffer_bytes
        self._dram = dram

    def course(self, rank: Address) -> SizedCourse:
        """Return a worker's way through its batches."""
        return SizedCourse(self.setup, rank)

    def initial_weights(self) -> Size:
        """Return version 0."""
        return Size(self.num_bytes)

    def adopt(self, weights: Value, num_samples: int) -> Size:
        """Return the weights as an endpoint that loads them holds them."""
        return Size(weights.num_bytes, num_samples, weights.version)

    def gradient_of(self, weights: Value, indices: Indices, weight: float, origin: tuple[int, int]) -> Size:
        """Return a gradient's size."""
        return Size(weights.num_bytes, len(indices), weights.version, origin)

    def average(self, values: Sequence[Value], shares: Sequence[float] | None = None) -> Value:
        """Return the size of the mean."""
        first, *others = values
        return first.averaged_with(others)

    def step(self, weights: Value, gradient: Value, state: Any, rate: float) -> tuple[Size, Any]:
        """Count one update."""
        return Size(weights.num_bytes, weights.num_samples + gradient.num_samples, weights.version + 1), state

    def layers(self, value: Value) -> NoReturn:
        """Refuse: there are no numbers.

        Raises:
            NeedsNumbers: always.
        """
        raise _needs_numbers("layers()")

    def mean_model(self, states: Sequence[Value], ensemble: bool = False) -> Value:
        """Return the size of the workers' mean."""
        return self.average(states)

    def evaluate(self, weights: Value, split: str) -> NoReturn:
        """Never called: a timing-only cell's budget evaluates nothing."""
        raise AssertionError("a timing-only cell was evaluated")

    def vector(self, weights: Value) -> None:
        """Return nothing: there are no numbers."""

    def notes(self, placement: Placement | None) -> list[str]:
        """Return what the record should say about the model's cut."""
        if placement is None:
            return []
        stages = "; ".join(f"stage {k}: {_span(names)}" for k, names in enumerate(placement))
        return [stages]

    def dram(self, placement: Placement | None, table: Table) -> CountedDram | NotKnown:
        """Return the tensors of the device that holds most."""
        return self._dram()


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} layers)"
