"""Since when is it slower? Change points of series with one value a night, found each night on what came before.

A window-limited generalised likelihood ratio: the newest 2 to 10 nights against up to 30 before them. Both sides are
read robustly, so that neither one loud night nor several spread over a month are taken for a step.

Source: T. L. Lai, Sequential changepoint detection in quality control and dynamical systems, JRSS B 57 (1995).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median

from harness.analysis.two_way import ROBUST

LEAST = math.log(1.03)
"""Logarithm of the smallest step that counts; chosen: machines are not stable enough for less."""

WARM_UP = 8
"""Nights at the old level that are needed; chosen: of fewer the spread is hardly known."""

BASELINE = 30
"""Nights at the old level that count at most; chosen: a month."""

WINDOWS = range(2, 11)
"""Nights at the new level that are looked at; one alone is an outlier."""

LEAST_SPREAD = 0.003
"""Least spread of a night, of a logarithm: of few nights it can look like nothing; chosen."""

FIRST_NIGHTS = WARM_UP + 3
"""Nights before which no series can have a change point: two new ones, each of which counts for four spreads at most,
are never sure enough after so few."""

PLACES = 13
"""Nights back in which the place of a change is looked for: the longest window and some; chosen."""

PLACE_DOUBT = 3.0
"""Difference of log-likelihoods up to which another place is as good; chosen by simulation: `benchmarks/statistics.py
--only history` prints how often the places that are named hold the true one."""

MACHINE_LEAST, MACHINE_THRESHOLD = math.log(1.05), 5.0
"""Of the reference's own steps: they start every series anew, which costs `WARM_UP` nights; chosen by simulation, so
that drift raises hardly any."""

BEFORE_MOVE = 3
"""Nights that two new ones of the reference are put beside: fewer are loud, more drift; chosen."""

THRESHOLDS = ((30, 4.0), (100, 4.5))
MANY_SERIES = 5.0
"""Score above which a change counts, by the number of series that are watched together.

