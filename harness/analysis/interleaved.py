"""Times of two sides whose runs took turns: each run is put beside its neighbour, so that no drift is in a ratio.

The block model with two rows: a block is a pair of runs, and how pairs scatter is read from all points together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis.intervals import Ratio

FEWEST_PAIR_DEGREES = 3
"""Degrees of freedom below which the scatter of pairs is not known; chosen."""

DRAWN_IN_FROM = 12
"""Degrees of freedom from which on bursts are drawn in; chosen: of fewer the usual scatter is not known well enough."""

FEWEST_TO_DRAW_IN = 5
"""Pairs of a point below which none is drawn in."""

BURST_BEYOND = 3.0
"""Robust standard deviations beyond which a pair is a burst; chosen by simulation: `benchmarks/statistics.py`."""


def ratios_of_pairs(pairs: Mapping[str, Sequence[float]]) -> dict[str, Ratio]:
    """Return each point's ratio of new to base; none where too few pairs say how they scatter.

    Args:
        pairs: of each point, logarithms of new over base, one for each pair of runs.
    """
    logs = {point: np.asarray(own, dtype=float) for point, own in pairs.items() if own}
    count = sum(map(len, logs.values()))
    degrees = count - len(logs)
    if degrees < FEWEST_PAIR_DEGREES:
        return {}
    wider = 1.0
    if degrees >= DRAWN_IN_FROM and min(map(len, logs.values())) >= FEWEST_TO_DRAW_IN:
        away = np.concatenate([own - np.median(own) for own in logs.values()])
        most = BURST_BEYOND * 1.4826 * float(np.median(np.abs(away))) * math.sqrt(count / degrees)
        logs = {point: np.median(own) + np.clip(own - np.median(own), -most, most) for point, own in logs.items()}
        wider = 1.1 * (1 + 1 / degrees)
    variance = sum(float(np.sum((own - own.mean()) ** 2)) for own in logs.values()) / degrees
    return {
        point: Ratio(math.exp(float(own.mean())), wider * math.sqrt(variance / len(own)), degrees)
        for point, own in logs.items()
    }
