"""Draw what a cell's faults do to each rank and step: the same numbers on both engines, in any order of asking."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np

from harness.core.endings import Cause
from harness.core.errors import HarnessError
from harness.core.faults import can_go_on
from harness.core.streams import numpy_stream, python_stream

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.core.cell import Cell

REMEMBERED = 16
"""Steps whose factors are kept; chosen: ranks of equal pace are hardly further apart, and drawing again is cheap."""


class Lost(BaseException):
    """A planned death; raised through a worker's program, which must not catch it."""

    def __init__(self, rank: int, when: str) -> None:
        super().__init__(rank, when)
        self.rank, self.when = rank, when


class PlannedDeath(HarnessError):
    """A death that the scenario plans, and that the strategy's other endpoints cannot go on after."""

    cause = Cause.FAULT


class FaultDraws:
    """The faults of one cell, drawn from streams named by purpose and step.

    Factors of a step are drawn for all ranks from one stream in the order of ranks, so that more ranks change nobody's.
    """

    def __init__(self, cell: Cell) -> None:
        self.faults = cell.faults
        self._seed, self._ranks = cell.seed, cell.gpus
        self._slowdowns = self._draw_stragglers()
        self._by_step: OrderedDict[int, npt.NDArray[np.float64]] = OrderedDict()

    def _draw_stragglers(self) -> npt.NDArray[np.float64]:
        slowdowns = np.ones(self._ranks)
        for number, straggler in enumerate(self.faults.stragglers):
            if straggler.rank is not None:
                chosen = [straggler.rank]
            else:
                assert straggler.fraction is not None
                count = max(1, round(straggler.fraction * self._ranks))
                chosen = python_stream(self._seed, "faults", "stragglers", number).sample(range(self._ranks), count)
            slowdowns[chosen] *= straggler.slowdown
        return slowdowns

    def factors(self, step: int) -> npt.NDArray[np.float64]:
        """Return how many times its mean each rank's compute takes in a step, shape (ranks,)."""
        if self.faults.compute_jitter is None:
            return self._slowdowns
        if step not in self._by_step:
            self._by_step[step] = self._slowdowns * np.maximum(self._draw_jitter(step), self.faults.floor)
            if len(self._by_step) > REMEMBERED:
                self._by_step.popitem(last=False)
        return self._by_step[step]

    def _draw_jitter(self, step: int) -> npt.NDArray[np.float64]:
        jitter, stream = self.faults.compute_jitter, numpy_stream(self._seed, "faults", "jitter", step)
        assert jitter is not None
        if jitter.distribution == "exponential":
            return stream.standard_exponential(self._ranks)
        return np.exp(jitter.sigma * stream.standard_normal(self._ranks) - jitter.sigma**2 / 2)

    def of(self, ranks: range, step: int) -> tuple[float, ...]:
        """Return the factors of some ranks in a step; none where nothing is ever slowed."""
        if not self.faults.slows:
            return ()
        return tuple(self.factors(step)[ranks.start : ranks.stop].tolist())

    def raise_if_lost(self, ranks: range, steps: int, clock_s: float) -> None:
        """End a worker's program where one of its devices has died.

        Args:
            ranks: of the worker's devices.
            steps: that the worker has finished.
            clock_s: seconds of training.

        Raises:
            Lost: one has; raised before the next step begins.
        """
        for death in self.faults.deaths:
            if death.rank in ranks and death.due(steps, clock_s):
                raise Lost(death.rank, death.when)


def words_of_loss(cell: Cell, rank: int, when: str, alone: bool) -> tuple[bool, str]:
    """Return whether the others go on without a rank, and what the record says of it.

    Args:
        alone: whether no other worker is left.
    """
    who = f"rank {rank}" if cell.gpus > cell.workers else f"worker {rank}"
    died = f"{who} died {when} as planned"
    if not can_go_on(cell.synchrony, cell.server_counts):
        return False, f"{died}; {cell.strategy} cannot go on without it"
    return not alone, f"{died}; " + ("nobody is left" if alone else "the others went on")
