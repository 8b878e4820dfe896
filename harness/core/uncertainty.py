"""How far a figure that adds up from uncertain parts may be off."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from harness.core.words import share_in_percent

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


def stated_words(error: float) -> str:
    """Write how far a prediction may be off: one text wherever it is shown.

    Args:
        error: relative, one standard deviation.
    """
    return f"\N{PLUS-MINUS SIGN}{share_in_percent(STATED * error)}"


class StepErrors(NamedTuple):
    """How far the parts of a step may be off, relative, one standard deviation each; they are independent.

    Attributes:
        compute: of computing, and of what is measured with it: reading samples, the host's own work.
        exchange: of communication that nothing hides.
        waiting: for other stages, or for the slowest device.
        whole: of the whole step: what laws for its layout are off by, beside their parts.
    """

    compute: float = 0.0
    exchange: float = 0.0
    waiting: float = 0.0
    whole: float = 0.0

    def of(self, compute_s: float, exchange_s: float, waiting_s: float) -> float:
        """Return how far a step of these parts may be off, relative, one standard deviation."""
        total = compute_s + exchange_s + waiting_s
        if not total:
            return 0.0
        parts = (self.compute * compute_s, self.exchange * exchange_s, self.waiting * waiting_s)
        return math.hypot(*parts, self.whole * total) / total


def combined_error(errors: Mapping[str, float], seconds: Mapping[str, float]) -> float:
    """Return how far a sum of times may be off, relative, one standard deviation; its parts' errors are independent.

    Args:
        errors: relative, of each part.
        seconds: of each part.
    """
    total = sum(seconds.values())
    return math.hypot(*(error * seconds[part] for part, error in errors.items())) / total if total else 0.0
