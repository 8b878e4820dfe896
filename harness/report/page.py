"""The page: words and tables for the template, which holds no arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import harness
from harness.analysis.answer import Answer, answer, duration
from harness.analysis.more_devices import explain_scaling, poor_scaling
from harness.analysis.points import Row, status_counts
from harness.analysis.predicted import HEAD as COMPARED_HEAD
from harness.analysis.predicted import compare_observed, compare_twins, in_cells, summary
from harness.describe import engine_in_words, machine_in_words
from harness.plan import Cell
from harness.report.figures import (
    Drawing,
    accuracy_drawings,
    colours,
    dram_drawings,
    panels_left_out,
    throughput_drawings,
)
from harness.report.frames import bars_frame, cells_frame, curves_frame
from harness.report.read import ScenarioResults
from harness.source import show

NOT_RUN = "not run yet"

MOST_SCALINGS = 3
"""Strategies of which the report says why more devices gain little, the poorest first; chosen: a few sentences."""


@dataclass(frozen=True)
class Column:
    """A column of the table of cells.

    Attributes:
        text: from a cell and its row of results (empty where it has not run) to what is written.
    """

    head: str
    definition: str
    text: Callable[[Cell, Row], str]


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
class Shown:
    """One scenario as the template takes it."""

    name: str
    description: str
    machine: str
    progress: str
    newest: str
    answer: Answer
    drawings: tuple[Drawing, ...]
    remarks: tuple[str, ...]
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    statuses: str
    compared: tuple[Compared, ...]
    notes: tuple[str, ...]
    left_out: tuple[tuple[str, ...], ...]
    environment: tuple[tuple[str, str], ...]
    extra: tuple[tuple[str, Markup], ...]


def render(scenarios: Sequence[ScenarioResults], digest: str, sections: Sequence[Callable[..., Any]] = ()) -> str:
    """Return the page as HTML.

    Args:
        scenarios: what to show, in this order.
        digest: of all that the page was made from.
        sections: functions from the frame of finished cells to a title and HTML.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    shown = [_shown(scenario, f"s{number}-", sections) for number, scenario in enumerate(scenarios)]
    return environment.get_template("report.html.j2").render(
        scenarios=shown,
        digest=digest,
        version=harness.__version__,
        definitions=[(column.head, column.definition) for column in COLUMNS],
        compared_head=COMPARED_HEAD,
        title=", ".join(item.name for item in shown),
    )


