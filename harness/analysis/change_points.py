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

import numpy as np
from numpy.typing import NDArray

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

FIRST_NIGHTS = WARM_UP + WINDOWS[0]
"""Nights before which no series can have a change point."""

PLACES = 13
"""Nights back in which the place of a change is looked for: the longest window and some; chosen."""

PLACE_DOUBT = 3.0
"""Difference of log-likelihoods up to which another place is as good; chosen by simulation: `benchmarks/statistics.py
--only history` prints how often the places that are named hold the true one."""

MACHINE_LEAST, MACHINE_THRESHOLD = math.log(1.05), 5.0
"""Of the reference's own steps: they start every series anew, which costs `WARM_UP` nights; chosen by simulation, so
that drift raises hardly any."""

THRESHOLDS = ((30, 4.0), (100, 4.5))
MANY_SERIES = 5.0
"""Score above which a change counts, by the number of series that are watched together.

Source: simulations of series of 200 nights, `benchmarks/statistics.py --only history`.
"""

Logs = NDArray[np.float64]


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
    values = np.asarray(series, dtype=float)
    starts = sorted({0, *(place for place in anew if 0 < place < len(values))})
    ends = [*starts[1:], len(values)]
    return [
        found.at(range(start, end))
        for start, end in zip(starts, ends, strict=True)
        for found in _in_one_piece(values[start:end], score)
    ]


def _in_one_piece(values: Logs, score: float) -> list[ChangePoint]:
    start, found = 0, []
    for night in range(FIRST_NIGHTS - 1, len(values)):
        if max(_step(values, start, night, nights) for nights in WINDOWS) > score:
            start, earliest, latest = _place(values, start, night)
            found.append((start, earliest, latest, night))
    ends = [0, *(start for start, *_ in found), len(values)]
    levels = [float(np.median(values[first:end])) for first, end in pairwise(ends)]
    return [ChangePoint(*places, new - old) for places, (old, new) in zip(found, pairwise(levels), strict=True)]


def _step(values: Logs, start: int, night: int, nights: int) -> float:
    """Return the score of a step in the newest nights; 0 where it does not count."""
    first = night - nights + 1
    old = values[max(start, first - BASELINE) : first]
    if len(old) < WARM_UP:
        return 0.0
    level = float(np.median(old))
    spread = _spread(old - level)
    new = values[first : night + 1] - level
    beyond = int(np.sum((np.sign(new) == np.sign(new.sum())) & (np.abs(new) > spread / 2)))
    if beyond < nights - (nights > 3) or abs(float(np.median(new))) <= LEAST:
        return 0.0  # one or two loud nights
    if nights < 4:
        new = np.clip(new, -4 * spread, 4 * spread)
    # 1.57: the variance of a median is pi / 2 times that of a mean.
    error = spread * math.sqrt(1 / nights + 1.57 / len(old)) * (1 + 2 / (len(old) - 1))
    return abs(float(new.mean())) / error


def _spread(residuals: Logs) -> float:
    """Return the standard deviation of a night, in which a few loud nights have little share."""
    rough = max(1.4826 * float(np.median(np.abs(residuals))), LEAST_SPREAD)
    clipped = np.clip(residuals, -2.5 * rough, 2.5 * rough)
    return max(1.05 * math.sqrt(float(np.sum(clipped**2)) / (len(residuals) - 1)), LEAST_SPREAD)


def _place(values: Logs, start: int, night: int) -> tuple[int, int, int]:
    """Return the first night at the new level, and the first and last night that explain the values as well."""
    first = max(start, night - BASELINE)
    places = range(max(first + 3, night - PLACES), night)
    costs = [_deviation(values[first:place]) + _deviation(values[place : night + 1]) for place in places]
    best = places[int(np.argmin(costs))]
    old, new = values[first:best], values[best : night + 1]
    levels = float(np.median(old)), float(np.median(new))
    spread = _spread(np.concatenate([old - levels[0], new - levels[1]]))
    # How much less likely it is that a night already was, or still was, at the other level.
    towards_new = (values - levels[0]) ** 2 - (values - levels[1]) ** 2
    limit = PLACE_DOUBT * 2 * spread**2
    alike = [
        place for place in places if float(np.sum(towards_new[best:place]) - np.sum(towards_new[place:best])) <= limit
    ]
    return best, min(alike), max(alike)


def _deviation(values: Logs) -> float:
    return float(np.sum(np.abs(values - np.median(values))))


# -- the machine -------------------------------------------------------------------------------------------------------


def machine_steps(reference: Sequence[float]) -> list[ChangePoint]:
    """Return the steps of the reference itself: the machine is another one from there on.

    A machine also drifts, by up to a percent a night, and cells drift with it. So a step has to stand out from how the
    reference moves over as many nights, not from a level that it never kept.

    Args:
        reference: logarithms of a run's seconds, one a night.
    """
    values = np.asarray(reference, dtype=float)
    start, found = 0, []
    for night in range(FIRST_NIGHTS - 1, len(values)):
        moves = [_move(values, n) for n in range(start + _BEFORE, night + 1)]
        past = np.asarray(moves[:-2])  # the newest share nights with the step
        if len(past) < WARM_UP - _BEFORE:
            continue
        spread = max(1.4826 * float(np.median(np.abs(past))), 1.05 * LEAST_SPREAD)
        change = moves[-1]
        old = float(np.median(values[night - _BEFORE - 1 : night - 1]))
        both = min(np.sign(change) * (values[night - 1 : night + 1] - old))
        least = max(MACHINE_LEAST, MACHINE_THRESHOLD * spread)
        if abs(change) > least and both > least / 2:
            found.append(ChangePoint(night - 1, night - 1, night - 1, night, change))
            start = night - 1
    return found


_BEFORE = 3


def _move(values: Logs, night: int) -> float:
    """Return how far the newest two nights lie from the three before them."""
    return float(values[night - 1 : night + 1].mean() - np.median(values[max(0, night - 1 - _BEFORE) : night - 1]))
