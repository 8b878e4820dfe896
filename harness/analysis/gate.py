"""Is it slower than it usually is? Times of a night beside those of a reference that ran in the same night.

All numbers are natural logarithms. A point's night is the mean of its runs less that of the reference's. What is usual
is known from a history of nights, or assumed from one. A night is judged as it is, or by fresh runs of what looks
slower: that they are fresh keeps luck from being counted twice.

Source: simulations with a known truth, `benchmarks/statistics.py --only gate`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from harness.analysis.intervals import quantile_of_t
from harness.analysis.two_way import ROBUST

Logs = NDArray[np.float64]

NIGHTS = 20
"""Newest nights that say what is usual; chosen: before them code and machine were others."""

FEWEST_NIGHTS = 8
"""Nights below which their spread is hardly known; chosen."""

FALSE_ALARM = 0.05
"""Probability that a night without any change raises an alarm; chosen."""

OWN_SPREAD = 0.015
"""Standard deviation of what a night itself adds to a point, or to the reference: layout in memory, clocks. Assumed
where no history tells; chosen: 1 % is common, and at a true 2 % there are 7 alarms in 100 nights without a change."""

LEAST_OF_NIGHTS = 0.003
"""Least standard deviation of a night: that of a few can look like nothing; chosen."""

SUSPECT_SCORE, SUSPECT_LEAST = 1.3, math.log(1.02)
"""What is run again: a point so many standard deviations, and so much, above what is usual; chosen."""

MOST_SUSPECTS = 6
FRESH_RUNS = 5
"""How many points are run again at most, and how often; chosen."""

PULL = 8
"""Degrees of freedom that the spread of all points has in that of each; chosen."""

FOUR_OF_FIVE = 0.84
"""Standard deviations that are exceeded with one chance in five."""

OF_MEDIAN = 1.57
"""The variance of a median is pi / 2 times that of a mean."""


FEWEST_DEGREES = 4
"""Degrees of freedom below which runs of points are taken to scatter as those of the reference do as well; chosen."""


@dataclass(frozen=True)
class Scatter:
    """What single runs within a night scatter by, as variances.

    Attributes:
        points, reference: of a run of a point, and of one of the reference.
        degrees: of freedom behind both.
    """

    points: float
    reference: float
    degrees: int

    @classmethod
    def of(cls, points: Sequence[Sequence[float]], reference: Sequence[Sequence[float]]) -> Scatter:
        """Read it off groups of runs that are alike: those of one point, or of the reference, at one time."""
        squares, degrees = zip(*map(_within, (points, reference)), strict=True)
        both = sum(squares) / max(1, sum(degrees))
        own = [s / d if d >= FEWEST_DEGREES else both for s, d in zip(squares, degrees, strict=True)]
        return cls(own[0], own[1], sum(degrees))


def _within(groups: Sequence[Sequence[float]]) -> tuple[float, int]:
    """Return the sum of squares about the groups' means, and its degrees of freedom."""
    squares = sum(float(np.sum((np.asarray(group) - np.mean(group)) ** 2)) for group in groups if len(group) > 1)
    return squares, sum(max(0, len(group) - 1) for group in groups)


@dataclass(frozen=True)
class Runs:
    """How many runs were made.

    Attributes:
        of_point: of each point; of_reference: of the reference.
    """

    of_point: Logs
    of_reference: int

    def variance(self, scatter: Scatter) -> Logs:
        """Return what chance between runs adds to each point's mean."""
        return scatter.points / self.of_point + scatter.reference / self.of_reference


@dataclass(frozen=True)
class Usual:
    """What a night usually is.

    Attributes:
        level: of each point.
        night: variance of a night about its level; error: of the level itself.
        degrees: of freedom behind them.
        together: the same of the mean over all points; `level` of it is what the mean departs from, 0.
    """

    level: Logs
    night: Logs
    error: Logs
    degrees: Logs
    together: Usual | None = None


@dataclass(frozen=True)
class NightJudged:
    """A night against what is usual.

    Attributes:
        excess: how far each point lies above its level.
        limit: what it has to be beyond.
        spread: standard deviation of the excess.
    """

    excess: Logs
    limit: Logs
    spread: Logs

    @property
    def score(self) -> Logs:
        """The excess in standard deviations."""
        return self.excess / self.spread

    @property
    def detectable(self) -> Logs:
        """The smallest excess that is found in four nights of five."""
        return self.limit + FOUR_OF_FIVE * self.spread

    @property
    def alarms(self) -> NDArray[np.bool_]:
        """Which of them are slower."""
        return self.excess > self.limit

    @property
    def suspects(self) -> list[int]:
        """Return what to run again, the worst first."""
        loud = (self.score > SUSPECT_SCORE) & (self.excess > SUSPECT_LEAST)
        return [int(k) for k in np.argsort(-self.score, kind="stable") if loud[k]][:MOST_SUSPECTS]


