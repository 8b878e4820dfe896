"""How far a figure that adds up from uncertain parts may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping

STATED = 2.0
"""Standard deviations that a prediction is said to be good to, wherever its uncertainty is shown: 95 % of a normal."""


def stated_band(value: float, error: float) -> tuple[float, float]:
    """Return the least and the most that a prediction says it may stand for.

    They are a ratio away, so that too much and too little count alike: however wide, a band of what cannot be negative
    does not reach 0.

    Args:
        value: what is predicted.
        error: its relative error, one standard deviation.
    """
    factor = 1 + STATED * error
    return value / factor, value * factor


def combined_error(errors: Mapping[str, float], seconds: Mapping[str, float]) -> float:
    """Return how far a step's time may be off, relative, one standard deviation; its parts' errors are independent.

    Args:
        errors: relative, of each part.
        seconds: of each part; waiting follows computing and counts with it, so it stays out.
    """
    total = sum(seconds.values())
    return math.hypot(*(error * seconds[part] for part, error in errors.items())) / total if total else 0.0
