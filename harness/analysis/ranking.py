"""Who is ahead: points by what they cost, seeds that failed counted as what they are.

Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from harness.analysis.censored import Beats, SeedRun, beats, expected_time, probability_interval, run_of
from harness.analysis.exact import MIN_SEEDS, median_interval
from harness.analysis.judged_rows import sought_of, sought_value
from harness.analysis.points import Point, Row, number
from harness.core.endings import Status

ENOUGH = 0.5
"""Share of the seeds that must reach the target for a point to be ranked with those that do; chosen: below it even
the median run fails, and of many points tried some are fast once by luck."""

MOST_SEEDS = 100
"""More seeds than this are not asked for: nobody runs them; chosen."""


@dataclass(frozen=True)
class Standing:
    """A point and what its seeds say of it, in seconds: to the target, or for a sample where there is none."""

    point: Point

    @cached_property
    def runs(self) -> tuple[SeedRun, ...]:
        """Seeds that trained to an end; for speed alone one that did not end well has no value."""
        return tuple(run for row in self.point.rows if (run := self._run(row)) is not None)

    @property
    def seeds(self) -> int:
        """How many were tried."""
        return len(self.point.rows)

    @property
    def reached(self) -> int:
        """Seeds with a value to rank."""
        return sum(run.reached for run in self.runs)

    @property
    def sure(self) -> bool:
        """Whether every seed reached what was asked."""
        return self.reached == self.seeds

    @cached_property
    def seconds(self) -> float:
        """The median where every seed got there, else the expected time with failed runs repeated; inf for never."""
        got_there = [run.spent for run in self.runs if run.reached]
        if self.sure or (got_there and not self.point.by_target):
            return median(got_there)
        return expected_time(self.runs)

    @property
    def interval(self) -> tuple[float, float, float] | None:
        """Interval of the median with its coverage; None below five seeds or where a seed did not get there."""
        return median_interval([run.spent for run in self.runs]) if self.sure else None

    @property
    def learnt(self) -> float | None:
        """Median on the validation split at the end, of what the cells were after."""
        return self.point.median_of(sought_value)

    @property
    def rank(self) -> tuple[bool, float, float, float]:
        """Smaller is better: fewer than half got there, the share that broke, the seconds, then what was learnt."""
        broken = 1 - len(self.runs) / self.seeds
        return (
            self.reached < ENOUGH * self.seeds,
            broken,
            self.seconds,
            sought_of(self.point.row).rank(self.learnt),
        )

    @property
    def middle(self) -> Row:
        """The row of the median seed among those that got there; at least one did."""
        rows = [row for row in self.point.rows if (run := self._run(row)) is not None and run.reached]
        return sorted(rows, key=lambda row: self._spent(row))[(len(rows) - 1) // 2]

    def _run(self, row: Row) -> SeedRun | None:
        run = run_of(row) if self.point.by_target else _speed(row)
        # What broke after it had reached the target did not train to an end all the same.
        return None if run and run.reached and row["status"] != Status.OK else run

    def _spent(self, row: Row) -> float:
        run = self._run(row)
        return run.spent if run else math.inf


def _speed(row: Row) -> SeedRun | None:
    """Return the seconds of a sample, which a cell that ran to its end has."""
    value = number(row, "throughput_samples_per_s")
    return SeedRun(1 / value, reached=True) if row["status"] == Status.OK and value and value > 0 else None


def best_standings(found: Iterable[Point]) -> list[Standing]:
    """Return each strategy's best point, the best strategy first."""
    best: dict[str, Standing] = {}
    for standing in sorted(map(Standing, found), key=lambda standing: standing.rank):
        best.setdefault(standing.point.strategy, standing)
    return list(best.values())


def duel(first: Standing, second: Standing) -> Beats:
    """Return the probability that a fresh run of the first is faster than one of the second."""
    return beats(first.runs, second.runs)


def seeds_to_tell(probability: float) -> int | None:
    """Return how many seeds of each would tell the two apart, were the probability as seen; None above a hundred."""
    for seeds in range(MIN_SEEDS, MOST_SEEDS + 1):
        if not probability_interval(probability, seeds, seeds).holds(0.5):
            return seeds
    return None
