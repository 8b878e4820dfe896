"""How sure a number is: shares, means of series that remember, ratios of two costs, and whatever can be resampled."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import special

from harness.analysis.exact import COVERAGE, MIN_SEEDS, Interval

Numbers = NDArray[np.float64]

RESAMPLES = 2000
"""Of a bootstrap: the ends of a 95 % interval then move by about 2 % of its width from one set to another (measured on
means of 20 exponential values); chosen."""

BATCHES = 20
"""Into which a series is cut; Schmeiser 1982 finds 10 to 30 right: more would not be independent, fewer widen t."""


def bootstrap_interval(
    statistic: Callable[[list[Any]], float], *samples: Sequence[Any], coverage: float = COVERAGE
) -> Interval:
    """Return the percentile interval of a statistic of one or several independent samples; inf is a value.

    Args:
        statistic: takes as many lists as there are samples.

    Source: B. Efron 1979, Bootstrap methods: another look at the jackknife. The generator's seed is fixed, so that the
    same records always give the same report.
    """
    draws = np.random.default_rng(0)
    values = []
    for _ in range(RESAMPLES):
        picked = [[sample[i] for i in draws.integers(0, len(sample), len(sample))] for sample in samples]
        values.append(statistic(*picked))
    ordered, tail = sorted(values), (1 - coverage) / 2
    low, high = math.floor(tail * RESAMPLES), math.ceil((1 - tail) * RESAMPLES) - 1
    return Interval(ordered[low], ordered[high], coverage)


# -- costs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LogCost:
    """The logarithm of a positive cost with its standard error: costs are compared by ratio.

    Attributes:
        degrees: of freedom behind the standard error; inf where it is known.
        runs: that it rests on.
        between_runs: whether the error says how runs differ; else only how a run's own steps do.
    """

    log: float
    error: float
    degrees: float
    runs: int
    between_runs: bool

    @property
    def value(self) -> float:
        """The cost itself."""
        return math.exp(self.log)


def cost_of_runs(values: Sequence[float]) -> LogCost | None:
    """Return the geometric mean of one value from each of at least two runs."""
    logs = np.log(np.asarray(values, dtype=float))
    if len(logs) < 2:
        return None
    error = float(logs.std(ddof=1) / math.sqrt(len(logs)))
    return LogCost(float(logs.mean()), error, len(logs) - 1, len(logs), between_runs=True)


def cost_of_steps(series: Sequence[Sequence[float]]) -> LogCost | None:
    """Return the mean step time of one or several runs from their raw steps, which need not be independent.

    Each series is cut into batches, whose means are nearly independent; their spread gives the error of the mean.
    Outliers are steps like any other: they were waited for.

    Returns:
        None where there are too few steps: two in a batch, or no mean would even out what neighbours share.

    Source: B. Schmeiser 1982, Batch size effects in the analysis of simulation output.
    """
    known = [np.asarray(steps, dtype=float) for steps in series]
    if not known or min(len(steps) for steps in known) < 2 * BATCHES:
        return None
    means, variances = [], []
    for steps in known:
        batches = np.array([part.mean() for part in np.array_split(steps, BATCHES)])
        means.append(float(steps.mean()))
        variances.append(float(batches.var(ddof=1)) / BATCHES)
    mean = sum(means) / len(means)
    error = math.sqrt(sum(variances)) / len(means) / mean
    return LogCost(math.log(mean), error, len(means) * (BATCHES - 1), len(means), between_runs=False)


def cost(runs: Sequence[float], series: Sequence[Sequence[float]] = ()) -> LogCost | None:
    """Return a cost from the spread of at least five runs, else from the steps within them."""
    if len(runs) >= MIN_SEEDS:
        return cost_of_runs(runs)
    return cost_of_steps(series)


@dataclass(frozen=True)
class Ratio:
    """How many times as much the second costs.

    Attributes:
        error: standard error of the logarithm.
        degrees: of freedom behind it.
        between_runs: whether the error says how runs differ; else only how a run's own steps do.
    """

    value: float
    error: float
    degrees: float
    between_runs: bool = True

    def interval(self, coverage: float = COVERAGE) -> Interval:
        """Return the interval of the ratio."""
        half = quantile_of_t((1 + coverage) / 2, self.degrees) * self.error
        return Interval(self.value * math.exp(-half), self.value * math.exp(half), coverage)

    def detectable(self, coverage: float = COVERAGE, power: float = 0.8) -> float:
        """Return the smallest ratio that would be told from 1 with this power.

        Source: J. Cohen 1988, Statistical power analysis, section 2.4, on the scale of logarithms.
        """
        t = quantile_of_t((1 + coverage) / 2, self.degrees) + quantile_of_t(power, self.degrees)
        return math.exp(t * self.error)


def ratio(base: LogCost, new: LogCost) -> Ratio:
    """Return new over base.

    Source: B. L. Welch 1947, The generalization of Student's problem, for the degrees of freedom.
    """
    squares = (base.error**2, new.error**2)
    total = sum(squares)
    parts = sum(square**2 / cost.degrees for square, cost in zip(squares, (base, new), strict=True))
    degrees = total**2 / parts if parts else math.inf
    between_runs = base.between_runs and new.between_runs
    return Ratio(math.exp(new.log - base.log), math.sqrt(total), degrees, between_runs)


def quantile_of_t(probability: float, degrees: float) -> float:
    """Return a quantile of Student's t; of the normal distribution where degrees are infinite."""
    return float(special.stdtrit(degrees, probability) if math.isfinite(degrees) else special.ndtri(probability))
