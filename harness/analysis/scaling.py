"""Throughput of more devices: speed-up and efficiency with intervals, the tail of step times, the serial share."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.intervals import cost, ratio
from harness.analysis.points import SWEPT, Point, Row, number, points, settings_of
from harness.core.records import Json

FAR_OUT = 3.0
"""Quartile distances above the upper quartile above which a step is an outlier.

Source: J. W. Tukey 1977, Exploratory data analysis, section 2D ("far out").
"""


# -- step times --------------------------------------------------------------------------------------------------------


def step_times(steps: pd.DataFrame, warmup_steps: int = 10) -> NDArray[np.float64]:
    """Return the seconds from one step of a cell's first worker to its next, warm-up left out.

    Without the last step, whose end is not in the table.

    Args:
        steps: of one cell, as `harness.load` has them.
        warmup_steps: left out, at most a tenth of the run; the scenario's `measure.warmup_steps`.
    """
    first = steps[(steps["worker"] == 0) & (steps["device"].fillna(0) == 0)]
    starts = np.sort(first["start_s"].to_numpy(dtype=float))
    warm = min(warmup_steps, len(starts) // 10)
    return np.diff(starts[warm:])


@dataclass(frozen=True)
class Tail:
    """How step times spread.

    Attributes:
        outliers: steps that are far out; they are counted in everything else too.
        outlier_share: of the time, that they took.
    """

    steps: int
    median_s: float
    p95_s: float
    longest_s: float
    outliers: int
    outlier_share: float


def tail_of(times: Sequence[float] | NDArray[np.float64]) -> Tail | None:
    """Sum up the step times of one cell; None without any."""
    known = np.asarray(times, dtype=float)
    if not len(known):
        return None
    lower, upper = np.quantile(known, (0.25, 0.75))
    far = known > upper + FAR_OUT * (upper - lower)
    # Simulated steps may all be equal but for rounding; what differs by less than a millionth is no outlier.
    far &= known > upper * (1 + 1e-6)
    return Tail(
        steps=len(known),
        median_s=float(np.median(known)),
        p95_s=float(np.quantile(known, 0.95, method="inverted_cdf")),
        longest_s=float(known.max()),
        outliers=int(far.sum()),
        outlier_share=float(known[far].sum() / known.sum()),
    )


def slowest_worker(steps: pd.DataFrame) -> tuple[int, int, float] | None:
    """Return (worker, device, times the others' median) of the device that computes longest; None for one device."""
    computed = steps.assign(device=steps["device"].fillna(0)).groupby(["worker", "device"])["compute_s"].median()
    if len(computed) < 2:
        return None
    worker, device = computed.idxmax()
    others = computed.drop((worker, device)).median()
    return int(worker), int(device), float(computed.max() / others) if others > 0 else math.inf


def tails_frame(cells: pd.DataFrame, steps: pd.DataFrame, warmup_steps: int = 10) -> pd.DataFrame:
    """Return one row for each cell with steps: its `Tail` and its slowest worker.

    Args:
        cells, steps: of `harness.load`.
        warmup_steps: the scenario's `measure.warmup_steps`.
    """
    rows = []
    by_cell = dict(list(steps.groupby("cell_id"))) if len(steps) else {}
    for cell in cells.to_dict("records"):
        table = by_cell.get(cell["cell_id"])
        tail = tail_of(step_times(table, warmup_steps)) if table is not None else None
        if tail is None:
            continue
        row = {key: cell.get(key) for key in ("cell_id", "strategy", "engine", "gpus", "workers", "seed")} | vars(tail)
        slowest = slowest_worker(table)
        row |= dict(zip(("slowest_worker", "slowest_device", "slowest_times"), slowest or (None,) * 3, strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


# -- speed-up ----------------------------------------------------------------------------------------------------------


def scaling_frame(cells: pd.DataFrame, steps: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return speed-up and efficiency of every point, against its base of the same engine, with intervals.

    The base is `single` with the same global batch (strong scaling) or the same batch for each rank (weak), else the
    fewest devices of the same strategy. Efficiency is the speed-up over how many times as many devices there are. The
    interval comes from the runs where there are five on either side, else from their raw steps: then what differs from
    run to run is not in it, and `between_runs` is False.

    Args:
        cells, steps: of `harness.load`; without steps there are intervals from five seeds on only.
    """
    rows = [row for row in cells.to_dict("records") if number(row, "throughput_samples_per_s")]
    found = points(rows, by_target=False)
    by_cell = dict(list(steps.groupby("cell_id"))) if steps is not None and len(steps) else {}
    lines = []
    for point in found:
        base, scaling, key = find_base(point, found)
        lines.append(_line(point) | _against(point, base, by_cell) | {"scaling": scaling, "same": key})
    return pd.DataFrame(lines)


def find_base(point: Point, among: Sequence[Point]) -> tuple[Point, str, str]:
    """Return what a point is measured against, "strong" or "weak", and the batch that both have in common."""
    alike = [other for other in among if _setting(other.row) == _setting(point.row)]
    for strategy in ("single", point.strategy):
        for scaling, key in (("strong", "global_batch_size"), ("weak", "batch_size")):
            same = [p for p in alike if p.strategy == strategy and p.row[key] == point.row[key]]
            same = [p for p in same if strategy == "single" or _options(p.row) == _options(point.row)]
            if same:
                return min(same, key=lambda p: (p.gpus, -_throughput(p))), scaling, key
    return point, "strong", "global_batch_size"


def _setting(row: Row) -> tuple[Hashable, ...]:
    swept = tuple(
        (key, str(row[key])) for key in sorted(row) if key.startswith(SWEPT) and not key.startswith(f"{SWEPT}strategy.")
    )
    return (row.get("engine"), row.get("device"), row.get("precision"), row.get("environment"), *swept)


def _options(row: Row) -> str:
    return str(settings_of(row))


def _throughput(point: Point) -> float:
    return float(median(row["throughput_samples_per_s"] for row in point.rows))


def _line(point: Point) -> Json:
    keys = (
        "cell_id",
        "strategy",
        "options",
        "engine",
        "device",
        "gpus",
        "batch_size",
        "global_batch_size",
        "learning_rate",
    )
    speed = {"details": point.details, "runs": len(point.rows), "throughput_samples_per_s": _throughput(point)}
    return {key: point.row.get(key) for key in keys} | speed


def _against(point: Point, base: Point, steps: Mapping[str, pd.DataFrame]) -> Json:
    speedup = _throughput(point) / _throughput(base)
    times = point.gpus / base.gpus
    line: Json = {"base": f"{base.strategy} on {base.gpus}", "base_gpus": base.gpus, "speedup": speedup}
    line |= {"efficiency": speedup / times, "ideal": times}
    ends = dict.fromkeys(("speedup_low", "speedup_high", "efficiency_low", "efficiency_high", "between_runs"))
    if point is base:
        return line | ends
    costs = [_cost(p, steps) for p in (point, base)]
    if costs[0] is None or costs[1] is None:
        return line | ends
    interval = ratio(costs[0], costs[1]).interval()
    ends = {"speedup_low": interval.low, "speedup_high": interval.high}
    ends |= {"efficiency_low": interval.low / times, "efficiency_high": interval.high / times}
    return line | ends | {"between_runs": costs[0].between_runs and costs[1].between_runs}


def _cost(point: Point, steps: Mapping[str, pd.DataFrame]) -> Any:
    """Return the seconds of a sample: of runs, or of steps over the samples behind one."""
    runs = [1 / row["throughput_samples_per_s"] for row in point.rows]
    if point.row.get("synchrony") == "asynchronous":
        return cost(runs)  # a worker's own steps are not the job's
    tables = [steps[row["cell_id"]] for row in point.rows if row["cell_id"] in steps]
    series = [step_times(table) / point.row["global_batch_size"] for table in tables]
    found = cost(runs, series if len(series) == len(runs) else ())
    if found is None or found.between_runs:
        return found
    # Steps say how sure it is; the middle is that of the speed-up that is drawn.
    return replace(found, log=-math.log(_throughput(point)))


# -- the serial share --------------------------------------------------------------------------------------------------


def amdahl(devices: Sequence[float], speedups: Sequence[float]) -> float:
    """Return the serial share s of S(N) = 1 / (s + (1 - s) / N) that fits best, in relative terms; 0 to 1.

    Source: G. M. Amdahl 1967, Validity of the single processor approach; the fit is least squares in 1/S, each point
    weighted by its S, which is linear in s.

    Raises:
        ValueError: there is no point with more than one device.
    """
    rows = [(speedup * (1 - 1 / n), 1 - speedup / n) for n, speedup in zip(devices, speedups, strict=True) if n > 1]
    if not rows:
        raise ValueError("a serial share needs a point with more than one device")
    share = sum(a * b for a, b in rows) / sum(a * a for a, _ in rows)
    return min(1.0, max(0.0, share))
