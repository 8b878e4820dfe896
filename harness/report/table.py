"""The table of all cells: what its columns say, and what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from harness.analysis.points import Row
from harness.core.cell import Cell
from harness.core.device_words import engine_in_words
from harness.core.outcome import Status
from harness.core.words import duration, memory_size, show
from harness.report.scenario_results import ScenarioResults

NOT_RUN = "not run yet"

GOOD = frozenset(status for status in Status if status.trained)
"""Statuses that are not marked as failures: a missed target is a result."""


@dataclass(frozen=True)
class Column:
    """A column of the table of cells.

    Attributes:
        text: from a cell and its row of results (empty where it has not run) to what is written.
        order: from the same to what it is sorted by; None for words.
        words: long text, which may be broken.
    """

    head: str
    definition: str
    text: Callable[[Cell, Row], str]
    order: Callable[[Cell, Row], float | None] | None = None
    words: bool = False


@dataclass(frozen=True)
class Field:
    """One field of the table.

    Attributes:
        order: what it is sorted by; empty for words.
        kind: class of the page's style.
    """

    text: str
    order: str = ""
    kind: str = ""


def table(scenario: ScenarioResults) -> list[tuple[Field, ...]]:
    """Return the fields of every cell of the plan, finished or not."""
    rows = {row["cell_id"]: row for row in scenario.rows}
    found = []
    for cell in scenario.plan.cells:
        record = scenario.records.get(cell.cell_id)
        row: Row = {**rows[cell.cell_id], "reason": record.reason, "status": record.status} if record else {}
        found.append(tuple(_field(column, cell, row) for column in COLUMNS))
    return found


def used(fields: Iterable[tuple[Field, ...]]) -> list[bool]:
    """Return for each column whether any cell has something to say there."""
    return [any(field.text for field in column) for column in zip(*fields, strict=True)]


def _field(column: Column, cell: Cell, row: Row) -> Field:
    text = column.text(cell, row)
    if column.order is not None:
        order = column.order(cell, row)
        return Field(text, "" if order is None else f"{order:.9g}", "number")
    kind = "words" if column.words else ""
    if column.head == "status":
        kind = "waiting" if text == NOT_RUN else "" if text in GOOD else "failed"
    return Field(text, kind=kind)


def _number(key: str, form: Callable[[float], str]) -> dict[str, Callable[..., object]]:
    def value(_: Cell, row: Row) -> float | None:
        found = row.get(key)
        return None if found is None else float(found)

    return {"text": lambda cell, row: "" if (v := value(cell, row)) is None else form(v), "order": value}


def _per_update(key: str) -> dict[str, Callable[..., object]]:
    def value(_: Cell, row: Row) -> float | None:
        found, steps = row.get(key), row.get("steps")
        # Rounding leaves some 1e-14 s below 0 in what is the rest of the others.
        return max(0.0, found / steps) if found is not None and steps else None

    return {"text": lambda cell, row: "" if (v := value(cell, row)) is None else duration(v), "order": value}


def _batch(cell: Cell, row: Row) -> str:
    at_once = row.get("micro_batch_size") or cell.micro_batch_size
    micro = f", {at_once or 'the most that fit'} at once" if at_once != cell.batch_size else ""
    return f"{cell.global_batch_size} ({cell.batch_size} per rank{micro})"


def _rate(cell: Cell, _: Row) -> str:
    if cell.timing_only:
        return "-"
    return f"{cell.learning_rate:g}" + (f" ({cell.lr_rule})" if cell.lr_rule else "")


def _reason(cell: Cell, row: Row) -> str:
    return str(row.get("reason") or cell.not_possible)


def _options(cell: Cell, _: Row) -> str:
    written = {**cell.options, **cell.swept}
    return ", ".join(f"{key} {show(value)}" for key, value in written.items())


COLUMNS = (
    Column("strategy", "the parallelism strategy", lambda cell, _: cell.strategy),
    Column(
        "devices",
        "devices of the cell; on a machine without GPU one CPU core each; simulated ones are named so",
        lambda cell, _: engine_in_words(cell),
        order=lambda cell, _: cell.gpus,
    ),
    Column(
        "global batch",
        "samples behind one update of the weights",
        _batch,
        order=lambda cell, _: cell.global_batch_size,
    ),
    Column(
        "learning rate",
        "of the optimizer, with the rule where it was scaled with the batch",
        _rate,
        order=lambda cell, _: cell.learning_rate,
    ),
    Column(
        "seed",
        "decides first weights and the order of the data",
        lambda cell, _: str(cell.seed),
        order=lambda cell, _: cell.seed,
    ),
    Column(
        "status",
        "ok: reached the target, or ran its budget where there is none; target-missed: did not reach it within the "
        "budget; diverged: a loss was not a finite number; not-possible: this machine cannot run it; out-of-memory, "
        "timeout, crashed, interrupted: as they say",
        lambda _, row: str(row.get("status", NOT_RUN)),
    ),
    Column(
        "time to target",
        "training time (simulated for virtual cells) until the first of two consecutive evaluations at or above the "
        "target, on the validation split; setup and evaluation left out",
        **_number("time_to_target_s", duration),  # type: ignore[arg-type]
    ),
    Column(
        "samples to target",
        "training samples seen until then",
        **_number("samples_to_target", "{:,.0f}".format),  # type: ignore[arg-type]
    ),
    Column(
        "validation accuracy",
        "share of the validation split that the last evaluation got right",
        **_number("validation_accuracy", "{:.4f}".format),  # type: ignore[arg-type]
    ),
    Column(
        "test accuracy",
        "share of the test set that the trained model got right; used once, at the end",
        **_number("test_accuracy", "{:.4f}".format),  # type: ignore[arg-type]
    ),
    Column(
        "rate's regime",
        "what the loss curve says of the learning rate: stuck or slow: too small; good; oscillating, collapsed or "
        "diverged: too large",
        lambda _, row: str(row.get("regime") or ""),
    ),
    Column(
        "samples/s",
        "throughput of the whole job on the training clock, after warm-up",
        **_number("throughput_samples_per_s", "{:,.0f}".format),  # type: ignore[arg-type]
    ),
    Column(
        "speed-up",
        "throughput over that of single with the same global batch (strong scaling) or the same batch of each rank "
        "(weak) on the same engine, else over the fewest devices of the same strategy",
        **_number("speedup", "{:.3g}".format),  # type: ignore[arg-type]
    ),
    Column("step, 95 %", "the step time that 95 % of the steps stay below", **_number("step_time_p95_s", duration)),  # type: ignore[arg-type]
    Column(
        "computing",
        "forward and backward pass and optimizer, per update and device",
        **_per_update("compute_s"),  # type: ignore[arg-type]
    ),
    Column(
        "communication",
        "transfer that nothing hides, per update and device",
        **_per_update("communication_s"),  # type: ignore[arg-type]
    ),
    Column(
        "idle",
        "waiting for a later worker, a server or a stage, per update and device",
        **_per_update("idle_s"),  # type: ignore[arg-type]
    ),
    Column(
        "staleness",
        "mean number of updates between the weights that a gradient came from and those it changed; 0 if synchronous",
        **_number("staleness_mean", "{:.2f}".format),  # type: ignore[arg-type]
    ),
    Column(
        "counted DRAM",
        "parameters, gradients, optimizer, activations and buffers on the device that holds most, counted tensor by "
        "tensor",
        **_number("dram_tensors_peak_bytes", memory_size),  # type: ignore[arg-type]
    ),
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
    Column("options", "options of the strategy, and keys swept by their path", _options, words=True),
    Column("reason", "why the cell has this status", _reason, words=True),
)
