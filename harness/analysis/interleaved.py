"""Times of two sides whose runs took turns: each run is put beside its neighbour, so that no drift is in a ratio.

The block model with two rows: a block is a pair of runs, and how pairs scatter is read from all points together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from harness.analysis.intervals import Ratio
from harness.analysis.two_way import LEAST_BLOCKS, LEAST_DEGREES, OUTLYING, ROBUST

FEWEST_PAIR_DEGREES = 3
"""Degrees of freedom below which the scatter of pairs is not known; chosen."""


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
    if degrees >= LEAST_DEGREES and min(map(len, logs.values())) >= LEAST_BLOCKS:
        away = np.concatenate([own - np.median(own) for own in logs.values()])
        most = OUTLYING * ROBUST * float(np.median(np.abs(away))) * math.sqrt(count / degrees)
        logs = {point: np.median(own) + np.clip(own - np.median(own), -most, most) for point, own in logs.items()}
        wider = 1.1 * (1 + 1 / degrees)
    variance = sum(float(np.sum((own - own.mean()) ** 2)) for own in logs.values()) / degrees
    return {
        point: Ratio(math.exp(float(own.mean())), wider * math.sqrt(variance / len(own)), degrees)
        for point, own in logs.items()
    }
