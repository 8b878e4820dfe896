"""The gradient noise scale over the course of training: it dips while the loss falls steeply, and rises after that."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from harness.analysis.gradient_noise import LEAST_KNOWN_STEPS, known_squares, noise_scale

MOST_NOISE_WINDOWS = 12
WINDOW_STEPS = 100
"""Updates in a window: no fewer, for with two workers of 16 samples each it takes some hundred; chosen."""


def noise_frame(runs: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Return one row for each window of updates: medians over runs of one point, which differ in the seed only.

    A window in which a run's noise scale is not resolved counts as infinite: where most are, so is the median, and the
    row has none.

    Args:
        runs: columns as in updates.parquet; a run that knows no squares has no windows.

    Returns:
        Columns samples_seen (at the window's middle), noise_scale, low, high (samples), updates (that it rests on, in
        all runs) and seeds.
    """
    longest = max((len(run) for run in runs), default=0)
    size = max(WINDOW_STEPS, math.ceil(longest / MOST_NOISE_WINDOWS))
    rows = [row for run in runs for row in _windows(run, size)]
    frame = pd.DataFrame(rows, columns=["window", "samples_seen", "noise_scale", "low", "high", "updates"])
    medians = frame.groupby("window")[["samples_seen", "noise_scale", "low", "high"]].median()
    found = medians.assign(updates=frame.groupby("window")["updates"].sum(), seeds=frame.groupby("window").size())
    return found.replace(math.inf, math.nan).reset_index(drop=True)


def _windows(run: pd.DataFrame, size: int) -> list[tuple[float, ...]]:
    if "small_square" not in run.columns:
        return []
    rows: list[tuple[float, ...]] = []
    seen = run["samples"].cumsum()
    for number, begin in enumerate(range(0, len(run), size)):
        window = run.iloc[begin : begin + size].dropna(subset=["small_square"])
        squares = known_squares({str(name): column.tolist() for name, column in window.items()})
        if len(squares) < LEAST_KNOWN_STEPS:
            continue
        found, middle = noise_scale(squares), float(seen.iloc[begin : begin + size].mean())
        low, high = found.interval if found.samples and found.interval else (math.inf, math.inf)
        rows.append((number, middle, found.samples or math.inf, low, high, found.steps))
    return rows