def _shown(scenario: ScenarioResults, prefix: str, sections: Sequence[Callable[..., Any]]) -> Shown:
    plan, rows = scenario.plan, scenario.rows
    drawings, remarks = _drawings(scenario, prefix)
    return Shown(
        name=plan.name,
        description=plan.description,
        machine=machine_in_words(plan.machine),
        progress=progress(rows, len(plan.cells)),
        newest=f"{scenario.newest:%d %B %Y, %H:%M} UTC" if scenario.newest else "",
        answer=answer(rows, len(plan.cells)),
        drawings=tuple(drawings),
        remarks=tuple(remarks),
        head=tuple(column.head for column in COLUMNS),
        rows=tuple(_table(scenario)),
        statuses=", ".join(f"{count} {status}" for status, count in status_counts(rows).items()),
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


def _drawings(scenario: ScenarioResults, prefix: str) -> tuple[list[Drawing], list[str]]:
    palette = colours(cell.strategy for cell in scenario.plan.cells)
    curves, bars = curves_frame(scenario), bars_frame(scenario)
    drawn = accuracy_drawings(curves, palette, _target(scenario), prefix)
    drawn += [*throughput_drawings(bars, palette, prefix), *dram_drawings(bars, palette, prefix)]
    left_out = panels_left_out(curves)
    remarks = ["No curves: no finished cell measured a validation accuracy."] if curves.empty else []
    remarks += [f"{left_out} more combinations of batch and rate are in the table only."] if left_out else []
    return drawn, remarks


def _target(scenario: ScenarioResults) -> float | None:
    """Return the accuracy that all cells were to reach; None where there is none or they differ."""
    targets = {cell.goal.get("target_accuracy") for cell in scenario.plan.cells}
    (target,) = targets if len(targets) == 1 else (None,)
    return target if isinstance(target, float) else None


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


def _table(scenario: ScenarioResults) -> Iterable[tuple[str, ...]]:
    for cell in scenario.plan.cells:
        record = scenario.records.get(cell.cell_id)
        row: Row = {**record.row, "reason": record.reason, "status": record.status} if record else {}
        yield tuple(column.text(cell, row) for column in COLUMNS)


def _compared(scenario: ScenarioResults) -> Iterable[Compared]:
    """Yield predictions beside what was measured here, and beside what the scenario says was observed elsewhere."""
    observed = {cell.cell_id: cell.observed for cell in scenario.plan.cells if cell.observed}
    tables = {
        "Predicted beside measured": compare_twins(scenario.rows),
        "Observed beside predicted": compare_observed(scenario.rows, observed),
    }
    for title, found in tables.items():
        if found:
            yield Compared(title, tuple(summary(found)), tuple(in_cells(comparison) for comparison in found))
    poor = poor_scaling(scenario.rows)[:MOST_SCALINGS]
    lead = tuple(f"{few['strategy']}: {line}" for few, many in poor for line in explain_scaling(few, many))
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
        cells = ", ".join(f"{place} ({count} cell{'s' * (count != 1)})" for place, count in places.items())
        yield f"{cells}: {note}"


def _environment(scenario: ScenarioResults) -> Iterable[tuple[str, str]]:
    """Return each fact with its values; several values mean that the cells ran in several environments."""
    facts: dict[str, Counter[str]] = {}
    for record in scenario.records.values():
        for key, value in record.environment.items():
            facts.setdefault(key, Counter())[value if isinstance(value, str) else show(value)] += 1
    for key, values in facts.items():
        several = (f"{value} ({count} cells)" for value, count in values.items())
        yield key.replace("_", " "), "; ".join(several if len(values) > 1 else values)


def _number(key: str, form: Callable[[float], str]) -> Callable[[Cell, Row], str]:
    def text(_: Cell, row: Row) -> str:
        value = row.get(key)
        return "" if value is None else form(value)

    return text


def _per_update(key: str) -> Callable[[Cell, Row], str]:
    def text(_: Cell, row: Row) -> str:
        value, steps = row.get(key), row.get("steps")
        return duration(value / steps) if value is not None and steps else ""

    return text


def _batch(cell: Cell, _: Row) -> str:
    micro = f", {cell.micro_batch_size} at once" if cell.micro_batch_size != cell.batch_size else ""
    return f"{cell.global_batch_size} ({cell.batch_size} per rank{micro})"


def _rate(cell: Cell, _: Row) -> str:
    return f"{cell.learning_rate:g}" + (f" ({cell.lr_rule})" if cell.lr_rule else "")


def _reason(cell: Cell, row: Row) -> str:
    return str(row.get("reason") or cell.not_possible)


def _options(cell: Cell, _: Row) -> str:
    written = {**cell.options, **cell.swept}
    return ", ".join(f"{key} {show(value)}" for key, value in written.items())


def _mebibytes(value: float) -> str:
    return f"{value / 2**20:,.3g} MiB"


COLUMNS = (
    Column("strategy", "the parallelism strategy", lambda cell, _: cell.strategy),
    Column(
        "synchrony",
        "synchronous: all workers take each step together; asynchronous: each goes on with weights that others may "
        "have changed since; stale-synchronous: so, within a bound",
        lambda cell, _: cell.synchrony,
    ),
    Column(
        "engine",
        "real: run on this machine's devices and timed by the wall clock; virtual: run on a simulated cluster and "
        "timed by its clock, with real gradients",
        lambda cell, _: cell.engine,
    ),
    Column(
        "devices", "devices of the cell; on a machine without GPU one CPU core each", lambda c, _: engine_in_words(c)
    ),
    Column("options", "options of the strategy, and keys swept by their path", _options),
    Column("global batch", "samples behind one update of the weights", _batch),
    Column("learning rate", "of the optimizer, with the rule where it was scaled with the batch", _rate),
    Column("seed", "decides first weights and the order of the data", lambda cell, _: str(cell.seed)),
    Column(
        "status",
        "ok: reached the target, or ran its budget where there is none; target-missed: did not reach it within the "
        "budget; diverged: a loss was not a finite number; not-possible: this machine cannot run it; out-of-memory, "
        "timeout, crashed, interrupted: as they say",
        lambda _, row: str(row.get("status", NOT_RUN)),
    ),
    Column("reason", "why the cell has this status", _reason),
    Column(
        "time to target",
        "training time (simulated for virtual cells) until the first of two consecutive evaluations at or above the "
        "target, on the validation split; setup and evaluation left out",
        _number("time_to_target_s", duration),
    ),
    Column("samples to target", "training samples seen until then", _number("samples_to_target", "{:,.0f}".format)),
    Column(
        "validation accuracy",
        "share of the validation split that the last evaluation got right",
        _number("validation_accuracy", "{:.4f}".format),
    ),
    Column(
        "test accuracy",
        "share of the test set that the trained model got right; used once, at the end",
        _number("test_accuracy", "{:.4f}".format),
    ),
    Column(
        "samples/s",
        "throughput of the whole job on the training clock, after warm-up",
        _number("throughput_samples_per_s", "{:,.0f}".format),
    ),
    Column("computing", "forward and backward pass and optimizer, per update and device", _per_update("compute_s")),
    Column(
        "communication",
        "transfer that nothing hides, per update and device",
        _per_update("communication_s"),
    ),
    Column(
        "idle",
        "waiting for a later worker, a server or a stage, per update and device",
        _per_update("idle_s"),
    ),
    Column(
        "staleness",
        "mean number of updates between the weights that a gradient came from and those it changed; 0 if synchronous",
        _number("staleness_mean", "{:.2f}".format),
    ),
    Column(
        "counted DRAM",
        "parameters, gradients, optimizer, activations and buffers on the device that holds most, counted tensor by "
        "tensor",
        _number("dram_tensors_peak_bytes", _mebibytes),
    ),
)
