"""How busy devices were as a run went on: from its steps, and from what was sampled beside it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.points import Row, number
from harness.core.clock_reasons import REASONS
from harness.core.step_parts import PART_COLUMNS

MOST_WINDOWS = 40
"""Chosen: more than that a figure does not show."""

STEPS_IN_A_WINDOW = 3
"""Chosen: with fewer, where a window's edge falls within a step decides."""

LEAST_WINDOWS = 4
"""With fewer there is no course to show."""


SUMMED = ("_power",)
FULLEST = ("_used",)
"""How quantities end that are summed over a cell's devices, or are those of the fullest one."""


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

    CPU time is summed over processes and divided by devices; power is summed over devices; memory is that of the
    fullest device; all else is the mean over devices. Where a device stops to answer, the course ends.

    Args:
        telemetry: of one cell, as `harness.load` has it: seconds from the start of training.
        row: of cells.csv.
        quantity: such as "host_cpu", "nvml_gpu_utilisation" or "nvml_used".

    Returns:
        Columns time_s and value.
    """
    ticks = _known(telemetry, row, quantity).groupby("time_s")["value"]
    if quantity == "host_cpu":
        values = ticks.sum() / row["gpus"]
    elif quantity.endswith(SUMMED):
        values = ticks.sum()
    else:
        values = ticks.max() if quantity.endswith(FULLEST) else ticks.mean()
    return _frame(values.index, values)


def limits_frame(telemetry: pd.DataFrame, row: Row, quantity: str) -> pd.DataFrame:
    """Return what held a cell's clocks back while it trained, reading by reading.

    Args:
        telemetry: of one cell, as `harness.load` has it: seconds from the start of training.
        row: of cells.csv.
        quantity: of `harness.core.clock_reasons.REASONS`.

    Returns:
        Columns reason (in words, only those that were told at all), time_s and value: the share of devices (0..1).
    """
    known = _known(telemetry, row, quantity)
    bits = known["value"].astype(int)
    found = [
        known.assign(reason=word, value=(bits & bit > 0).astype(float))
        for bit, word in REASONS[quantity].items()
        if (bits & bit).any()
    ]
    if not found:
        return pd.DataFrame(columns=["reason", "time_s", "value"])
    return pd.concat(found).groupby(["reason", "time_s"], as_index=False)["value"].mean()


def _known(telemetry: pd.DataFrame, row: Row, quantity: str) -> pd.DataFrame:
    """Return the samples of one quantity while the cell trained, columns time_s and value.

    Of GPUs only what all told in one reading: a sum or a mean over those that are left would pass for the whole.
    """
    if not len(telemetry):
        return _frame([], [])
    end = (number(row, "wall_s") or 0.0) - (number(row, "setup_s") or 0.0)
    known = telemetry[(telemetry["quantity"] == quantity) & telemetry["time_s"].between(0.0, end)]
    if not quantity.startswith("host_"):
        told = known.groupby("time_s")["device"].transform("nunique")
        known = known[told == told.max()]
    return known[["time_s", "value"]]


def _frame(times: object, values: object) -> pd.DataFrame:
    return pd.DataFrame({"time_s": np.asarray(times, dtype=float), "value": np.asarray(values, dtype=float)})
