"""Student's t without a library: importing scipy would take longer than finding most answers."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

NOT_ZERO = 1e-300
"""Stands for 0 where it would be divided by; below any number that the fraction meets."""

MOST_TERMS = 300
"""Of the continued fraction and of Newton's method; both end after ten or so for any degrees that occur."""


def above(value: float, degrees: float) -> float:
    """Return the probability that t lies above a value.

    Source: M. Abramowitz and I. A. Stegun 1964, Handbook of mathematical functions, 26.5.27 and 26.5.8; the fraction is
    evaluated after W. J. Lentz 1976.
    """
    if not math.isfinite(degrees):
        return 1 - NormalDist().cdf(value)
    x = degrees / (degrees + value * value)
    tail = _incomplete_beta(degrees / 2, 0.5, x) / 2
    return tail if value > 0 else 1 - tail


def below(value: float, degrees: float) -> float:
    """Return the probability that t lies below a value."""
    return above(-value, degrees)


@lru_cache(maxsize=4096)
def t_quantile(probability: float, degrees: float) -> float:
    """Return the value below which t lies with a probability of at least a half.

    From the normal's t_quantile, which is smaller, Newton's steps only rise: the distribution is concave there.
    """
    value = NormalDist().inv_cdf(probability)
    if not math.isfinite(degrees):
        return value
    for _ in range(MOST_TERMS):
        step = (above(value, degrees) - (1 - probability)) / _density(value, degrees)
        value += step
        if abs(step) <= 1e-12 * (1 + value):
            break
    return value


def _density(value: float, degrees: float) -> float:
    scale = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - math.log(degrees * math.pi) / 2
    return math.exp(scale - (degrees + 1) / 2 * math.log1p(value * value / degrees))


def _incomplete_beta(a: float, b: float, x: float) -> float:
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - _incomplete_beta(b, a, 1 - x)
    log = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    return math.exp(log) / a * _fraction(a, b, x)


def _fraction(a: float, b: float, x: float) -> float:
    c, d = 1.0, 1 / ((1 - (a + b) * x / (a + 1)) or NOT_ZERO)
    value = d
    for m in range(1, MOST_TERMS):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        for term in (even, odd):
            d = 1 / ((1 + term * d) or NOT_ZERO)
            c = (1 + term / c) or NOT_ZERO
            value *= c * d
        if abs(c * d - 1) < 1e-14:
            break
    return value
