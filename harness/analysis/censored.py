"""Runs on their way to a target, those that never got there included. Imports the standard library only."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from harness.analysis.exact import MIN_SEEDS, Interval
from harness.analysis.points import Row, number
from harness.analysis.roots import boundary
from harness.core.endings import Status

MEASURES = {
    "time": ("time_to_target_s", "spent_s"),
    "samples": ("samples_to_target", "samples_seen"),
    "epochs": ("samples_to_target", "samples_seen"),
    "updates": ("updates_to_target", "steps"),
}
"""What is counted to the target: the column where it was reached, and what was spent where it was not."""


@dataclass(frozen=True)
class SeedRun:
    """One seed on its way to the target.

    Attributes:
        spent: until the target was reached, or until the run ended without it; never less than 0.
        reached: whether it was.
        hopeless: ended in a way that more of the same would not mend: it diverged.
    """

    spent: float
    reached: bool
    hopeless: bool = False

    @property
    def latest(self) -> float:
        """When it reached the target; inf where it did not."""
        return self.spent if self.reached else math.inf


def run_of(row: Row, measure: str = "time") -> SeedRun | None:
    """Return a row of cells.csv as a run; None where it never trained to an end (crashed, out of memory, ...)."""
    to_target, spent = MEASURES[measure]
    unit = number(row, "num_train") if measure == "epochs" else 1.0
    reached = number(row, to_target)
    known = reached if reached is not None else training_s(row) if spent == "spent_s" else number(row, spent)
    if known is None or not unit or (reached is None and row["status"] not in (Status.TARGET_MISSED, Status.DIVERGED)):
        return None
    return SeedRun(known / unit, reached is not None, hopeless=reached is None and row["status"] == Status.DIVERGED)


def training_s(row: Row) -> float | None:
    """Return the seconds on the training clock: wall time without setting up and evaluating."""
    wall = number(row, "wall_s")
    if wall is None:
        return None
    return wall - (number(row, "setup_s") or 0.0) - (number(row, "evaluation_s") or 0.0)


# -- censored runs -----------------------------------------------------------------------------------------------------


def survival(runs: Sequence[SeedRun]) -> list[tuple[float, float]]:
    """Return (time, share still without the target from then on) at every time at which a run reached it.

    A run that ended with its budget is at risk until then. One that diverged stays at risk for ever: it will not get
    there, and taking it out would count it as if it might have.

    Source: E. L. Kaplan and P. Meier 1958, Nonparametric estimation from incomplete observations; for the diverged J.
    P. Fine and R. J. Gray 1999, A proportional hazards model for the subdistribution of a competing risk, section 2.
    """
    reached = Counter(run.spent for run in runs if run.reached)
    left = sorted(run.spent for run in runs if not run.hopeless)
    curve, share = [], 1.0
    for time, count in sorted(reached.items()):
        share *= 1 - count / (len(runs) - bisect_left(left, time))
        curve.append((time, share))
    return curve


def censored_median(runs: Sequence[SeedRun]) -> float:
    """Return the time by which half of all runs reach the target; inf where the records do not show half of them."""
    if all(run.reached for run in runs):
        return median(run.spent for run in runs)
    return next((time for time, share in survival(runs) if share <= 0.5 + 1e-12), math.inf)


def expected_time(runs: Sequence[SeedRun]) -> float:
    """Return the expected time to the target when a run that fails is followed by another, with another seed.

    A diverged run costs what it took until that was noticed. inf where no run reached the target.

    Source: N. Hansen, A. Auger et al. 2016, COCO: performance assessment, section 5 (expected running time).
    """
    successes = sum(run.reached for run in runs)
    return sum(run.spent for run in runs) / successes if successes else math.inf


# -- who is faster -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beats:
    """The probability that a fresh run of A reaches the target before a fresh run of B.

    Attributes:
        interval: None below five runs on either side.
    """

    probability: float
    interval: Interval | None

    @property
    def resolved(self) -> bool:
        """Whether the records tell the two apart."""
        return self.interval is not None and not self.interval.holds(0.5)


def beats(first: Sequence[SeedRun], second: Sequence[SeedRun]) -> Beats:
    """Return the probability that the first is faster; two that never get there tie, and a tie counts half.

    Without censoring this is the Mann-Whitney statistic. With it, how long the second's unfinished runs would have
    taken is read from its survival curve.

    Source: B. Efron 1967, The two sample problem with censored data, section 3; the interval is that of
    `probability_interval`.
    """
    mass, other = _masses(first), _masses(second)
    wins = sum(p * q for a, p in mass for b, q in other if a < b)
    ties = sum(p * q for a, p in mass for b, q in other if a == b)
    probability = min(1.0, wins + ties / 2)
    enough = min(len(first), len(second)) >= MIN_SEEDS
    return Beats(probability, probability_interval(probability, len(first), len(second)) if enough else None)


def _masses(runs: Sequence[SeedRun]) -> list[tuple[float, float]]:
    """Return (time, probability) of reaching the target; what the curve leaves over never does."""
    masses, before = [], 1.0
    for time, share in survival(runs):
        masses.append((time, before - share))
        before = share
    return [*masses, (math.inf, before)]


def probability_interval(probability: float, first: int, second: int) -> Interval:
    """Return the interval of the probability that one is faster, from so many runs of each.

    Source: R. G. Newcombe 2006, Confidence intervals for an effect size measure based on the Mann-Whitney statistic,
    part 2, method 5.
    """
    z = NormalDist().inv_cdf(0.975)
    factor = (first + second) / 2 - 1

    def excess(theta: float) -> float:
        spread = 1 + factor * ((1 - theta) / (2 - theta) + theta / (1 + theta))
        return (theta - probability) ** 2 - z**2 * theta * (1 - theta) * spread / (first * second)

    ends = (boundary(lambda theta: excess(theta) > 0, probability, end) for end in (0.0, 1.0))
    return Interval(*ends)
