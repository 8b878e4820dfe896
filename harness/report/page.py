"""The page: words and tables for the template, which holds no arithmetic."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.analysis.answer import Answer
from harness.analysis.ledger import Entry, edges
from harness.analysis.point_names import percent
from harness.analysis.points import Row, status_counts
from harness.analysis.predicted import HEAD as COMPARED_HEAD
from harness.analysis.predicted import (
    INSIDE,
    THROUGHPUT,
    Comparison,
    compare_observed,
    compare_twins,
    in_cells,
    summary,
)
from harness.core.cell import Cell, Plan
from harness.core.version import __version__
from harness.core.words import engine_in_words, machine_in_words, show
from harness.report.against import Against, shown_against
from harness.report.anonymous import anonymous
from harness.report.definitions import DEFINITIONS
from harness.report.figures import Figures, figures_of, strategies_of
from harness.report.frames import cells_frame
from harness.report.scenario_results import ScenarioResults
from harness.report.svg import colours
from harness.report.table import COLUMNS, GOOD, Column, Field, table, used

LONG = 600
"""Characters of a description above which it is folded: it would push the answer off the first screen; chosen."""


@dataclass(frozen=True)
class Compared:
    """What was compared: sentences, and a table of predictions beside measurements where there are any.

    Attributes:
        lead: sentences above the table.
    """

    title: str
    lead: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class FailedCells:
    """Cells that ended badly for one reason."""

    status: str
    reason: str
    cells: str


@dataclass(frozen=True)
class Shown:
    """One scenario as the template takes it.

    Attributes:
        warnings: what changes the answer, before it.
        advice: rates to try instead; edges: lists to widen.
        remedies: what many devices would need, where the answer is that they are hardly faster.
        columns: of the table of cells, those that any cell has something to say in.
        palette: strategies of the scenario with their colours.
    """

    name: str
    description: str
    folded: bool
    machine: str
    progress: str
    complete: bool
    newest: str
    statuses: str
    warnings: tuple[str, ...]
    answer: Answer
    remedies: tuple[str, ...]
    advice: tuple[str, ...]
    edges: tuple[str, ...]
    ledger: tuple[tuple[str, ...], ...]
    figures: Figures
    palette: tuple[tuple[str, str], ...]
    columns: tuple[Column, ...]
    rows: tuple[tuple[Field, ...], ...]
    failures: tuple[FailedCells, ...]
    compared: tuple[Compared, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, ...], ...]
    environment: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, Markup], ...]


ONE_RATE_HEAD = ("strategy", "on", "learning rate", "global batch", "time to the target, or speed", "seeds")

LEDGER_HEAD = ("strategy", "on", "global batch", "of those tried", "learning rate", "of those tried", "rule",
               "precision", "samples seen", "evaluated every", "points tried")  # fmt: skip


def render(
    scenarios: Sequence[ScenarioResults],
    digest: str,
    sections: Sequence[Callable[..., Any]] = (),
    against: Against | None = None,
    named: bool = False,
) -> str:
    """Return the page as HTML.

    Args:
        scenarios: what to show, in this order.
        digest: of all that the page was made from.
        sections: functions from the frame of finished cells to a title and HTML.
        against: what they were compared with: then the page begins with it.
        named: leave the names of host and home folder in.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=None if named else anonymous,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["base64"] = lambda text: _base64(text if named else anonymous(text))
    palette = colours(strategies_of(scenarios))
    shown = [_shown(scenario, palette, f"s{number}-", sections) for number, scenario in enumerate(scenarios)]
    return environment.get_template("report.html.j2").render(
        scenarios=shown,
        against=shown_against(against, palette) if against else None,
        digest=digest,
        version=__version__,
        figure_definitions=DEFINITIONS,
        definitions=[(column.head, column.definition) for column in COLUMNS],
        compared_head=COMPARED_HEAD,
        ledger_head=LEDGER_HEAD,
        one_rate_head=ONE_RATE_HEAD,
        title=", ".join(item.name for item in shown)[:LONG],
    )


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _shown(
    scenario: ScenarioResults, palette: Mapping[str, str], prefix: str, sections: Sequence[Callable[..., Any]]
) -> Shown:
    plan, rows = scenario.plan, scenario.rows
    found = scenario.answer
    fields = table(scenario)
    kept = used(fields)
    return Shown(
        name=plan.name,
        description=plan.description,
        folded=len(plan.description) > LONG,
        machine=_machine(plan),
        progress=progress(rows, len(plan.cells)),
        complete=progress(rows, len(plan.cells)).startswith("all"),
        newest=f"{scenario.newest:%d %B %Y, %H:%M} UTC" if scenario.newest else "",
        statuses=", ".join(f"{count} {status}" for status, count in status_counts(rows).items()),
        warnings=(
            *(f"{_capital(line, scenario)}." for line in found.caveats),
            *_outside(scenario),
            *_environments(scenario),
        ),
        answer=found,
        remedies=tuple(scenario.poor[0][2][1:]) if found.poor else (),
        advice=tuple(f"{_capital(line, scenario)}." for line in found.advice),
        edges=tuple(f"{line}." for line in edges(found.ledger)),
        ledger=tuple(_ledger_row(entry, scenario) for entry in found.ledger),
        figures=figures_of(scenario, palette, prefix),
        palette=tuple((name, palette[name]) for name in strategies_of([scenario])),
        columns=tuple(column for column, keep in zip(COLUMNS, kept, strict=True) if keep),
        rows=tuple(tuple(f for f, keep in zip(row, kept, strict=True) if keep) for row in fields),
        failures=tuple(_failures(scenario)),
        compared=tuple(_compared(scenario)),
        notes=tuple(_notes(scenario)),
        left_out=tuple((item.strategy, item.point, item.kind, item.reason) for item in plan.left_out),
        environment=tuple(_environment(scenario)),
        extra=tuple(_extra(scenario, sections)),
    )


