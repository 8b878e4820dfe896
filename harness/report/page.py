"""The page: words and tables for the template, which holds no arithmetic."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from harness.analysis.ledger import LedgerEntry, edges_in_words
from harness.analysis.points import status_counts
from harness.analysis.predicted import HEAD as COMPARED_HEAD
from harness.analysis.predicted import THROUGHPUT, compare_twins, in_cells, summary
from harness.core.cell import Cell
from harness.core.device_words import engine_in_words, hardware_in_words, machine_in_words
from harness.core.uncertainty import stated_words
from harness.core.version import __version__
from harness.core.words import counted, show
from harness.report.against import Against, shown_against
from harness.report.anonymous import anonymous
from harness.report.definitions import DEFINITIONS
from harness.report.figures import Figures, Page, figures_of, palette_of, strategies_of
from harness.report.frames import cells_frame
from harness.report.scenario_results import ScenarioResults
from harness.report.table import CELL_COLUMNS, GOOD, CellTable, cell_table

ReportSection = Callable[[Any], tuple[str, str]]
"""From the frame of finished cells to a title and HTML that is taken as it is."""

LONG = 600
"""Characters of a description above which it is folded: it would push the answer off the first screen; chosen."""


@dataclass(frozen=True)
class ComparedTable:
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


ONE_RATE_HEAD = ("strategy", "on", "learning rate", "global batch", "time to the target, or speed", "seeds")

LEDGER_HEAD = ("strategy", "on", "global batch", "of those tried", "learning rate", "of those tried", "rule",
               "precision", "samples seen", "evaluated every", "points tried")  # fmt: skip


def render(
    scenarios: Sequence[ScenarioResults],
    digest: str,
    sections: Sequence[ReportSection] = (),
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
    palette = palette_of(scenarios)
    pages = [Page(palette, f"s{number}-") for number in range(len(scenarios))]
    shown = [ScenarioShown(scenario, page, sections) for scenario, page in zip(scenarios, pages, strict=True)]
    return (
        templates(named)
        .get_template("report.html.j2")
        .render(
            scenarios=shown,
            against=shown_against(against, Page(palette, "against-")) if against else None,
            digest=digest,
            version=__version__,
            figure_definitions=DEFINITIONS,
            definitions=[(column.head, column.definition) for column in CELL_COLUMNS],
            compared_head=COMPARED_HEAD,
            ledger_head=LEDGER_HEAD,
            one_rate_head=ONE_RATE_HEAD,
            title=", ".join(item.plan.name for item in shown)[:LONG],
        )
    )


def templates(named: bool) -> Environment:
    """Return what pages are made with.

    Args:
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
    return environment


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class ScenarioShown:
    """One scenario as the template takes it: words and tables, made when the template comes to them."""

    def __init__(self, scenario: ScenarioResults, page: Page, sections: Sequence[ReportSection]) -> None:
        self.scenario, self.page, self._sections = scenario, page, sections
        self.plan, self.answer = scenario.plan, scenario.answer

    # -- the head ------------------------------------------------------------------------------------------------------

    @property
    def folded(self) -> bool:
        """Whether the description is too long to be seen at once."""
        return len(self.plan.description) > LONG

    @property
    def machine(self) -> str:
        """The machine; where every cell is simulated it was only computed on, and its devices are none of theirs."""
        if any(cell.engine != "virtual" for cell in self.plan.cells):
            return machine_in_words(self.plan.machine)
        return f"all simulated, on {hardware_in_words(self.plan.machine)}"

    @property
    def done(self) -> int:
        """Cells that ran: interrupted ones did not."""
        return sum(row["status"] != "interrupted" for row in self.scenario.rows)

    @property
    def newest(self) -> str:
        """When the newest record was written."""
        return f"{self.scenario.newest:%d %B %Y, %H:%M} UTC" if self.scenario.newest else ""

    @property
    def statuses(self) -> str:
        """How many cells ended how."""
        return ", ".join(f"{count} {status}" for status, count in status_counts(self.scenario.rows).items())

    @property
    def warnings(self) -> Iterator[str]:
        """What changes the answer, before it."""
        yield from self.answer.caveats
        yield from self._outside()
        yield from self._environments()

    def _outside(self) -> Iterator[str]:
        """Warn of measurements that lie outside what the prediction says of itself: then it has to be explained."""
        found = [item for item in self.scenario.observed if item.inside is False]
        twins = compare_twins(self.scenario.rows)
        found += [item for item in twins if item.inside is False and item.quantity == THROUGHPUT]
        for item in sorted(found, key=lambda item: -abs(item.error))[:1]:
            predicted, measured = item.quantity.text(item.predicted), item.quantity.text(item.measured)
            off = f"{100 * abs(item.error):.0f} % too {'high' if item.error > 0 else 'low'}"
            how = "observed" if item.source else "measured"
            said = f"The prediction for {item.where} is {off}: {predicted} predicted, {measured} {how}."
            said += f" That is outside its stated error of {stated_words(item.stated or 0.0)}."
            said += f" {len(found) - 1} more are outside theirs." if len(found) > 1 else ""
            account = self.scenario.accounts.get(item.cell_ids[0])
            yield f"{said} {account}" if account else said

    def _environments(self) -> Iterator[str]:
        """Warn of measured cells that ran in several environments: their times do not compare."""
        real = [record for record in self.scenario.records.values() if record.cell.engine != "virtual"]
        ran = Counter(str(record.environment.get("id")) for record in real)
        if len(ran) > 1:
            counts = " and ".join(str(count) for count in ran.values())
            yield f"Measured cells ran in {len(ran)} environments ({counts} cells). Do not compare their times."

    # -- the answer ----------------------------------------------------------------------------------------------------

    @property
    def remedies(self) -> Sequence[str]:
        """What many devices would need, where the answer is that they are hardly faster."""
        return self.scenario.poor[0].account.remedies if self.answer.poor else ()

    @property
    def advice(self) -> Iterator[str]:
        """Rates to try instead, and lists to widen."""
        yield from self.answer.try_next
        if not self.answer.cases:
            yield from edges_in_words(self.answer.ledger)

    @cached_property
    def figures(self) -> Figures:
        """All figures."""
        return figures_of(self.scenario, self.page)

    @property
    def palette(self) -> list[tuple[str, str]]:
        """Strategies with their colours."""
        return [(name, self.page.palette[name]) for name in strategies_of([self.scenario])]

    # -- tables --------------------------------------------------------------------------------------------------------

    @property
    def compared(self) -> Iterator[ComparedTable]:
        """Predictions beside what was measured here, and beside what the scenario says was observed elsewhere."""
        tables = {
            "Predicted and measured, in numbers": compare_twins(self.scenario.rows),
            "Predicted and observed, in numbers": self.scenario.observed,
        }
        for title, found in tables.items():
            if found:
                yield ComparedTable(title, tuple(f"{line}." for line in summary(found)), tuple(map(in_cells, found)))
        lead = tuple(f"{poor.strategy}: {line}" for poor in self.scenario.poor for line in poor.account.sentences)
        if lead:
            yield ComparedTable("Why more devices help little", lead, ())

    @property
    def ledger(self) -> list[tuple[str, ...]]:
        """What each strategy stands with."""
        return [_ledger_row(entry, self.scenario.records[entry.cell_id].cell) for entry in self.answer.ledger]

    @property
    def failures(self) -> Iterator[FailedCells]:
        """Each way in which cells failed once, with how many and which."""
        failed = [record for record in self.scenario.records.values() if record.status not in GOOD]
        for (status, reason), cells in _grouped(((r.status, r.reason), r.cell) for r in failed).items():
            yield FailedCells(status, reason, self._places(cells))

    @cached_property
    def table(self) -> CellTable:
        """All cells."""
        return cell_table(self.scenario)

    @property
    def notes(self) -> Iterator[str]:
        """Each note once, with where it applies."""
        yield from self.plan.notes
        records = self.scenario.records
        noted = (
            (note, cell)
            for cell in self.plan.cells
            for note in dict.fromkeys((*cell.notes, *(records[cell.cell_id].notes if cell.cell_id in records else ())))
        )
        for note, cells in _grouped(noted).items():
            yield f"{self._places(cells)}: {note}"

    def _places(self, cells: Iterable[Cell]) -> str:
        gpu_name = self.plan.machine.gpu_name
        places = Counter(f"{cell.strategy} on {engine_in_words(cell, gpu_name)}" for cell in cells)
        return ", ".join(f"{place} ({counted(count, 'cell')})" for place, count in places.items())

    @property
    def left_out(self) -> list[tuple[str, ...]]:
        """Points that are not in the plan, with the reason."""
        return [(item.strategy, item.point, item.kind, item.reason) for item in self.plan.left_out]

    @property
    def environment(self) -> Iterator[tuple[str, str]]:
        """Each fact with its values; several values mean that the cells ran in several environments."""
        found = [fact for record in self.scenario.records.values() for fact in record.environment.items()]
        for key, values in _grouped(found).items():
            counts = Counter((value if isinstance(value, str) else show(value)) or "none" for value in values)
            several = (f"{value} ({count} cells)" for value, count in counts.items())
            yield key.replace("_", " "), "; ".join(several if len(counts) > 1 else counts)

    @property
    def extra(self) -> Iterator[tuple[str, Markup]]:
        """What plugins add."""
        for section in self._sections:
            try:
                title, content = section(cells_frame(self.scenario))
            except Exception as error:
                # A stranger's section must not cost the user the report; what it raised is shown in its place.
                name = getattr(section, "__name__", "section")
                yield name, Markup("<p>This section failed: {}: {}</p>").format(type(error).__name__, error)
            else:
                yield title, Markup(content)


_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


def _grouped(pairs: Iterable[tuple[_Key, _Value]]) -> Mapping[_Key, list[_Value]]:
    """Return the values of each key, in the order in which they come."""
    found: dict[_Key, list[_Value]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return found


def _ledger_row(entry: LedgerEntry, cell: Cell) -> tuple[str, ...]:
    batches = ", ".join(map(str, entry.batches)) if len(entry.batches) > 1 else "one only"
    rates = ", ".join(f"{rate:g}" for rate in entry.rates) if len(entry.rates) > 1 else "one only"
    samples = "" if entry.samples is None else f"{entry.samples:,.0f}"
    rate = f"{entry.rate:g}" if entry.rate else "-"
    return (entry.strategy, entry.devices, str(entry.batch), batches, rate, rates, entry.rate_rule, entry.precision,
            samples, _evaluated(cell), str(entry.tried))  # fmt: skip


def _evaluated(cell: Cell) -> str:
    every = cell.goal.evaluate_every
    return "not at all" if every is None else every if isinstance(every, str) else f"{every:,} samples"
