"""Steps to the target against the global batch: how far larger batches, and so more devices, can help."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

import pandas as pd

from harness.analysis.exact import Interval
from harness.analysis.intervals import bootstrap_interval
from harness.analysis.points import Point, number, points
from harness.core.endings import Status

Regime = Literal["perfect", "diminishing", "maximal"]
TrialOutcome = Literal["reached", "infeasible", "incomplete"]

NEARLY = 10.0
"""A batch this many times below the critical one scales perfectly, as many times above it maximally: what is lost to
either limit is then 9 %; chosen."""

OUTCOMES: dict[str, TrialOutcome] = {
    Status.OK: "reached",
    Status.DIVERGED: "infeasible",
    Status.TARGET_MISSED: "incomplete",
}
"""Diverged is no slow way of reaching a target, and a spent budget is no proof that it cannot be reached.

Source: C. J. Shallue et al. 2019, Measuring the effects of data parallelism, section 4.2 (labels of trials).
"""


@dataclass(frozen=True)
class Hyperbola:
    """The hyperbola S(B) = least_steps (1 + critical_batch / B).

    Attributes:
        least_steps: that no batch gets below; 0 where no limit shows.
        critical_batch: samples; inf where no limit shows.
        least_samples: that no batch gets below: least_steps x critical_batch.

    Source: S. McCandlish et al. 2018, An empirical model of large-batch training, equation 2.11 and appendix D.
    """

    least_steps: float
    least_samples: float

    @property
    def critical_batch(self) -> float:
        """Samples at which a step costs twice the samples and training twice the steps it could."""
        return self.least_samples / self.least_steps if self.least_steps > 0 else math.inf

    def steps(self, batch: float) -> float:
        """Return the steps to the target with this global batch."""
        return self.least_steps + self.least_samples / batch

    def regime(self, batch: float) -> Regime:
        """Name the regime of a batch: half as many steps for twice the batch, fewer, or no fewer."""
        if batch * NEARLY <= self.critical_batch:
            return "perfect"
        return "maximal" if batch >= NEARLY * self.critical_batch else "diminishing"


def fit_hyperbola(batches: Sequence[float], steps: Sequence[float]) -> Hyperbola | None:
    """Fit steps to the target; None below two different batches.

    Least squares of relative residuals: S is linear in least_steps and least_samples, so weights of 1/S make two normal
    equations of it; neither may be below 0.
    """
    if len(set(batches)) < 2:
        return None
    scale = min(batches)  # keeps the two columns of the same size, and their determinant away from rounding
    rows = [(1 / taken, scale / (batch * taken)) for batch, taken in zip(batches, steps, strict=True)]
    one, other = sum(u for u, _ in rows), sum(v for _, v in rows)
    uu, uv, vv = sum(u * u for u, _ in rows), sum(u * v for u, v in rows), sum(v * v for _, v in rows)
    determinant = uu * vv - uv * uv
    least_steps, samples = (one * vv - other * uv) / determinant, (other * uu - one * uv) / determinant
    if least_steps < 0:
        least_steps, samples = 0.0, other / vv
    elif samples < 0:
        least_steps, samples = one / uu, 0.0
    return Hyperbola(least_steps, samples * scale)


@dataclass(frozen=True)
class BatchPoint:
    """A global batch at its best learning rate.

    Attributes:
        steps: of each seed that reached the target.
        outcomes: of all seeds at all rates tried with this batch.
        at_edge: the best rate is the smallest or largest of several: a better one may lie outside.
    """

    batch: int
    learning_rate: float | None
    steps: tuple[float, ...]
    outcomes: Counter[TrialOutcome]
    at_edge: bool


def batch_points(cells: pd.DataFrame, strategy: str = "single", engine: str | None = None) -> list[BatchPoint]:
    """Return each global batch of a strategy with its best rate, ascending: the rate is tuned at every batch.

    The best rate is the one at which most seeds reach the target, among those the one with the fewest median steps.
    """
    rows = [row for row in cells.to_dict("records") if row["strategy"] == strategy and row["status"] in OUTCOMES]
    rows = [row for row in rows if engine is None or row["engine"] == engine]
    by_batch: dict[int, list[Point]] = {}
    for point in points(rows, by_target=True):
        by_batch.setdefault(int(point.row["global_batch_size"]), []).append(point)
    return [_at_best_rate(batch, tried) for batch, tried in sorted(by_batch.items())]


def _at_best_rate(batch: int, tried: Sequence[Point]) -> BatchPoint:
    outcomes = Counter(OUTCOMES[row["status"]] for point in tried for row in point.rows)
    best = min(tried, key=lambda point: (-len(_steps(point)) / len(point.rows), median(_steps(point) or [0])))
    steps, rates = _steps(best), sorted({point.row["learning_rate"] for point in tried})
    rate = best.row["learning_rate"] if steps else None
    return BatchPoint(batch, rate, tuple(steps), outcomes, len(rates) > 1 and rate in (rates[0], rates[-1]))


def _steps(point: Point) -> list[float]:
    known = (number(row, "updates_to_target") for row in point.rows if row["status"] == Status.OK)
    return [steps for steps in known if steps]


@dataclass(frozen=True)
class CriticalBatch:
    """What a sweep over batches says.

    Attributes:
        fit: of the medians over seeds.
        interval: of the critical batch, from resampled seeds; None where no batch has two.
    """

    fit: Hyperbola
    interval: Interval | None


def critical_batch(found: Sequence[BatchPoint]) -> CriticalBatch | None:
    """Fit the batches that reached the target; None where fewer than two did."""
    known = [point for point in found if point.steps]
    fit = fit_hyperbola([p.batch for p in known], [median(p.steps) for p in known])
    if fit is None:
        return None

    def resampled(*steps: Sequence[float]) -> float:
        again = fit_hyperbola([p.batch for p in known], [median(s) for s in steps])
        return again.critical_batch if again else math.inf

    several = max(len(point.steps) for point in known) > 1
    return CriticalBatch(fit, bootstrap_interval(resampled, *(p.steps for p in known)) if several else None)


def batch_frame(found: Sequence[BatchPoint], fit: Hyperbola | None) -> pd.DataFrame:
    """Return one row for each batch: steps and samples to the target, outcomes, regime, and what the fit says."""
    rows = []
    for point in found:
        middle = median(point.steps) if point.steps else None
        row = {"global_batch_size": point.batch, "learning_rate": point.learning_rate, "at_edge": point.at_edge}
        row |= {"seeds": len(point.steps), "steps_to_target": middle}
        row |= {"samples_to_target": middle and middle * point.batch}
        row |= {outcome: point.outcomes[outcome] for outcome in ("reached", "infeasible", "incomplete")}
        fitted = (fit.steps(point.batch), fit.regime(point.batch)) if fit else (None, None)
        rows.append(row | dict(zip(("fitted_steps", "regime"), fitted, strict=True)))
    return pd.DataFrame(rows)