def progress(rows: Sequence[Row], planned: int) -> str:
    """Return such as "37 of 60 cells": interrupted ones are not done."""
    done = sum(row["status"] != "interrupted" for row in rows)
    return f"all {planned} cells" if done >= planned else f"{done} of {planned} cells"


def _capital(line: str, scenario: ScenarioResults) -> str:
    """Begin with a capital, unless it begins with a strategy's name."""
    names = tuple(strategies_of([scenario]))
    return line if line.startswith(names) else line[:1].upper() + line[1:]


def _machine(plan: Plan) -> str:
    """Return the machine; where every cell is simulated it was only computed on, and its devices are none of theirs."""
    words = machine_in_words(plan.machine)
    if any(cell.engine != "virtual" for cell in plan.cells):
        return words
    return f"all simulated, on {words.partition(':')[0]}"


def _outside(scenario: ScenarioResults) -> Iterable[str]:
    """Warn of measurements that lie outside what the prediction says of itself: then it has to be explained first."""
    found = [item for item in _observed(scenario) if item.inside is False]
    found += [item for item in compare_twins(scenario.rows) if item.inside is False and item.quantity == THROUGHPUT]
    for item in sorted(found, key=lambda item: -abs(item.error))[:1]:
        predicted, measured = item.quantity.text(item.predicted), item.quantity.text(item.measured)
        off = f"{100 * abs(item.error):.0f} % too {'much' if item.error > 0 else 'little'}"
        stated = f", outside the stated ±{percent(INSIDE * (item.stated or 0.0))}"
        how = "observed" if item.source else "measured"
        said = f"{measured} was {how} where {predicted} is predicted ({item.where})"
        more = f"; {len(found) - 1} more lie outside too" if len(found) > 1 else ""
        account = scenario.accounts.get(item.cell_ids[0])
        yield f"{said}: {off}{stated}{more}.{f' {account}.' if account else ''}"


def _observed(scenario: ScenarioResults) -> list[Comparison]:
    observed = {cell.cell_id: cell.observed for cell in scenario.plan.cells if cell.observed}
    return compare_observed(scenario.rows, observed)


def _environments(scenario: ScenarioResults) -> Iterable[str]:
    """Warn of measured cells that ran in several environments: their times do not compare."""
    ran = Counter(
        str(record.environment.get("id")) for record in scenario.records.values() if record.cell.engine != "virtual"
    )
    if len(ran) > 1:
        counts = " and ".join(str(count) for count in ran.values())
        yield f"Measured cells ran in {len(ran)} environments ({counts} cells): their times do not compare."


