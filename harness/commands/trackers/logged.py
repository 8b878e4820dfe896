"""What trackers log of a cell: settings, numbers, words and series, under the names of scenario and cells.csv."""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

from harness.api.listeners import StoredCell
from harness.core.cell import Cell, Named
from harness.core.records import Json

Setting = str | int | float | bool

MOST_READINGS = 1000
"""Points of a series of telemetry that are logged, evenly picked from more; chosen: TensorBoard keeps as many of a
series in memory, MLflow draws fewer, and an hour at 0.1 s has 36,000 of each device."""

SAMPLES, TIME = "samples", "training_time_s"
"""Series beside the curves: how many samples, and how many seconds of training, each update is."""

_SETTINGS = (
    *("strategy", "synchrony", "engine", "device", "gpus", "nodes", "workers", "servers", "threads_per_device"),
    *("batch_size", "micro_batch_size", "global_batch_size", "learning_rate", "lr_rule", "seed"),
)
_OF_WORKLOAD = ("loss", "precision", "step", "lr_warmup", "clip_norm")
_NAMED = ("model", "dataset", "optimizer", "lr_schedule")
_WORDS = ("status", "reason", "regime", "fitting", "traits", "disturbed", "trajectory_id", "metric", "better")


class Logged(NamedTuple):
    """One value of a series.

    Attributes:
        step: updates so far; of telemetry the number of the reading.
        time_s: since training began, on the cell's own clock.
    """

    step: int
    time_s: float
    value: float


def settings(cell: Cell) -> dict[str, Setting]:
    """Return what a cell is: its point, its seed and what it trains; what is not set is left out."""
    found: Json = {name: getattr(cell, name) for name in _SETTINGS}
    found |= {f"options.{name}": value for name, value in cell.options.items()}
    for name in _NAMED:
        found |= dict(_named(name, getattr(cell.workload, name)))
    found |= {name: getattr(cell.workload, name) for name in _OF_WORKLOAD}
    found |= {name: value for name, value in cell.swept.items() if name.rpartition(".")[2] not in found}
    return {name: _plain(value) for name, value in found.items() if value is not None and value != ""}


def _named(key: str, value: Named) -> Iterator[tuple[str, object]]:
    yield key, value.name
    yield from ((f"{key}.{name}", option) for name, option in value.options.items())


def _plain(value: object) -> Setting:
    return value if isinstance(value, (str, int, float, bool)) else json.dumps(value, sort_keys=True, default=str)


def numbers(stored: StoredCell) -> dict[str, float]:
    """Return what was measured: every column of cells.csv that is a number and no setting."""
    known = settings(stored.cell)
    return {
        _metric_name(name): float(value)
        for name, value in stored.row.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and name not in known
    }


def words(stored: StoredCell) -> dict[str, str]:
    """Return what the record says in words: how the cell ended, what kind of curve it has, what it ran on."""
    said = {name: str(value) for name in _WORDS if (value := stored.row.get(name))}
    here = {f"environment.{name}": str(value) for name, value in stored.environment.items() if value not in ("", None)}
    return said | ({"notes": "\n".join(stored.notes)} if stored.notes else {}) | here


def curves(stored: StoredCell) -> dict[str, list[Logged]]:
    """Return the columns of evals.csv as series over updates, `samples` and `training_time_s` among them."""
    table = stored.table("evals.csv")
    if not table:
        return {}
    steps, times = table["updates"], table["time_s"]
    columns = {TIME if name == "time_s" else name: column for name, column in table.items() if name != "updates"}
    series = {name: _points(steps, times, column) for name, column in columns.items()}
    return {name: points for name, points in series.items() if points}


def _points(steps: list[float | None], times: list[float | None], values: list[float | None]) -> list[Logged]:
    rows = zip(steps, times, values, strict=True)
    return [Logged(int(s), t, v) for s, t, v in rows if s is not None and t is not None and v is not None]


def telemetry(stored: StoredCell) -> dict[str, list[Logged]]:
    """Return what was sampled beside training, such as utilisation, memory and power, one series a device.

    They are called `system/SOURCE/DEVICE/QUANTITY`: MLflow shows what begins so among its system metrics.
    """
    table = stored.table("telemetry.parquet")
    if not table:
        return {}
    series: dict[str, list[Logged]] = defaultdict(list)
    for source, device, quantity, time_s, value in zip(
        table["source"], table["device"], table["quantity"], table["time_s"], table["value"], strict=True
    ):
        if value is not None and math.isfinite(value):
            points = series[_metric_name(f"system/{source}/{device}/{quantity}")]
            points.append(Logged(len(points), time_s, value))
    return {name: points[:: math.ceil(len(points) / MOST_READINGS)] for name, points in series.items()}


def _metric_name(text: str) -> str:
    """Return a name that MLflow takes for a metric: letters, digits and _-. :/ only."""
    return re.sub(r"[^\w\-. :/]", "_", text, flags=re.ASCII)


def began_s(stored: StoredCell) -> float:
    """Return when a cell began, in seconds since 1970; 0 of records that do not say it."""
    return datetime.fromisoformat(stored.started).timestamp() if stored.started else 0.0


def answer_page(name: str, description: str, answer: Json) -> str:
    """Return the answer to a scenario for people who look at a tracker.

    Args:
        name: of the scenario.
        description: of the scenario; may be empty.
        answer: as `harness show --json` prints it.
    """
    cases = [f"- {case['of']}: {case['headline']}" for case in answer["cases"]]
    caveats = [f"- {line}" for line in answer["caveats"]]
    return "\n\n".join(filter(None, [f"## {name}", description, answer["sentence"], *cases, *caveats]))
