"""From a scenario's results to the frames that figures are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from harness.describe import engine_in_words
from harness.plan import Cell
from harness.report.read import ScenarioResults
from harness.source import show
from harness.store import COLUMNS

CURVE_COLUMNS = ("panel", "simulated", "strategy", "gpus", "line", "seed", "samples", "time_s", "accuracy")
BAR_COLUMNS = ("simulated", "strategy", "gpus", "label", "throughput", "dram_total")


def cells_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each finished cell, columns as in cells.csv."""
    extra = sorted({key for row in scenario.rows for key in row} - set(COLUMNS))
    return pd.DataFrame(list(scenario.rows), columns=[*COLUMNS, *extra])


def curves_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each evaluation that measured the validation accuracy.

    Cells of one panel differ in strategy, devices and seed only; lines of one panel in the seed only.
    """
    cells = [cell for cell in scenario.plan.cells if scenario.evaluations.get(cell.cell_id)]
    varied = varied_options(cells)
    rows = [
        (*head, row.get("samples"), row.get("time_s"), row["validation_accuracy"])
        for cell in cells
        for head in [_curve_head(cell, varied, scenario.plan.machine.gpu_name)]
        for row in scenario.evaluations[cell.cell_id]
        if "validation_accuracy" in row
    ]
    return pd.DataFrame(rows, columns=list(CURVE_COLUMNS))


def _curve_head(cell: Cell, varied: set[tuple[str, str]], gpu_name: str) -> tuple[Any, ...]:
    line = f"{name_in_words(cell, varied)}, {engine_in_words(cell, gpu_name)}"
    panel = ", ".join(
        [f"global batch {cell.global_batch_size}", f"learning rate {cell.learning_rate:g}", *_swept(cell)]
    )
    return panel, cell.engine == "virtual", cell.strategy, cell.gpus, line, cell.seed


def bars_frame(scenario: ScenarioResults) -> pd.DataFrame:
    """Return one row for each cell with a throughput or counted DRAM, the kinds of DRAM as columns dram.KIND."""
    cells = [cell for cell in scenario.plan.cells if cell.cell_id in scenario.records]
    batches = len({cell.global_batch_size for cell in cells}) > 1
    varied = varied_options(cells)
    rows = []
    for cell in cells:
        record = scenario.records[cell.cell_id]
        label = _bar_label(cell, varied, scenario.plan.machine.gpu_name, batches)
        row = {"simulated": cell.engine == "virtual", "strategy": cell.strategy, "gpus": cell.gpus, "label": label}
        row |= {"throughput": record.row.get("throughput_samples_per_s")}
        row |= {"dram_total": record.row.get("dram_tensors_peak_bytes")}
        rows.append(row | _dram((record.detail or {}).get("dram")))
    columns = list(dict.fromkeys([*BAR_COLUMNS, *(key for row in rows for key in row)]))
    numbers = {key: float for key in columns if key.startswith(("throughput", "dram"))}
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def _dram(counted: Mapping[str, int] | None) -> dict[str, int]:
    return {f"dram.{kind}": number for kind, number in (counted or {}).items() if number}


def _bar_label(cell: Cell, varied: set[tuple[str, str]], gpu_name: str, batches: bool) -> str:
    parts = [name_in_words(cell, varied), engine_in_words(cell, gpu_name)]
    parts += [f"global batch {cell.global_batch_size}"] if batches else []
    return ", ".join([*parts, *_swept(cell)])


def name_in_words(cell: Cell, varied: set[tuple[str, str]]) -> str:
    """Return the strategy's name with those of its options that vary in the plan."""
    options = {key: value for key, value in cell.options.items() if (cell.strategy, key) in varied}
    return cell.strategy + (f" {show(options)}" if options else "")


def varied_options(cells: Iterable[Cell]) -> set[tuple[str, str]]:
    """Return (strategy, option) wherever cells of one strategy differ in it."""
    seen: dict[tuple[str, str], set[str]] = {}
    for cell in cells:
        for key, value in cell.options.items():
            seen.setdefault((cell.strategy, key), set()).add(show(value))
    return {name for name, values in seen.items() if len(values) > 1}


def _swept(cell: Cell) -> list[str]:
    return [f"{key.removeprefix('workload.')} {show(value)}" for key, value in cell.swept.items()]