def _ledger_row(entry: Entry, scenario: ScenarioResults) -> tuple[str, ...]:
    batches = ", ".join(map(str, entry.batches)) if len(entry.batches) > 1 else "one only"
    rates = ", ".join(f"{rate:g}" for rate in entry.rates) if len(entry.rates) > 1 else "one only"
    samples = "" if entry.samples is None else f"{entry.samples:,.0f}"
    rate = f"{entry.rate:g}" if entry.rate else "-"
    return (entry.strategy, entry.devices, str(entry.batch), batches, rate, rates, entry.rate_rule, entry.precision,
            samples, _evaluated(scenario.records[entry.cell_id].cell), str(entry.tried))  # fmt: skip


def _evaluated(cell: Cell) -> str:
    every = cell.goal.get("evaluate_every")
    return "not at all" if every is None else every if isinstance(every, str) else f"{every:,} samples"


def _extra(scenario: ScenarioResults, sections: Sequence[Callable[..., Any]]) -> Iterable[tuple[str, Markup]]:
    if not sections:
        return
    frame = cells_frame(scenario)
    for section in sections:
        try:
            title, content = section(frame.copy())
        except Exception as error:
            # A stranger's section must not cost the user the report; what it raised is shown in its place.
            name = getattr(section, "__name__", "section")
            yield name, Markup("<p>This section failed: {}: {}</p>").format(type(error).__name__, error)
        else:
            yield title, Markup(content)


# -- tables ------------------------------------------------------------------------------------------------------------


def _failures(scenario: ScenarioResults) -> Iterable[FailedCells]:
    """Return each way in which cells failed once, with how many and which."""
    groups: dict[tuple[str, str], Counter[str]] = {}
    for record in scenario.records.values():
        if record.status not in GOOD:
            place = f"{record.cell.strategy} on {engine_in_words(record.cell, scenario.plan.machine.gpu_name)}"
            groups.setdefault((record.status, record.reason), Counter())[place] += 1
    for (status, reason), places in groups.items():
        yield FailedCells(status, reason, _places(places))


def _places(places: Mapping[str, int]) -> str:
    return ", ".join(f"{place} ({count} cell{'s' * (count != 1)})" for place, count in places.items())


def _compared(scenario: ScenarioResults) -> Iterable[Compared]:
    """Yield predictions beside what was measured here, and beside what the scenario says was observed elsewhere."""
    tables = {
        "Predicted beside measured, in figures": compare_twins(scenario.rows),
        "Observed beside predicted, in figures": _observed(scenario),
    }
    for title, found in tables.items():
        if found:
            yield Compared(title, tuple(summary(found)), tuple(in_cells(comparison) for comparison in found))
    lead = tuple(f"{few['strategy']}: {line}" for few, _, lines in scenario.poor for line in lines)
    if lead:
        yield Compared("Why more devices are hardly faster", lead, ())


def _notes(scenario: ScenarioResults) -> Iterable[str]:
    """Return each note once, with where it applies."""
    yield from scenario.plan.notes
    where: dict[str, Counter[str]] = {}
    for cell in scenario.plan.cells:
        record = scenario.records.get(cell.cell_id)
        for note in dict.fromkeys((*cell.notes, *(record.notes if record else ()))):
            place = f"{cell.strategy} on {engine_in_words(cell, scenario.plan.machine.gpu_name)}"
            where.setdefault(note, Counter())[place] += 1
    for note, places in where.items():
        yield f"{_places(places)}: {note}"


def _environment(scenario: ScenarioResults) -> Iterable[tuple[str, str]]:
    """Return each fact with its values; several values mean that the cells ran in several environments."""
    facts: dict[str, Counter[str]] = {}
    for record in scenario.records.values():
        for key, value in record.environment.items():
            facts.setdefault(key, Counter())[value if isinstance(value, str) else show(value)] += 1
    for key, values in facts.items():
        several = (f"{value or 'none'} ({count} cells)" for value, count in values.items())
        yield key.replace("_", " "), "; ".join(several if len(values) > 1 else (value or "none" for value in values))