Source: simulations of series of 200 nights, `benchmarks/statistics.py --only history`.
"""


@dataclass(frozen=True)
class ChangePoint:
    """A step of a series.

    Attributes:
        place: index of the first night at the new level; earliest, latest: where that may lie as well.
        seen: index of the night at which it was found.
        change: new level less old, each the median of its nights.
    """

    place: int
    earliest: int
    latest: int
    seen: int
    change: float

    def at(self, nights: Sequence[int]) -> ChangePoint:
        """Return it with the indices of nights, for those of a series that has a value in these only."""
        ends = nights[self.earliest], nights[self.latest]
        return ChangePoint(nights[self.place], *ends, nights[self.seen], self.change)


def threshold(series: int) -> float:
    """Return the score above which a change counts where so many series are watched."""
    return next((score for most, score in THRESHOLDS if series <= most), MANY_SERIES)


def change_points(series: Sequence[float], score: float, anew: Iterable[int] = ()) -> list[ChangePoint]:
    """Return the steps of a series, in the order in which they were found.

    Args:
        series: logarithms, one a night.
        score: above which a change counts.
        anew: indices at which the series starts again, as the machine is another one from there on.
    """
    ends = sorted({0, *(place for place in anew if 0 < place < len(series)), len(series)})
    pieces = pairwise(ends)
    return [found.at(range(first, end)) for first, end in pieces for found in _in_one_piece(series[first:end], score)]


def _in_one_piece(values: Sequence[float], score: float) -> list[ChangePoint]:
    start, found = 0, []
    for night in range(FIRST_NIGHTS - 1, len(values)):
        if max(_step(values, start, night, nights) for nights in WINDOWS) > score:
            start, earliest, latest = _place(values, start, night)
            found.append((start, earliest, latest, night))
    ends = [0, *(start for start, *_ in found), len(values)]
    levels = [median(values[first:end]) for first, end in pairwise(ends)]
    return [ChangePoint(*places, new - old) for places, (old, new) in zip(found, pairwise(levels), strict=True)]


def _step(values: Sequence[float], start: int, night: int, nights: int) -> float:
    """Return the score of a step in the newest nights; 0 where it does not count."""
    first = night - nights + 1
    old = values[max(start, first - BASELINE, 0) : first]
    if first - start < WARM_UP:
        return 0.0
    level = median(old)
    new = [value - level for value in values[first : night + 1]]
    if abs(median(new)) <= LEAST:
        return 0.0
    spread = _spread([value - level for value in old])
    up = math.copysign(1, sum(new))
    if sum(up * value > spread / 2 for value in new) < nights - (nights > 3):
        return 0.0  # one or two loud nights
    if nights < 4:
        new = [_clipped(value, 4 * spread) for value in new]
    # 1.57: the variance of a median is pi / 2 times that of a mean.
    error = spread * math.sqrt(1 / nights + 1.57 / len(old)) * (1 + 2 / (len(old) - 1))
    return abs(fmean(new)) / error


def _spread(residuals: Sequence[float]) -> float:
    """Return the standard deviation of a night, in which a few loud nights have little share."""
    rough = max(ROBUST * median(map(abs, residuals)), LEAST_SPREAD)
    squares = sum(_clipped(value, 2.5 * rough) ** 2 for value in residuals)
    return max(1.05 * math.sqrt(squares / (len(residuals) - 1)), LEAST_SPREAD)


def _clipped(value: float, most: float) -> float:
    return min(max(value, -most), most)


def _place(values: Sequence[float], start: int, night: int) -> tuple[int, int, int]:
    """Return the first night at the new level, and the first and last night that explain the values as well."""
    first = max(start, night - BASELINE)
    places = range(max(first + 3, night - PLACES), night)
    best = min(places, key=lambda p: _deviation(values[first:p]) + _deviation(values[p : night + 1]))
    old, new = median(values[first:best]), median(values[best : night + 1])
    away = [value - (old if place < best else new) for place, value in enumerate(values[first : night + 1], first)]
    limit = PLACE_DOUBT * 2 * _spread(away) ** 2
    # How much better the new level explains each night than the old one does.
    better = [(value - old) ** 2 - (value - new) ** 2 for value in values]
    alike = [place for place in places if sum(better[best:place]) - sum(better[place:best]) <= limit]
    return best, min(alike), max(alike)


def _deviation(values: Sequence[float]) -> float:
    level = median(values)
    return sum(abs(value - level) for value in values)


# -- the machine -------------------------------------------------------------------------------------------------------


def machine_steps(reference: Sequence[float]) -> list[ChangePoint]:
    """Return the steps of the reference itself: the machine is another one from there on.

    A machine also drifts, by up to a percent a night, and cells drift with it. So a step has to stand out from how the
    reference moves over as many nights, not from a level that it never kept.

    Args:
        reference: logarithms of a run's seconds, one a night.
    """
    start, found = 0, []
    for night in range(FIRST_NIGHTS - 1, len(reference)):
        moves = [_move(reference, earlier) for earlier in range(start + BEFORE_MOVE, night + 1)]
        past = moves[:-2]  # the newest share nights with the step
        if len(past) < WARM_UP - BEFORE_MOVE:
            continue
        spread = max(ROBUST * median(map(abs, past)), LEAST_SPREAD)
        least = max(MACHINE_LEAST, MACHINE_THRESHOLD * spread)
        old, up = median(reference[night - 1 - BEFORE_MOVE : night - 1]), math.copysign(1, moves[-1])
        if abs(moves[-1]) > least and min(up * (value - old) for value in reference[night - 1 : night + 1]) > least / 2:
            start = night - 1
            found.append(ChangePoint(start, start, start, night, moves[-1]))
    return found


def _move(reference: Sequence[float], night: int) -> float:
    """Return how far the newest two nights lie from the three before them."""
    return fmean(reference[night - 1 : night + 1]) - median(reference[max(0, night - 1 - BEFORE_MOVE) : night - 1])
