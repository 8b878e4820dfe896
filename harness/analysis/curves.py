"""Curves of several seeds: thinned for drawing, and their median on a common grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""x ascending, and y of the same length."""

MOST_POINTS = 200
"""Chosen: more than a figure some 500 px wide can show; keeps the page small."""


def thin(curve: Curve, most: int = MOST_POINTS) -> Curve:
    """Return at most `most` points of a curve, evenly taken, the first and the last among them."""
    x, y = curve
    if len(x) <= most:
        return curve
    kept = np.linspace(0, len(x) - 1, most).round().astype(int)
    return x[kept], y[kept]


def median_curve(curves: Sequence[Curve], most: int = MOST_POINTS) -> Curve:
    """Return the median of curves where all of them have values: from the latest start to the earliest end.

    Beyond the earliest end only the slowest seeds are left, and their median would be no median of all.
    """
    start = max(x[0] for x, _ in curves)
    end = min(x[-1] for x, _ in curves)
    if end < start:
        return np.empty(0), np.empty(0)
    grid = np.unique(np.concatenate([x for x, _ in curves]))
    grid, _ = thin((grid[(grid >= start) & (grid <= end)],) * 2, most)
    return grid, np.median([np.interp(grid, x, y) for x, y in curves], axis=0)
