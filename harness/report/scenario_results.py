"""What the report needs of one scenario's folder; figures and page know nothing of files."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

import pandas as pd

from harness.analysis.answer import Answer, judged, with_flips
from harness.analysis.more_devices import poor_scaling
from harness.analysis.points import Row
from harness.analysis.predicted import compare_observed
from harness.commands.explain_text import MOST_EXPLAINED, accounts_of, scaling_of
from harness.commands.turning_points import flips_of
from harness.core.cell import Plan
from harness.results.store import Record, Results

Evaluations = list[dict[str, float]]
"""Rows of evals.csv; a quantity that was not measured is absent."""


TABLES_KEPT = 64
"""Tables that stay in memory: several figures read those of the same few cells; chosen."""


@dataclass(frozen=True)
class ScenarioResults:
    """One scenario's results.

    Attributes:
        records: by cell id, for the cells of the plan that left one.
        rows: of cells.csv, in the order of the records.
        evaluations: by cell id.
        answer: what they say together.
        newest: when the newest record was written; None without records.
        poor: of strategies that many devices hardly speed up: (few, many) and why, the poorest first.
        accounts: by cell id, what would account for an observation outside of what its prediction says of itself.
        table: from the name of a table, such as "steps", and a cell id to its rows; empty where there is none. Read
            when asked for: of a large sweep only some are drawn.
    """

    plan: Plan
    records: Mapping[str, Record]
    rows: Sequence[Row]
    evaluations: Mapping[str, Evaluations]
    answer: Answer
    newest: datetime | None
    poor: Sequence[tuple[Row, Row, list[str]]]
    accounts: Mapping[str, str]
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

    @lru_cache(maxsize=TABLES_KEPT)
    def table(name: str, cell_id: str) -> pd.DataFrame:
        path = folders[cell_id] / f"{name}.parquet"
        return pd.read_parquet(path) if path.is_file() else pd.DataFrame()

    rows, plan = results.rows(records), results.plan()
    found = judged(rows, plan)
    found = with_flips(found, flips_of(found, results, plugins))
    return ScenarioResults(
        plan=plan,
        records=records,
        rows=rows,
        evaluations=evaluations,
        answer=found,
        newest=newest,
        poor=_poor(rows, records, found, plugins),
        accounts=dict(_accounts(rows, plan, records, plugins)),
        table=table,
    )


def _poor(
    rows: Sequence[Row], records: Mapping[str, Record], found: Answer, plugins: Sequence[str]
) -> list[tuple[Row, Row, list[str]]]:
    """Return poor scalings with their reasons, the one that is the answer first."""
    by_id = {row["cell_id"]: row for row in rows}
    pairs = [(by_id[found.poor[0]], by_id[found.poor[1]])] if found.poor else []
    pairs += [
        (few, many) for few, many in poor_scaling(rows) if not pairs or many["strategy"] != pairs[0][1]["strategy"]
    ]
    return [
        (few, many, scaling_of(few, many, records[many["cell_id"]].cell, plugins))
        for few, many in pairs[:MOST_EXPLAINED]
    ]


def _accounts(
    rows: Sequence[Row], plan: Plan, records: Mapping[str, Record], plugins: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Yield, for the worst predictions of what was observed, the most plausible single figure that was another."""
    seen = {cell.cell_id: cell.observed for cell in plan.cells if cell.observed}
    by_id = {row["cell_id"]: row for row in rows}
    outside = [comparison for comparison in compare_observed(rows, seen) if comparison.inside is False]
    for comparison in sorted(outside, key=lambda comparison: -abs(comparison.error))[:MOST_EXPLAINED]:
        cell_id = comparison.cell_ids[0]
        accounts = accounts_of(comparison, records[cell_id].cell, by_id[cell_id], plugins)
        if accounts and not isinstance(accounts, str):
            yield cell_id, accounts[0].sentence


def _evaluations(path: Path) -> Evaluations:
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]
