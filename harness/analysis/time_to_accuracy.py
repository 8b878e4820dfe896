"""Time to accuracy of several seeds, those that never got there included."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from harness.analysis.censored import MEASURES, SeedRun, beats, censored_median, expected_time, run_of
from harness.analysis.exact import Interval, median_interval, share_interval
from harness.analysis.intervals import bootstrap_interval
from harness.analysis.points import points

__all__ = ["Reached", "SeedRun", "beats_frame", "reached_by", "reached_frame", "run_of"]

BETTER_OF_TEN = 10
"""Runs at which a resampled interval is first given: with fewer a bootstrap is too narrow (18 % low at n = 5, measured
on log-normal times); chosen."""


@dataclass(frozen=True)
class Reached:
    """What the seeds of one point say of its way to the target.

    Attributes:
        runs: trained to an end; reached: those that met the target.
        probability: interval of the probability that a seed reaches it within its budget.
        median: inf where fewer than half are known to get there.
        interval: of the median; None below five runs. Its ends may be inf.
        expected: with restarts; inf where none reached it.
        expected_interval: None below ten runs.
    """

    runs: int
    reached: int
    probability: Interval
    median: float
    interval: Interval | None
    expected: float
    expected_interval: Interval | None


def reached_by(runs: Sequence[SeedRun]) -> Reached:
    """Sum up the seeds of one point; at least one.

    The interval of the median takes a run without the target for one that gets there after all others: true as long
    as budgets are equal, and they are for the seeds of one point.
    """
    found = median_interval([run.latest for run in runs])
    reached = sum(run.reached for run in runs)
    expected_interval = None
    if len(runs) >= BETTER_OF_TEN:
        expected_interval = bootstrap_interval(expected_time, runs)
    return Reached(
        runs=len(runs),
        reached=reached,
        probability=share_interval(reached, len(runs)),
        median=censored_median(runs),
        interval=Interval(*found) if found else None,
        expected=expected_time(runs),
        expected_interval=expected_interval,
    )


# -- frames ------------------------------------------------------------------------------------------------------------

KEYS = ("strategy", "options", "engine", "device", "gpus", "batch_size", "global_batch_size", "learning_rate")


def reached_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each point and measure: what `Reached` holds, ends of intervals as columns of their own.

    Column `broken` counts the seeds that never trained to an end (crashed, out of memory, ...): they say nothing about
    learning and are in no other figure.

    Args:
        cells: of `harness.load`.
    """
    rows = []
    for point in points(cells.to_dict("records"), by_target=True):
        head = {key: point.row.get(key) for key in KEYS} | {"details": point.details}
        for measure in MEASURES:
            runs = [run for row in point.rows if (run := run_of(row, measure)) is not None]
            if runs:
                tail = {"measure": measure, "broken": len(point.rows) - len(runs)}
                rows.append(head | tail | _columns(reached_by(runs)))
    return pd.DataFrame(rows)


def _columns(found: Reached) -> dict[str, float | None]:
    intervals = {"probability": found.probability, "median": found.interval, "expected": found.expected_interval}
    columns: dict[str, float | None] = {
        "runs": found.runs,
        "reached": found.reached,
        "probability": found.reached / found.runs,
        "median": found.median,
        "expected": found.expected,
        "median_coverage": found.interval.coverage if found.interval else None,
    }
    for name, interval in intervals.items():
        columns[f"{name}_low"] = interval.low if interval else None
        columns[f"{name}_high"] = interval.high if interval else None
    return columns


def beats_frame(cells: pd.DataFrame, measure: str = "time") -> pd.DataFrame:
    """Return one row for each ordered pair of points of one engine: how probably the first is the faster one."""
    found = []
    for point in points(cells.to_dict("records"), by_target=True):
        runs = [run for row in point.rows if (run := run_of(row, measure)) is not None]
        if runs:
            found.append((point, runs))
    rows = []
    for point, runs in found:
        for other, others in found:
            if point is other or point.row["engine"] != other.row["engine"]:
                continue
            result = beats(runs, others)
            row = {f"first_{key}": point.row.get(key) for key in KEYS} | {"first_details": point.details}
            row |= {f"second_{key}": other.row.get(key) for key in KEYS} | {"second_details": other.details}
            row |= {"probability": result.probability, "resolved": result.resolved}
            row |= {end: getattr(result.interval, end, None) for end in ("low", "high")}
            rows.append(row)
    return pd.DataFrame(rows)
