"""Logarithms in a table of rows and blocks: what rows differ by once what a block has in common is taken off.

Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean, median

from harness.analysis.student import above, t_quantile

COMPLETE = 0.75
"""Share of the blocks that must have every row for the others to be left out; chosen: below it more is lost than what
a balanced table gains."""

SWEEPS = 100
"""Of the fit of a table with holes: each takes off what rows and blocks still have in common."""

LOUD = 2.0
"""Multiple of the median variance of its group from which on a row speaks for itself; chosen by simulation."""

OUTLYING = 3.0
"""Robust standard deviations beyond which a value is drawn in; chosen by simulation: a tenth of runs that are 40 % too
long cost half as much power, and identical rows are told apart no more often."""

LEAST_BLOCKS, LEAST_DEGREES = 5, 12
"""Below either nothing is drawn in: the spread is not known well enough."""

LEAST_SHARED = 2
"""Blocks that two rows must share: one says nothing of how their difference spreads."""

NO_VARIANCE = 1e-12
"""Variance of logarithms below which there is rounding only."""

ROBUST = 1.4826
"""Standard deviation of a normal over its median absolute deviation."""


@dataclass(frozen=True)
class Difference:
    """A difference of logarithms.

    Attributes:
        error: standard error; degrees: of freedom behind it.
        blocks: that it rests on.
    """

    log: float
    error: float
    degrees: float
    blocks: int

    @property
    def spread(self) -> float:
        """Standard deviation of the difference in one block."""
        return self.error * math.sqrt(self.blocks)

    def exceeds(self, bound: float, choices: int = 1) -> bool:
        """Say whether the difference is certainly above a bound, at 97.5 % on this side.

        Args:
            choices: of how many the one that looks best was picked.
        """
        return self.chance_below(bound) < 1 - math.pow(0.975, 1 / choices)

    def chance_below(self, bound: float) -> float:
        """Return how probable so large a difference were, had it been at the bound."""
        if self.error <= 0:
            return 0.0 if self.log > bound else 1.0
        return above((self.log - bound) / self.error, self.degrees)

    def half_width(self, probability: float) -> float:
        """Return what lies between the difference and its one-sided bound."""
        return t_quantile(probability, self.degrees) * self.error if self.error > 0 else 0.0

    def plus(self, other: Difference) -> Difference:
        """Return the sum of two independent ones.

        Source: F. E. Satterthwaite 1946, An approximate distribution of estimates of variance components.
        """
        squares = (self.error**2, other.error**2)
        degrees = _joint_degrees(zip(squares, (self.degrees, other.degrees), strict=True))
        return Difference(self.log + other.log, math.sqrt(sum(squares)), degrees, min(self.blocks, other.blocks))


def _joint_degrees(parts: Iterable[tuple[float, float]]) -> float:
    known = [(square, degrees) for square, degrees in parts if square > 0]
    shares = sum(square**2 / degrees for square, degrees in known)
    return max(sum(square for square, _ in known) ** 2 / shares, 2.0) if shares else math.inf


@dataclass(frozen=True)
class TwoWay:
    """Logarithms by row and block.

    Attributes:
        groups: of rows that are taken to spread alike, by row; empty: all of them.
        robust: whether values that lie far out are drawn in.
    """

    values: Mapping[Hashable, Mapping[Hashable, float]]
    groups: Mapping[Hashable, Hashable]
    robust: bool = False

    @cached_property
    def _kept(self) -> dict[Hashable, dict[Hashable, float]]:
        """Blocks that have every row, where nearly all have."""
        rows = {row: dict(blocks) for row, blocks in self.values.items() if blocks}
        every = set().union(*rows.values()) if rows else set()
        whole = set.intersection(*(set(blocks) for blocks in rows.values())) if rows else set()
        if len(whole) < COMPLETE * len(every):
            return rows
        return {row: {block: blocks[block] for block in blocks if block in whole} for row, blocks in rows.items()}

    @cached_property
    def degrees(self) -> int:
        """Of freedom of what rows and blocks leave over."""
        blocks = set().union(*self._kept.values()) if self._kept else set()
        count = sum(map(len, self._kept.values()))
        return max(count - len(self._kept) - len(blocks) + 1, 0)

    @cached_property
    def _drawn_in(self) -> tuple[dict[Hashable, dict[Hashable, float]], bool]:
        """Values with those far out drawn in, and whether there were any."""
        kept = self._kept
        few = min(map(len, kept.values()), default=0) < LEAST_BLOCKS or self.degrees < LEAST_DEGREES
        if not self.robust or few:
            return kept, False
        middle = {row: median(blocks.values()) for row, blocks in kept.items()}
        off = [abs(value - middle[row]) for row, blocks in kept.items() for value in blocks.values()]
        limit = OUTLYING * ROBUST * median(off) * math.sqrt(len(off) / self.degrees)
        if limit <= 0 or max(off) <= limit:
            return kept, False
        drawn = {
            row: {block: min(max(value, middle[row] - limit), middle[row] + limit) for block, value in blocks.items()}
            for row, blocks in kept.items()
        }
        return drawn, True

    @cached_property
    def _effects(self) -> tuple[dict[Hashable, float], dict[Hashable, float]]:
        """What each row and each block has; the mean over blocks is in the rows."""
        values = self._drawn_in[0]
        by_block: dict[Hashable, list[tuple[Hashable, float]]] = {}
        for row, blocks in values.items():
            for block, value in blocks.items():
                by_block.setdefault(block, []).append((row, value))
        rows, blocks = dict.fromkeys(values, 0.0), dict.fromkeys(by_block, 0.0)
        for _ in range(SWEEPS):
            before = dict(rows)
            rows = {row: fmean(value - blocks[b] for b, value in there.items()) for row, there in values.items()}
            blocks = {block: fmean(value - rows[r] for r, value in there) for block, there in by_block.items()}
            if all(abs(rows[row] - before[row]) < 1e-13 for row in rows):
                break
        level = fmean(blocks.values()) if blocks else 0.0
        return {row: value + level for row, value in rows.items()}, {b: value - level for b, value in blocks.items()}

    @property
    def means(self) -> dict[Hashable, float]:
        """By row, over all blocks."""
        return self._effects[0]

    @cached_property
    def _variances(self) -> dict[Hashable, tuple[float, float]]:
        """By row the variance of what is left over, with its degrees of freedom."""
        values, (rows, blocks) = self._drawn_in[0], self._effects
        free = sum(len(there) - 1 for there in values.values())
        found = {}
        for row, there in values.items():
            squares = sum((value - rows[row] - blocks[block]) ** 2 for block, value in there.items())
            degrees = self.degrees * (len(there) - 1) / free if free else 0.0
            found[row] = (squares / degrees if degrees else 0.0, degrees)
        return found

    @cached_property
    def _by_group(self) -> dict[Hashable, tuple[float, float, float]]:
        """By group the pooled variance, its degrees and the median over rows."""
        members: dict[Hashable, list[tuple[float, float]]] = {}
        for row, own in self._variances.items():
            members.setdefault(self.groups.get(row), []).append(own)
        found: dict[Hashable, tuple[float, float, float]] = {}
        for group, known in members.items():
            degrees = sum(free for _, free in known)
            pooled = sum(variance * free for variance, free in known) / degrees if degrees else 0.0
            found[group] = (pooled, degrees, median(variance for variance, _ in known))
        return found

    def spread_of(self, group: Hashable) -> float:
        """Return the pooled variance of a group's rows in one block."""
        return self._by_group[group][0]

    def difference(self, first: Hashable, second: Hashable) -> Difference | None:
        """Return second less first; None where there is nothing to tell the error from."""
        kept = self._drawn_in[0]
        if self.degrees < 1 or len(kept.get(first, {}).keys() & kept.get(second, {}).keys()) < LEAST_SHARED:
            return None
        squares = []
        for row in (first, second):
            (own, free), (pooled, degrees, typical) = self._variances[row], self._by_group[self.groups.get(row)]
            loud = bool(self.groups) and own > LOUD * typical
            variance = max(own, pooled) if self.groups else pooled
            squares.append((variance / len(kept[row]), free if loud else degrees))
        total = sum(square for square, _ in squares)
        log, blocks = self.means[second] - self.means[first], min(len(kept[first]), len(kept[second]))
        if total <= NO_VARIANCE / blocks:
            return Difference(log, 0.0, math.inf, blocks)
        alike = not self.groups or (self.groups[first] == self.groups[second] and squares[0][1] == squares[1][1])
        degrees = float(self.degrees) if not self.groups else squares[0][1] if alike else _joint_degrees(squares)
        # What was drawn in makes the rest look quieter than it is.
        wider = 1.1 * (1 + 1 / self.degrees) if self._drawn_in[1] else 1.0
        return Difference(log, wider * math.sqrt(total), degrees, blocks)