def usual_of_history(nights: Logs) -> Usual:
    """Return what nights have shown.

    Args:
        nights: of shape (nights, points), the oldest first, nan where a point has none or was at another level; each
            point has at least `FEWEST_NIGHTS`.
    """
    known = np.array(nights, dtype=float)
    for column in known.T:
        column[np.flatnonzero(np.isfinite(column))[:-NIGHTS]] = np.nan
    counts = np.isfinite(known).sum(axis=0)
    level = np.nanmedian(known, axis=0)
    away = known - level
    rough = np.maximum(ROBUST * np.nanmedian(np.abs(away), axis=0), LEAST_OF_NIGHTS)
    clipped = np.clip(away, -2.5 * rough, 2.5 * rough)
    own = 1.1**2 * np.nansum(clipped**2, axis=0) / (counts - 1)
    night = np.maximum(((counts - 1) * own + PULL * own.mean()) / (counts - 1 + PULL), LEAST_OF_NIGHTS**2)
    mean = np.array([row[np.isfinite(row)].mean() for row in away if np.isfinite(row).any()])[-NIGHTS:]
    of_mean = max(float(np.sum((mean - np.median(mean)) ** 2)) / (len(mean) - 1), LEAST_OF_NIGHTS**2)
    together = Usual(
        level=np.array([np.median(mean)]),
        night=np.array([of_mean]),
        error=np.array([of_mean * OF_MEDIAN / len(mean)]),
        degrees=np.array([len(mean) - 1.0]),
    )
    return Usual(level, night, night * OF_MEDIAN / counts, counts - 1.0, together)


def usual_of_one_night(base: Logs, before: Runs, after: Runs, scatter: Scatter) -> Usual:
    """Return what one night has shown, with what nights themselves add assumed.

    Args:
        base: that night, a value a point.
        before, after: runs of that night, and of the one to be judged.
    """
    count, degrees = len(base), float(max(1, scatter.degrees))
    shared = OWN_SPREAD**2 * (1 / count + 1)
    error, night = (
        np.array([scatter.points / runs.of_point.sum() + scatter.reference / runs.of_reference + shared])
        for runs in (before, after)
    )
    together = Usual(np.zeros(1), night, error, np.array([degrees]))
    own = 2 * OWN_SPREAD**2
    sides = (after.variance(scatter) + own, before.variance(scatter) + own)
    return Usual(base, *sides, np.full(count, degrees), together)


def judge_night(usual: Usual, night: Logs, least: float, family: int | None = None) -> tuple[NightJudged, NightJudged]:
    """Judge a night as it is, point by point and all points together.

    Args:
        night: a value a point.
        least: smallest excess that counts.
        family: judgements that share one chance of a false alarm; by default one a point and one for all together.
    """
    level = (1 - FALSE_ALARM) ** (1 / (family or len(night) + 1))
    return _judged(usual, night, least, level), _judged(_of_all(usual), _mean(usual, night), least, level)


def decide(
    usual: Usual,
    night: Logs,
    runs: Runs,
    fresh: Logs,
    fresh_runs: Runs,
    scatter: Scatter,
    least: float,
    family: int | None = None,
) -> tuple[NightJudged, NightJudged]:
    """Judge a night by fresh runs of its suspects; the mean over all points by the night, if they leave any of it.

    Args:
        night: a value a point.
        runs, fresh_runs: of the night, and made anew.
        fresh: the mean of the fresh runs less that of the reference that ran beside them; nan of what was not suspect.
        family: points that share half of the chance of a false alarm, by default these; the mean has the other half.
    """
    points = (1 - FALSE_ALARM / 2) ** (1 / (family or len(night)))
    # Chance between the night's runs has no part in the fresh ones.
    itself = np.maximum(usual.night - runs.variance(scatter), 0) + fresh_runs.variance(scatter)
    anew = Usual(usual.level, itself, usual.error, usual.degrees)
    anew_in_place = np.where(np.isfinite(fresh), fresh, night)
    # Else one point's bad luck would stay an alarm of all though fresh runs have cleared the point.
    stays = bool(_mean(usual, anew_in_place) > SUSPECT_LEAST)
    together = _judged(_of_all(usual), _mean(usual, night if stays else anew_in_place), least, 1 - FALSE_ALARM / 2)
    return _judged(anew, fresh, least, points), together


def _of_all(usual: Usual) -> Usual:
    assert usual.together is not None  # of all points there always is one
    return usual.together


def _mean(usual: Usual, night: Logs) -> Logs:
    return np.array([float(np.mean(night - usual.level))])


def _judged(usual: Usual, night: Logs, least: float, level: float) -> NightJudged:
    spread = np.sqrt(usual.night + usual.error)
    quantiles = {degrees: quantile_of_t(level, degrees) for degrees in set(usual.degrees.tolist())}
    excess = night - usual.level
    limit = np.maximum(least, spread * [quantiles[degrees] for degrees in usual.degrees.tolist()])
    return NightJudged(excess, limit, spread)
