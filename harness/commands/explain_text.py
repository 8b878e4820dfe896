"""Differences as text: simulated beside real, observed beside simulated, few devices beside many, and what explains it.

What would explain a difference is found by running the cell's program again, with sizes in place of numbers and one
figure of its cluster changed. Imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from harness.analysis.explain import Account, Explanation, PartPair, account_lines, explain_cells, explain_observed
from harness.analysis.more_devices import ScalingAccount, explain_scaling, poor_scaling, scaling_title
from harness.analysis.points import Row
from harness.analysis.predicted import (
    HEAD,
    MOST_EXPLAINED,
    STEP_TIME,
    PredictionCheck,
    compare_observed,
    compare_twins,
    in_cells,
    summary,
)
from harness.commands.asked_again import asked_again
from harness.core.text import Text
from harness.core.words import duration, recorded, table
from harness.results.store import Record, Results

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.engines.virtual.whatif import WhatIf


# -- a folder ----------------------------------------------------------------------------------------------------------


def compared_text(results: Results, plugins: Sequence[str] = ()) -> Iterator[str]:
    """Yield lines on everything in a folder that can be compared.

    Args:
        plugins: files whose strategies may be run again.
    """
    rows = results.rows()
    # A record's cell has its micro-batch, where the plan's may still ask for the largest; observations are the plan's.
    cells = {name: record.cell for name, record in results.records().items()}
    seen = {cell.cell_id: cell.observed for cell in results.plan().cells if cell.observed}
    twins = compare_twins(rows)
    if twins:
        yield from _table("Predicted and measured", twins)
        worst = max(twins, key=lambda comparison: abs(comparison.error))
        yield f"  next: harness show {' '.join(worst.cell_ids)} explains the largest difference"
    by_id = {row["cell_id"]: row for row in rows}
    observed = compare_observed(rows, seen)
    if observed:
        yield from _table("Predicted and observed elsewhere", observed)
    unexplained = [comparison for comparison in observed if comparison.asks_why]
    for comparison in sorted(unexplained, key=lambda comparison: -abs(comparison.error))[:MOST_EXPLAINED]:
        cell_id = comparison.cell_ids[0]
        yield from _observation(comparison, cells[cell_id], by_id[cell_id], plugins)
    for few, many in poor_scaling(rows)[:MOST_EXPLAINED]:
        yield from _scaling(few, many, cells[many["cell_id"]], plugins)


def _table(title: str, comparisons: Sequence[PredictionCheck]) -> Iterator[str]:
    yield f"\n{title}:"
    text = table(HEAD, [in_cells(comparison) for comparison in comparisons])
    yield from (f"  {line}" for line in [*text.splitlines(), *summary(comparisons)])


def _observation(comparison: PredictionCheck, cell: Cell, row: Row, plugins: Sequence[str]) -> Iterator[str]:
    """Yield what would account for one observation, or why nobody can say."""
    yield f"\nWhat could explain {comparison.quantity.text(comparison.measured)} for {comparison.where}, each alone:"
    accounts = accounts_of(comparison, cell, row, plugins)
    lines = [accounts] if isinstance(accounts, Text) else account_lines(accounts)
    yield from (f"  {line}" for line in lines or [Text("No single plausible figure explains it.")])


def accounts_of(comparison: PredictionCheck, cell: Cell, row: Row, plugins: Sequence[str] = ()) -> list[Account] | Text:
    """Return which figures of a simulated cell alone would account for what was observed, or why nobody can say."""
    timed = comparison.quantity == STEP_TIME
    observed_s = comparison.measured if timed else cell.global_batch_size / comparison.measured

    def ask(known: Sequence[WhatIf]) -> list[Account]:
        return explain_observed(row, observed_s, known[0].step_s, known[0].configured, known[0].origins)

    return asked_again([cell], plugins, ask)


def _scaling(few: Row, many: Row, cell: Cell, plugins: Sequence[str]) -> Iterator[str]:
    yield f"\n{scaling_title(few, many)}:"
    yield from (f"  {line}" for line in scaling_of(few, many, cell, plugins).sentences)


def scaling_of(few: Row, many: Row, cell: Cell, plugins: Sequence[str] = ()) -> ScalingAccount:
    """Say why many devices are hardly faster than few, and what they would need.

    Args:
        cell: of `many`.
    """

    def ask(known: Sequence[WhatIf]) -> ScalingAccount:
        return explain_scaling(few, many, known[0].step_s, known[0].configured)

    found = asked_again([cell], plugins, ask)
    return explain_scaling(few, many) if isinstance(found, Text) else found


# -- two cells ---------------------------------------------------------------------------------------------------------


def pair_text(first: Record, second: Record, plugins: Sequence[str] = ()) -> str:
    """Return two cells side by side, with what makes the difference and what would account for it."""
    rows = (first.row, second.row)
    # Of a real cell and its twin the simulated one is asked, else the one that has more devices.
    asked = max((first, second), key=lambda record: (record.cell.engine == "virtual", record.cell.gpus))
    few, many = sorted(rows, key=lambda row: int(row["gpus"]))

    def ask(known: Sequence[WhatIf]) -> tuple[Explanation, Sequence[Text]]:
        found = explain_cells(*rows, known[0].step_s, known[0].configured, known[0].origins)
        return found, scaled(known[0].step_s, known[0].configured)

    def scaled(*figures: Any) -> Sequence[Text]:
        return explain_scaling(few, many, *figures).sentences if few["gpus"] != many["gpus"] else ()

    known = asked_again([asked.cell], plugins, ask)
    found, scaling = (explain_cells(*rows), scaled()) if isinstance(known, Text) else known
    lines = [_settings(first, second), _parts(found, first, second)]
    lines += [*found.sentences, *scaling]
    if found.accounts:
        lines += ["What could explain it, each alone:", *(f"  {line}" for line in account_lines(found.accounts))]
    elif isinstance(known, Text):
        lines.append(f"What could explain it: {known}")
    return "\n".join(lines)


def _settings(first: Record, second: Record) -> str:
    """Return what the cells are, and in which settings they differ."""
    shown = ("strategy", "options", "engine", "gpus", "workers", "global_batch_size", "learning_rate", "seed", "status")
    results = ("throughput_samples_per_s", "step_time_s", "time_to_target_s")
    learnt = ("validation_accuracy", "metric", "validation_metric")
    rows = [
        (name, *(recorded(record.row.get(name)) for record in (first, second))) for name in (*shown, *results, *learnt)
    ]
    return table(("", first.cell.cell_id, second.cell.cell_id), [row for row in rows if any(row[1:])])


def _parts(found: Explanation, first: Record, second: Record) -> str:

    def seconds(value: float | None) -> str:
        return "" if value is None else duration(value)

    def line(pair: PartPair) -> tuple[str, ...]:
        sign = "+" if pair.change_s > 0 else "-" if pair.change_s < 0 else ""
        return pair.name, seconds(pair.first_s), seconds(pair.second_s), f"{sign}{duration(abs(pair.change_s))}"

    head = ("part of a step", first.cell.cell_id, second.cell.cell_id, "difference")
    return f"\n{table(head, [line(pair) for pair in found.pairs])}\n"
