"""What the report needs of one scenario's folder; figures and page know nothing of files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd

from harness.analysis.answer import Answer, judged, with_flips
from harness.analysis.explain import Account
from harness.analysis.more_devices import ScalingAccount, explain_scaling, poor_scaling
from harness.analysis.points import Row
from harness.analysis.predicted import MOST_EXPLAINED, PredictionCheck, compare_observed
from harness.analysis.result_findings import ResultFindings, findings_of
from harness.core.cell import Cell, Plan
from harness.core.text import Text
from harness.results.store import Record, Results
from harness.results.tables import read_curve, read_parquet

Evaluations = list[dict[str, float]]
"""Rows of evals.csv; a quantity that was not measured is absent."""


TABLES_KEPT = 64
"""Tables that stay in memory: several figures read those of the same few cells; chosen."""


def _nothing(*_: object) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Simulator:
    """What simulating a stored cell again can say; whoever may start an engine hands it in, a page knows none.

    Without it nothing is simulated, and the page says what the records say.

    Attributes:
        accounts_of: from an observation, its cell and its row to the figures that alone would account for it, the most
            plausible first; a sentence where nobody can say.
        scaling_of: from a row of few devices, one of many and the cell of the latter to why they are hardly faster.
        flips_of: from an answer and the folder it is of to what would turn it.
    """

    accounts_of: Callable[[PredictionCheck, Cell, Row], Sequence[Account] | Text] = _nothing
    scaling_of: Callable[[Row, Row, Cell], ScalingAccount] = lambda few, many, _: explain_scaling(few, many)
    flips_of: Callable[[Answer, Results], tuple[Text, ...]] = _nothing


NO_SIMULATOR = Simulator()


@dataclass(frozen=True)
class PoorScaling:
    """A strategy that many devices hardly speed up, and why."""

    strategy: str
    account: ScalingAccount


@dataclass(frozen=True)
class ScenarioResults:
    """One scenario's results.

    Attributes:
        records: by cell id, for the cells of the plan that left one.
        rows: of cells.csv, in the order of the records.
        evaluations: by cell id.
        answer: what they say together.
        newest: when the newest record was written; None without records.
        poor: strategies that many devices hardly speed up, the one that is the answer first, then the poorest.
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
    poor: Sequence[PoorScaling]
    accounts: Mapping[str, Text]
    table: Callable[[str, str], pd.DataFrame]

    @cached_property
    def findings(self) -> ResultFindings:
        """What the rows say, as the answer read it."""
        return self.answer.findings or findings_of(self.rows)

    @cached_property
    def observed(self) -> list[PredictionCheck]:
        """Predictions beside what the scenario says was observed."""
        return compare_observed(self.rows, {cell.cell_id: cell.observed for cell in self.plan.cells if cell.observed})


def read_scenario(results: Results, what_if: Simulator = NO_SIMULATOR) -> ScenarioResults:
    """Read a folder.

    Args:
        results: the folder.
        what_if: simulates its cells again, to find what would turn the answer.

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
        return read_parquet(path) if path.is_file() else pd.DataFrame()

    rows, plan = results.rows(records), results.plan()
    found = judged(rows, plan)
    found = with_flips(found, what_if.flips_of(found, results))
    return ScenarioResults(
        plan=plan,
        records=records,
        rows=rows,
        evaluations=evaluations,
        answer=found,
        newest=newest,
        poor=_poor(rows, records, found, what_if),
        accounts=dict(_accounts(rows, plan, records, what_if)),
        table=table,
    )


def _poor(rows: Sequence[Row], records: Mapping[str, Record], found: Answer, what_if: Simulator) -> list[PoorScaling]:
    """Return poor scalings with their reasons, the one that is the answer first."""
    by_id = {row["cell_id"]: row for row in rows}
    pairs = [(by_id[found.poor[0]], by_id[found.poor[1]])] if found.poor else []
    pairs += [
        (few, many) for few, many in poor_scaling(rows) if not pairs or many["strategy"] != pairs[0][1]["strategy"]
    ]
    return [
        PoorScaling(str(many["strategy"]), what_if.scaling_of(few, many, records[many["cell_id"]].cell))
        for few, many in pairs[:MOST_EXPLAINED]
    ]


def _accounts(
    rows: Sequence[Row], plan: Plan, records: Mapping[str, Record], what_if: Simulator
) -> Iterator[tuple[str, Text]]:
    """Yield, for the worst predictions of what was observed, the most plausible single figure that was another."""
    seen = {cell.cell_id: cell.observed for cell in plan.cells if cell.observed}
    by_id = {row["cell_id"]: row for row in rows}
    outside = [
        comparison
        for comparison in compare_observed(rows, seen)
        if comparison.inside is not None and comparison.asks_why
    ]
    for comparison in sorted(outside, key=lambda comparison: -abs(comparison.error))[:MOST_EXPLAINED]:
        cell_id = comparison.cell_ids[0]
        accounts = what_if.accounts_of(comparison, records[cell_id].cell, by_id[cell_id])
        if accounts and not isinstance(accounts, Text):
            yield cell_id, accounts[0].sentence


def _evaluations(path: Path) -> Evaluations:
    if not path.is_file():
        return []
    return read_curve(path)
