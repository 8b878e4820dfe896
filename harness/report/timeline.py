"""A few steps of every strategy on one clock, cut out of their tables of steps."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness.analysis.points import Row, points
from harness.analysis.result_findings import ResultFindings
from harness.core.endings import Status
from harness.core.step_parts import PART_COLUMNS
from harness.report.frames import PageFrames
from harness.report.scenario_results import ScenarioResults

MOST_LANES = 4
"""Devices at most in the point that is shown of a strategy, where it has one that small: more teach nothing new."""

MOST_STRATEGIES = 6
STEPS_SHOWN = 3.5
"""Of the slowest strategy, as long as that is no more than `STEPS_OF_FASTEST` of the fastest; chosen."""

STEPS_OF_FASTEST = 14

STOPS = (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100)
"""Shares of a run at which a slider stops, in percent; chosen: the page stays small, and a run shows its start, its end
and what changes between them."""


def timeline_frame(frames: PageFrames) -> pd.DataFrame:
    """Return the steps of every device that a window at each of `STOPS` holds; times from its start.

    Each strategy stands with its best point on few devices, and all of one engine have windows of one length.
    """
    scenario, found = frames.scenario, []
    for engine in ("real", "virtual"):
        tables = [
            (row, _lanes(scenario.table("steps", row["cell_id"]))) for row in _shown(scenario, frames.findings, engine)
        ]
        tables = [(row, table) for row, table in tables if len(table)]
        if not tables:
            continue
        length_s = _length([_step_s(table) for _, table in tables])
        for row, table in tables:
            head = {
                "simulated": engine == "virtual",
                "strategy": row["strategy"],
                "label": frames.labels[row["cell_id"]],
            }
            head |= {"gpus": row["gpus"], "cell": frames.names[row["cell_id"]], "window_s": length_s}
            found += [_window(table, length_s, stop).assign(**head, stop=stop) for stop in STOPS]
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _shown(scenario: ScenarioResults, findings: ResultFindings, engine: str) -> list[Row]:
    """Return a row of results for each strategy: the first seed of its best point on most of few devices.

    A strategy that stands alone is shown on each number of devices.
    """
    rows = [row for row in scenario.rows if row["engine"] == engine and Status(row["status"]).trained]
    names = list(dict.fromkeys(row["strategy"] for row in rows))[:MOST_STRATEGIES]
    shown = []
    for strategy in names:
        found = points([row for row in rows if row["strategy"] == strategy], by_target=True)
        few = [point.gpus for point in found if point.gpus <= MOST_LANES] or [min(point.gpus for point in found)]
        counts = [max(few)] if len(names) > 1 else sorted({point.gpus for point in found})[:MOST_STRATEGIES]
        for gpus in counts:
            best = min((findings.standing(p) for p in found if p.gpus == gpus), key=lambda standing: standing.rank)
            shown.append(best.point.row)
    return shown


def _lanes(steps: pd.DataFrame) -> pd.DataFrame:
    """Return the steps of at most `MOST_LANES` devices, each named; empty where times were not recorded."""
    if not len(steps) or steps["start_s"].isna().all():
        return pd.DataFrame()
    device = steps["device"].fillna(0).astype(int)
    workers, devices = steps["worker"].nunique() > 1, device.nunique() > 1
    worker, device = "worker " + steps["worker"].astype(str), "device " + device.astype(str)
    lane = worker + ", " + device if workers and devices else worker if workers else device
    kept = steps.assign(lane=lane)[["lane", "step", "start_s", *PART_COLUMNS]]
    return kept[kept["lane"].isin(sorted(kept["lane"].unique())[:MOST_LANES])].fillna(0.0)


def _step_s(table: pd.DataFrame) -> float:
    first = table[table["lane"] == table["lane"].iloc[0]].sort_values("start_s")
    return (
        float(first["start_s"].diff().median())
        if len(first) > 1
        else float(first[list(PART_COLUMNS)].sum(axis=1).iloc[0])
    )


def _length(steps_s: Sequence[float]) -> float:
    return min(STEPS_SHOWN * max(steps_s), STEPS_OF_FASTEST * min(steps_s))


def _window(table: pd.DataFrame, length_s: float, stop: int) -> pd.DataFrame:
    """Return the steps of so many seconds, from the step of the first lane on at so many percent of the run."""
    starts = table[table["lane"] == table["lane"].min()]["start_s"].sort_values()
    ends = table["start_s"] + table[list(PART_COLUMNS)].sum(axis=1)
    latest = starts[starts <= max(starts.iloc[0], ends.max() - length_s)]
    begin = float(latest.iloc[(len(latest) - 1) * stop // 100])
    inside = table[(ends > begin) & (table["start_s"] < begin + length_s)].copy()
    inside["start_s"] -= begin
    return inside.sort_values(["lane", "start_s"])
