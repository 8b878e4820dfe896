"""Differences as text: simulated beside real, observed beside simulated, few devices beside many, and what explains it.

What would explain a difference is found by running the cell's program again, with sizes in place of numbers and one
figure of its cluster changed. Imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.analysis.explain import (
    Account,
    Explanation,
    Pair,
    explain_cells,
    explain_observed,
    in_lines,
)
from harness.analysis.more_devices import explain_scaling, poor_scaling
from harness.analysis.points import Row
from harness.analysis.predicted import (
    HEAD,
    MOST_EXPLAINED,
    Comparison,
    compare_observed,
    compare_twins,
    in_cells,
    summary,
)
from harness.core.errors import HarnessError
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
        yield from _table("predicted beside measured", twins)
        worst = max(twins, key=lambda comparison: abs(comparison.error))
        yield f"  the largest difference explained: harness show {' '.join(worst.cell_ids)}"
    by_id = {row["cell_id"]: row for row in rows}
    observed = compare_observed(rows, seen)
    if observed:
        yield from _table("observed beside predicted", observed)
    unexplained = [comparison for comparison in observed if not comparison.inside]
    for comparison in sorted(unexplained, key=lambda comparison: -abs(comparison.error))[:MOST_EXPLAINED]:
        cell_id = comparison.cell_ids[0]
        yield from _observation(comparison, cells[cell_id], by_id[cell_id], plugins)
    for few, many in poor_scaling(rows)[:MOST_EXPLAINED]:
        yield from _scaling(few, many, cells[many["cell_id"]], plugins)


def _table(title: str, comparisons: Sequence[Comparison]) -> Iterator[str]:
    yield f"\n{title}:"
    text = table(HEAD, [in_cells(comparison) for comparison in comparisons])
    yield from (f"  {line}" for line in [*text.splitlines(), *summary(comparisons)])


def _observation(comparison: Comparison, cell: Cell, row: Row, plugins: Sequence[str]) -> Iterator[str]:
    """Yield what would account for one observation, or why nobody can say."""
    yield f"\nwhat would account for {comparison.quantity.text(comparison.measured)} on {comparison.where}, each alone:"
    accounts = accounts_of(comparison, cell, row, plugins)
    lines = [accounts] if isinstance(accounts, str) else in_lines(accounts)
    yield from (f"  {line}" for line in lines or ["nothing: no single figure within reason does"])


def accounts_of(comparison: Comparison, cell: Cell, row: Row, plugins: Sequence[str] = ()) -> list[Account] | str:
    """Return which figures of a simulated cell alone would account for what was observed, or why nobody can say."""
    known = _what_if(cell, plugins)
    if isinstance(known, str):
        return known
    timed = comparison.quantity.column == "step_time_s"
    observed_s = comparison.measured if timed else cell.global_batch_size / comparison.measured
    return explain_observed(row, observed_s, known.step_s, known.configured, known.origins)


def _scaling(few: Row, many: Row, cell: Cell, plugins: Sequence[str]) -> Iterator[str]:
    yield f"\nwhy {many['strategy']} is hardly faster on {many['gpus']} devices than on {few['gpus']}:"
    yield from (f"  {line}" for line in scaling_of(few, many, cell, plugins))


def scaling_of(few: Row, many: Row, cell: Cell, plugins: Sequence[str] = ()) -> list[str]:
    """Say why many devices are hardly faster than few, and what they would need.

    Args:
        cell: of `many`.
    """
    known = _what_if(cell, plugins)
    return explain_scaling(few, many, *(() if isinstance(known, str) else (known.step_s, known.configured)))


def _what_if(cell: Cell, plugins: Sequence[str]) -> WhatIf | str:
    """Return the cell with figures that can be changed, or why it has none."""
    from harness.api.host import load_host
    from harness.costs.cells import find_shape
    from harness.engines.virtual.whatif import what_if

    host = load_host(tuple(plugins))
    if cell.strategy not in host.strategies:
        return f"{cell.strategy} is in no plugin that was loaded; give it with --plugins"
    try:
        return what_if(cell, host, find_shape(cell, host))
    except HarnessError as error:
        return f"nobody can say: {error}"


# -- two cells ---------------------------------------------------------------------------------------------------------


def pair_text(first: Record, second: Record, plugins: Sequence[str] = ()) -> str:
    """Return two cells side by side, with what makes the difference and what would account for it."""
    rows = (first.row, second.row)
    # Of a real cell and its twin the simulated one is asked, else the one that has more devices.
    asked = max((first, second), key=lambda record: (record.cell.engine == "virtual", record.cell.gpus))
    known = _what_if(asked.cell, plugins)
    if isinstance(known, str):
        found = explain_cells(*rows)
    else:
        found = explain_cells(*rows, known.step_s, known.configured, known.origins)
    few, many = sorted(rows, key=lambda row: int(row["gpus"]))
    figures = () if isinstance(known, str) else (known.step_s, known.configured)
    scaling = explain_scaling(few, many, *figures) if few["gpus"] != many["gpus"] else []
    lines = [_settings(first, second), _parts(found, first, second)]
    lines += [f"{line}." for line in (*found.sentences, *scaling)]
    if found.accounts:
        lines += ["what would account for it, each alone:", *(f"  {line}" for line in in_lines(found.accounts))]
    elif isinstance(known, str):
        lines.append(f"what would account for it: {known}")
    return "\n".join(lines)


def _settings(first: Record, second: Record) -> str:
    """Return what the cells are, and in which settings they differ."""
    shown = ("strategy", "options", "engine", "gpus", "workers", "global_batch_size", "learning_rate", "seed", "status")
    results = ("throughput_samples_per_s", "step_time_s", "time_to_target_s", "validation_accuracy")
    rows = [(name, *(recorded(record.row.get(name)) for record in (first, second))) for name in (*shown, *results)]
    return table(("", first.cell.cell_id, second.cell.cell_id), [row for row in rows if any(row[1:])])


def _parts(found: Explanation, first: Record, second: Record) -> str:
    def seconds(value: float | None) -> str:
        return "" if value is None else duration(value)

    def line(pair: Pair) -> tuple[str, ...]:
        sign = "+" if pair.change_s > 0 else "-" if pair.change_s < 0 else ""
        return pair.name, seconds(pair.first_s), seconds(pair.second_s), f"{sign}{duration(abs(pair.change_s))}"

    head = ("part of a step", first.cell.cell_id, second.cell.cell_id, "difference")
    return f"\n{table(head, [line(pair) for pair in found.pairs])}\n"
