"""Gradient noise scale: how many samples a step may average before more of them stop helping.

Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean
from typing import NamedTuple

from harness.analysis.exact import COVERAGE
from harness.core.outcome import TableColumns

LEAST_KNOWN_STEPS = 50
"""With fewer an estimate is noise; chosen: of Gaussian runs (1,000 each, true scale 170 samples, covariance of rank 20)
whose interval had an upper end, the median estimate was 154 from 50 steps of 2 x 16 samples, and 111 from 20."""


class Squares(NamedTuple):
    """What one update says: squared lengths before clipping, momentum and weight decay.

    Attributes:
        parts: gradients averaged, at least 2, each the mean over equally many samples.
        small_square: mean of their squared lengths.
        big_square: squared length of their mean.
        samples: behind all of them.
    """

    parts: int
    small_square: float
    big_square: float
    samples: int

    @property
    def signal(self) -> float:
        """An unbiased estimate of the true gradient's squared length."""
        return (self.parts * self.big_square - self.small_square) / (self.parts - 1)

    @property
    def noise(self) -> float:
        """An unbiased estimate of the trace of the covariance of one sample's gradient."""
        return (self.small_square - self.big_square) * self.samples / (self.parts - 1)


@dataclass(frozen=True)
class NoiseScale:
    """What some updates say together.

    Attributes:
        signal: squared length of the true gradient; an estimate, and below 0 by chance where steps are few.
        noise: trace of the covariance of one sample's gradient.
        steps: that it rests on.
        interval: that holds the noise scale, samples; None where it has no upper end.
    """

    signal: float
    noise: float
    steps: int
    interval: tuple[float, float] | None

    @property
    def samples(self) -> float | None:
        """The noise scale in samples, tr(S) / |G|^2; None where steps are few, or the signal was not told from 0."""
        known = self.steps >= LEAST_KNOWN_STEPS and self.interval is not None and self.noise > 0
        return self.noise / self.signal if known else None


def known_squares(log: TableColumns) -> list[Squares]:
    """Return what a log of updates knows, columns as in updates.parquet; updates without finite squares are skipped."""
    columns = [log.get(name, ()) for name in Squares._fields]
    rows = (Squares(*values) for values in zip(*columns, strict=True) if None not in values)
    return [row for row in rows if math.isfinite(row.small_square) and math.isfinite(row.big_square)]


def noise_scale(updates: Sequence[Squares]) -> NoiseScale:
    """Estimate the noise scale of some updates.

    Signal and noise are unbiased update by update, their quotient is not: it is taken once, last. So updates with a
    large gradient count for more.

    Source: S. McCandlish et al. 2018, An empirical model of large-batch training, appendix A.1; the interval E. C.
    Fieller 1954, Some problems in interval estimation, with updates as independent, which batches drawn apart are.

    Raises:
        ValueError: there is no update, or one of a single gradient.
    """
    if not updates or min(update.parts for update in updates) < 2:
        raise ValueError(f"{len(updates)} updates: needs one at least, each the mean of 2 gradients at least")
    signals, noises = [update.signal for update in updates], [update.noise for update in updates]
    return NoiseScale(fmean(signals), fmean(noises), len(updates), _interval(signals, noises))


def _interval(signals: Sequence[float], noises: Sequence[float]) -> tuple[float, float] | None:
    """Return where noise - scale * signal is not told from 0; None where that has no end: signal may be 0."""
    steps, signal, noise = len(signals), fmean(signals), fmean(noises)
    if steps < 2 or signal <= 0:
        return None
    # Of the means, times the square of the normal quantile.
    share = NormalDist().inv_cdf((1 + COVERAGE) / 2) ** 2 / (steps * (steps - 1))
    signal_error = share * sum((x - signal) ** 2 for x in signals)
    noise_error = share * sum((y - noise) ** 2 for y in noises)
    both = share * sum((x - signal) * (y - noise) for x, y in zip(signals, noises, strict=True))
    square, middle = signal**2 - signal_error, signal * noise - both
    root = middle**2 - square * (noise**2 - noise_error)
    if square <= 0 or root < 0:
        return None
    return max(0.0, (middle - math.sqrt(root)) / square), (middle + math.sqrt(root)) / square
