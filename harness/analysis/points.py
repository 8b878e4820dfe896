"""Cells as points: seeds together, what is ranked, and the interval of a median. Imports neither torch nor pandas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from harness.core.endings import Status
from harness.core.row import Row as Row
from harness.core.step_parts import Part
from harness.core.words import varied_settings

SWEPT = "swept "
"""Starts the columns of keys that were swept by their path."""

COMPUTING = (Part.INPUT.column, Part.COMPUTE.column, Part.OTHER.column)
EXCHANGING = (Part.COMMUNICATION.column, Part.IDLE.column)
"""The parts of the training time: means over devices for the run, without overlap."""

PART_NAMES = {
    Part.INPUT.column: "input",
    Part.COMPUTE.column: "computing",
    Part.COMMUNICATION.column: "communication",
    Part.IDLE.column: "waiting for others",
    Part.OTHER.column: "other work",
}
"""Those parts in words."""

RESULTS = frozenset(status for status in Status if status.result)
TRIED = frozenset(status for status in Status if status.tried)
POINT_COLUMNS = (
    "strategy",
    "options",
    "engine",
    "device",
    "precision",
    "gpus",
    "nodes",
    "batch_size",
    "micro_batch_size",
    "global_batch_size",
    "learning_rate",
    "lr_rule",
)
"""What identifies a point, with the keys that were swept by their path: cells that agree in it differ in their seed."""


def point_of(row: Row, leaving_out: Collection[str] = ()) -> tuple[str, ...]:
    """Return what identifies a row's point; of some columns left out what it shares with others."""
    columns = (str(row.get(column)) for column in POINT_COLUMNS if column not in leaving_out)
    return (*columns, str(settings_of(row)))


def point_of_twins(row: Row) -> tuple[str, ...]:
    """Return what a real cell and its virtual twin have in common: all but the engine and where its devices stand."""
    return point_of(row, leaving_out=("engine", "nodes"))


def status_counts(rows: Iterable[Row]) -> dict[str, int]:
    """Count cells by status, in a fixed order; statuses that do not occur are left out."""
    found = [row["status"] for row in rows]
    return {status: found.count(status) for status in Status if status in found}


@dataclass(frozen=True)
class Point:
    """The seeds of one point of the sweep on one engine.

    Attributes:
        by_target: ranked by time to target, else by throughput.
        varied: options and swept keys in which the points of its strategy differ, each with its value.
    """

    rows: tuple[Row, ...]
    by_target: bool
    varied: tuple[str, ...] = ()

    @property
    def details(self) -> str:
        """What it differs in, as one text."""
        return ", ".join(self.varied)

    @property
    def row(self) -> Row:
        """What all its seeds have in common, and the first one's results."""
        return self.rows[0]

    @property
    def strategy(self) -> str:
        """The strategy's name."""
        return str(self.row["strategy"])

    @property
    def gpus(self) -> int:
        """Devices that it uses."""
        return int(self.row["gpus"])

    def median_of(self, function: Callable[[Row], float | None]) -> float | None:
        """Return the median over the seeds for which `function` has a value."""
        values = [value for value in map(function, self.rows) if value is not None]
        return median(values) if values else None

    def per_update(self, parts: Sequence[str]) -> float | None:
        """Return seconds that these parts of the time take per update; mean over devices, median over seeds."""
        return self.median_of(lambda row: _per_update(row, parts))


def points(rows: Sequence[Row], by_target: bool) -> list[Point]:
    """Group cells that differ in nothing but the seed."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(point_of(row), []).append(row)
    varied = varied_settings((row["strategy"], settings_of(row)) for row in rows)
    return [Point(tuple(group), by_target, _details(group[0], varied)) for group in groups.values()]


def settings_of(row: Row) -> dict[str, str]:
    """Return a row's options, which cells.csv holds as JSON, and the keys that were swept by their path."""
    written = row.get("options") or {}
    options = json.loads(written) if isinstance(written, str) else written
    swept = {key.removeprefix(SWEPT): row[key] for key in sorted(row) if key.startswith(SWEPT)}
    return {key: json.dumps(value) for key, value in {**options, **swept}.items()}


def _details(row: Row, varied: set[tuple[str, str]]) -> tuple[str, ...]:
    return tuple(f"{key} {value}" for key, value in settings_of(row).items() if (row["strategy"], key) in varied)


def has_target(rows: Iterable[Row]) -> bool:
    """Say whether cells were to reach a target: then time to it decides, else throughput."""
    return any(row["status"] == Status.TARGET_MISSED or number(row, "time_to_target_s") is not None for row in rows)


def not_ranked(row: Row) -> bool:
    """Say whether the plan shows a cell without ranking it: it has more workers than devices."""
    ranked = row.get("ranked")
    return ranked is not None and not ranked


def number(row: Row, key: str) -> float | None:
    """Return a column as a number, or None where it was not measured."""
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return float(value)


def mean_update_s(row: Row) -> float | None:
    """Return the seconds of an update of the whole job, the mean after warm-up; None without a throughput.

    Not the column step_time_s, which is the median of the first device's steps: where workers take turns a step of
    one of them is several updates long, and a slow step in ten moves the mean only.
    """
    rate, batch = number(row, "throughput_samples_per_s"), number(row, "global_batch_size")
    return batch / rate if rate and batch else None


def in_stages(row: Row) -> bool:
    """Say whether a row is of a pipeline, whose stages wait for each other in proportion to the work."""
    return (number(row, "pipeline") or 1) > 1


def _per_update(row: Row, parts: Sequence[str]) -> float | None:
    steps, values = number(row, "steps"), [number(row, part) for part in parts]
    known = [value for value in values if value is not None]
    return sum(known) / steps if steps and known else None


def ranked_rows(rows: Sequence[Row]) -> list[Row]:
    """Return what is ranked: the measured cells where any has a result, else the simulated ones."""
    real = [row for row in rows if row["engine"] != "virtual"]
    if any(row["status"] in RESULTS for row in real):
        return real
    return [row for row in rows if row["engine"] == "virtual"] or real


def without_controls(found: list[Point]) -> list[Point]:
    """Leave out one-device points of strategies that were split elsewhere: single stands for them."""
    if not any(point.strategy == "single" for point in found):
        return found
    split = {point.strategy for point in found if point.gpus > 1}
    return [point for point in found if point.gpus > 1 or point.strategy not in split]
