"""Where a function crosses a value, without a library: importing scipy would take longer than finding most answers."""

from __future__ import annotations

from collections.abc import Callable

HALVINGS = 60
"""Of an interval of length 1, to below the resolution of a float of 53 bits."""


def boundary(holds: Callable[[float], bool], false_at: float, true_at: float, width: float = 0.0) -> float:
    """Return where a statement that is false at one end and true at the other becomes true.

    Args:
        false_at, true_at: the ends; either may be the larger one.
        width: distance of the two ends at which the place between them is found.
    """
    for _ in range(HALVINGS):
        if abs(true_at - false_at) <= width:
            break
        middle = (false_at + true_at) / 2
        false_at, true_at = (false_at, middle) if holds(middle) else (middle, true_at)
    return (false_at + true_at) / 2


def root(function: Callable[[float], float], start: float, end: float, tolerance: float) -> float | None:
    """Return where a function is 0 up to a tolerance in its value; None where its ends have the same sign.

    A straight line is hit at once: for functions that are piecewise linear and cost much to evaluate.

    Source: Dowell and Jarratt 1971, "A modified regula falsi method for computing the root of an equation" (Illinois).
    """
    low, high = start, end
    low_value, high_value = function(low), function(high)
    if low_value * high_value > 0 or low_value == high_value:
        return None
    for _ in range(HALVINGS):
        middle = high - high_value * (high - low) / (high_value - low_value)
        value = function(middle)
        if abs(value) <= tolerance:
            return middle
        if value * high_value < 0:
            low, low_value = high, high_value
        else:
            low_value /= 2  # the same end twice: without this the other end would never move
        high, high_value = middle, value
    return high
