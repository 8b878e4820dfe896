"""A folder of scenarios with measurements: each is planned, calibrated and priced, and set beside what was measured."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.api.host import load_host
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.score import PredictedRow
from harness.core.cell import Cell, Observation
from harness.core.errors import HarnessError
from harness.core.given_cluster import StepFigures
from harness.core.machine import Machine
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario

if TYPE_CHECKING:
    from harness.api.host import Host

TABLE = "scenarios"
"""What stands where rows of tables have the name of their file."""


def scenario_files(folder: Path) -> list[Path]:
    """Return the scenarios of a folder and those below it that say what was measured."""
    return [path for path in sorted(folder.rglob("*.toml")) if _observes(path)]


def _observes(path: Path) -> bool:
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return "observed" in content and "sweep" in content


def predict_own(folder: Path) -> tuple[Tables, list[PredictedRow]]:
    """Return all measurements of a folder's scenarios, and predictions for those that nothing is calibrated on.

    Raises:
        InputError: a scenario is refused, or what it is to be calibrated on fits none of its cells.
    """
    from harness.engines.virtual.fit_observed import calibrated  # late: it starts the engine

    host = load_host()
    rows: list[TableRow] = []
    predictions: list[PredictedRow] = []
    for path in scenario_files(folder):
        scenario = load_scenario(path, host)
        plan = calibrated(make_plan(scenario, host, Machine(cores=1)), scenario.observed, host)
        pairs = list(_measured(plan.cells))
        known = [(cell, seen) for cell, seen in pairs if seen.calibrates]
        for line, (cell, seen) in enumerate(pairs, start=1):
            row = _row(path, line, cell, seen, host)
            rows.append(row)
            if not seen.calibrates:
                predictions.append(_predicted(row, cell, host, _linear_s(cell, known)))
    return Tables(folder, {}, rows=tuple(rows)), predictions


def _measured(cells: tuple[Cell, ...]) -> Iterator[tuple[Cell, Observation]]:
    """Return each simulated cell with what was measured of it; seeds and engines measure nothing of their own."""
    told: set[tuple[int, str, str]] = set()
    for cell in cells:
        for seen in cell.observed:
            point = (id(seen), cell.strategy, f"{cell.gpus} {cell.batch_size} {cell.micro_batch_size} {cell.options}")
            if cell.engine == "virtual" and point not in told:
                told.add(point)
                yield cell, seen


def _row(path: Path, line: int, cell: Cell, seen: Observation, host: Host) -> TableRow:
    timed = seen.step_time_s is not None
    return TableRow(
        *(TABLE, line, seen.source or path.stem, path.stem, cell.workload.model.name, cell.strategy),
        cell.workload.precision,
        *(("step_time", "s") if timed else ("throughput", "samples/s")),
        (seen.step_time_s if timed else seen.throughput_samples_per_s) or 0.0,
        is_input=seen.calibrates,
        kind=_kind(cell, host),
        gpus=cell.gpus,
        nodes=cell.nodes,
        batch_per_gpu=cell.batch_size,
    )


def _kind(cell: Cell, host: Host) -> str:
    strategy = host.strategies[cell.strategy]
    layout = strategy(strategy.Options(**cell.options)).layout(cell.gpus)
    several = "multi-node" if cell.nodes > 1 else "single-node data parallel"
    kinds = {
        "parameter server": cell.servers > 0,
        "pipeline": layout.pipeline > 1,
        "tensor-parallel": layout.tensor > 1,
        several: cell.gpus > 1,
    }
    return next((kind for kind, holds in kinds.items() if holds), "single device")


def _predicted(row: TableRow, cell: Cell, host: Host, linear_s: float | None) -> PredictedRow:
    from harness.engines.virtual.whatif import foretold

    def value(step_s: float) -> float:
        return step_s if row.metric == "step_time" else cell.global_batch_size / step_s

    linear = None if linear_s is None else value(linear_s)
    try:
        found = foretold(cell, host)
        return PredictedRow(row, value(found.seconds), linear, stated=found.error or None)
    except HarnessError as error:
        return PredictedRow(row, None, linear, " ".join(str(error).split()))


def _linear_s(cell: Cell, known: list[tuple[Cell, Observation]]) -> float | None:
    """Return the seconds of a step if devices lost nothing to each other; None where nobody knows one device's pace.

    Args:
        known: what is calibrated on; the fewest devices tell most.
    """
    best = min(known, key=lambda pair: (pair[0].gpus, pair[0].batch_size != cell.batch_size), default=None)
    if best is not None:
        other, seen = best
        step_s = seen.step_time_s or other.global_batch_size / (seen.throughput_samples_per_s or 1.0)
        return step_s * other.gpus / other.global_batch_size * cell.global_batch_size / cell.gpus
    figures = cell.cluster.device
    if not isinstance(figures, StepFigures):
        return None
    rate = figures.samples_per_second or figures.batch_size / (figures.step_time_s or 1.0)
    return cell.global_batch_size / cell.gpus / rate
