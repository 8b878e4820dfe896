"""What the report needs of one scenario's folder; figures and page know nothing of files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis.answer import Answer
from harness.plan import Plan
from harness.store import Record, Results
from harness.verdict import verdict

Evaluations = list[dict[str, float]]
"""Rows of evals.csv; a quantity that was not measured is absent."""


@dataclass(frozen=True)
class ScenarioResults:
    """One scenario's results.

    Attributes:
        records: by cell id, for the cells of the plan that left one.
        rows: of cells.csv, in the order of the records.
        evaluations: by cell id.
        answer: what they say together.
        newest: when the newest record was written; None without records.
        table: from the name of a table, such as "steps", and a cell id to its rows; empty where there is none. Read
            when asked for: of a large sweep only some are drawn.
    """

    plan: Plan
    records: Mapping[str, Record]
    rows: Sequence[Mapping[str, Any]]
    evaluations: Mapping[str, Evaluations]
    answer: Answer
    newest: datetime | None
    table: Callable[[str, str], pd.DataFrame]


def read_scenario(results: Results, plugins: Sequence[str] = ()) -> ScenarioResults:
    """Read a folder.

    Args:
        results: the folder.
        plugins: files whose strategies may be run again, to find what would turn the answer.

    Raises:
        InputError: it has no plan, or a record is damaged.
    """
    records = results.records()
    folders = {cell_id: results.cell_folder(cell_id) for cell_id in records}
    evaluations = {cell_id: _evaluations(folder / "evals.csv") for cell_id, folder in folders.items()}
    times = [(folder / "record.json").stat().st_mtime for folder in folders.values()]
    newest = datetime.fromtimestamp(max(times), UTC) if times else None

    def table(name: str, cell_id: str) -> pd.DataFrame:
        path = folders[cell_id] / f"{name}.parquet"
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame()

    found = verdict(results, plugins)
    return ScenarioResults(results.plan(), records, results.rows(), evaluations, found, newest, table)


def _evaluations(path: Path) -> Evaluations:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
