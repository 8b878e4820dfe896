"""How busy devices were as a run went on: from its steps, and from what was sampled beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.points import Row, number
from harness.core.step_parts import PART_COLUMNS

MOST_WINDOWS = 40
"""Chosen: more than that a figure does not show."""

STEPS_IN_A_WINDOW = 3
"""Chosen: with fewer, where a window's edge falls within a step decides."""

LEAST_WINDOWS = 4
"""With fewer there is no course to show."""


def computing_frame(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the share of the time that a cell's devices spent computing, window by window: mean over devices.

    Within a step computing is spread evenly, since the order of a step's parts is not recorded.

    Args:
        steps: of one cell, as `harness.load` has them.

    Returns:
        Columns time_s (middle of the window, from the start of training) and value (0..1); empty for a short run or
        where times were not recorded.
    """
    if not len(steps) or steps["start_s"].isna().any():
        return _frame([], [])
    lanes = [lane.sort_values("start_s") for _, lane in steps.groupby(["worker", "device"], dropna=False)]
    windows = min(MOST_WINDOWS, min(map(len, lanes)) // STEPS_IN_A_WINDOW)
    end = float((steps["start_s"] + steps[list(PART_COLUMNS)].fillna(0.0).sum(axis=1)).max())
    if windows < LEAST_WINDOWS or end <= 0:
        return _frame([], [])
    edges = np.linspace(0.0, end, windows + 1)
    shares = np.mean([np.diff(_computed(lane, edges)) / np.diff(edges) for lane in lanes], axis=0)
    return _frame((edges[:-1] + edges[1:]) / 2, np.clip(shares, 0.0, 1.0))


def _computed(lane: pd.DataFrame, at: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the seconds of computing of one device up to each of these times."""
    starts = lane["start_s"].to_numpy(float)
    ends = starts + lane[list(PART_COLUMNS)].fillna(0.0).sum(axis=1).to_numpy(float)
    after = np.cumsum(lane["compute_s"].fillna(0.0).to_numpy(float))
    before = after - lane["compute_s"].fillna(0.0).to_numpy(float)
    times = np.column_stack([starts, np.maximum(starts, ends)]).ravel()
    done = np.column_stack([before, after]).ravel()
    # Parts that overlap the next step, as an asynchronous exchange may, must not turn time back.
    computed: NDArray[np.float64] = np.interp(at, np.maximum.accumulate(times), done)
    return computed


def sampled_frame(telemetry: pd.DataFrame, row: Row, quantity: str) -> pd.DataFrame:
    """Return what a probe saw of a cell's devices while it trained: one value for each reading.

    CPU time is summed over processes and divided by devices; a utilisation is the mean over devices; memory is that of
    the fullest device.

    Args:
        telemetry: of one cell, as `harness.load` has it: seconds from the start of training.
        row: of cells.csv.
        quantity: "host_cpu", "nvml_gpu_utilisation" or "nvml_used".

    Returns:
        Columns time_s and value.
    """
    if not len(telemetry):
        return _frame([], [])
    end = (number(row, "wall_s") or 0.0) - (number(row, "setup_s") or 0.0)
    known = telemetry[(telemetry["quantity"] == quantity) & telemetry["time_s"].between(0.0, end)]
    ticks = known.groupby("time_s")["value"]
    values = {"host_cpu": ticks.sum, "nvml_used": ticks.max}.get(quantity, ticks.mean)()
    values = values / row["gpus"] if quantity == "host_cpu" else values
    return _frame(values.index, values)


def _frame(times: object, values: object) -> pd.DataFrame:
    return pd.DataFrame({"time_s": np.asarray(times, dtype=float), "value": np.asarray(values, dtype=float)})
