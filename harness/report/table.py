"""The table of all cells: what its columns say, and what they are sorted by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress

from harness.analysis.judged_rows import judged_in_words, judged_value
from harness.analysis.points import Row
from harness.core.cell import Cell
from harness.core.device_words import engine_in_words
from harness.core.endings import Status
from harness.core.words import duration, memory_size, show
from harness.report.scenario_results import ScenarioResults

NOT_RUN = "not run yet"

GOOD = frozenset(status for status in Status if status.trained)
"""Statuses that are not marked as failures: a missed target is a result."""


@dataclass(frozen=True)
class CellColumn:
    """A column of the table of cells.

    Attributes:
        text: from a cell and its row of results (empty where it has not run) to what is written.
        order: from the same to what it is sorted by; None for words.
        style: from the row to the class of the page's style; numbers have one of their own.
    """

    head: str
    definition: str
    text: Callable[[Cell, Row], str]
    order: Callable[[Cell, Row], float | None] | None = None
    style: Callable[[Row], str] = lambda _: ""

    @classmethod
    def number(
        cls, head: str, definition: str, value: str | Callable[[Cell, Row], float | None], form: Callable[[float], str]
    ) -> CellColumn:
        """Return a column of numbers, empty where one was not measured.

        Args:
            head: its heading.
            definition: what it says.
            value: a key of the row, or what computes it.
            form: writes it.
        """

        def order(cell: Cell, row: Row) -> float | None:
            found = row.get(value) if isinstance(value, str) else value(cell, row)
            return None if found is None else float(found)

        def text(cell: Cell, row: Row) -> str:
            found = order(cell, row)
            return "" if found is None else form(found)

        return cls(head, definition, text, order)

    def field(self, cell: Cell, row: Row) -> CellField:
        """Return what stands in the column for a cell."""
        if self.order is None:
            return CellField(self.text(cell, row), kind=self.style(row))
        order = self.order(cell, row)
        return CellField(self.text(cell, row), "" if order is None else f"{order:.9g}", "number")


@dataclass(frozen=True)
class CellField:
    """One field of the table.

    Attributes:
        order: what it is sorted by; empty for words.
        kind: class of the page's style.
    """

    text: str
    order: str = ""
    kind: str = ""


@dataclass(frozen=True)
class CellTable:
    """The cells of the plan, finished or not, in the columns that any of them has something to say in."""

    columns: tuple[CellColumn, ...]
    rows: tuple[tuple[CellField, ...], ...]


def cell_table(scenario: ScenarioResults) -> CellTable:
    """Return the table of a scenario."""
    rows = {row["cell_id"]: row for row in scenario.rows}
    found = []
    for cell in scenario.plan.cells:
        record = scenario.records.get(cell.cell_id)
        row: Row = {**rows[cell.cell_id], "reason": record.reason, "status": record.status} if record else {}
        found.append([column.field(cell, row) for column in CELL_COLUMNS])
    used = [any(field.text for field in column) for column in zip(*found, strict=True)]
    return CellTable(tuple(compress(CELL_COLUMNS, used)), tuple(tuple(compress(line, used)) for line in found))


def _status_style(row: Row) -> str:
    if not row:
        return "waiting"
    return "" if row["status"] in GOOD else "failed"


def _words(_: Row) -> str:
    return "words"


def _per_update(key: str) -> Callable[[Cell, Row], float | None]:
    def value(_: Cell, row: Row) -> float | None:
        found, steps = row.get(key), row.get("steps")
        # Rounding leaves some 1e-14 s below 0 in what is the rest of the others.
        return max(0.0, found / steps) if found is not None and steps else None

    return value


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


CELL_COLUMNS = (
    CellColumn("strategy", "The parallelism strategy.", lambda cell, _: cell.strategy),
    CellColumn(
        "devices",
        "Devices of the cell. On a machine without a GPU, each is one CPU core. Simulated devices are marked.",
        lambda cell, _: engine_in_words(cell),
        order=lambda cell, _: cell.gpus,
    ),
    CellColumn(
        "global batch",
        "Samples per update of the weights.",
        _batch,
        order=lambda cell, _: cell.global_batch_size,
    ),
    CellColumn(
        "learning rate",
        "Learning rate of the optimizer, and the rule if it was scaled with the batch.",
        _rate,
        order=lambda cell, _: cell.learning_rate,
    ),
    CellColumn(
        "seed",
        "Determines the initial weights and the order of the data.",
        lambda cell, _: str(cell.seed),
        order=lambda cell, _: cell.seed,
    ),
    CellColumn(
        "seed's part",
        "confirms: this seed had no part in choosing the setting, and the answer rests on such seeds alone. Empty: it "
        "is one of the sweep's, which choose.",
        lambda cell, _: "confirms" if cell.confirms else "",
    ),
    CellColumn(
        "status",
        "ok: reached the target, or used its budget if there is no target. target-missed: did not reach the target "
        "within the budget. diverged: the loss was not a finite number. not-possible: this machine cannot run it. "
        "out-of-memory, timeout, crashed, interrupted: as the names say.",
        lambda _, row: str(row.get("status", NOT_RUN)),
        style=_status_style,
    ),
    CellColumn.number(
        "time to target",
        "Training time until the first of two consecutive evaluations at or above the target, on the validation split. "
        "Setup and evaluation do not count. Virtual cells: simulated time.",
        "time_to_target_s",
        duration,
    ),
    CellColumn.number("samples to target", "Training samples seen until then.", "samples_to_target", "{:,.0f}".format),
    CellColumn.number(
        "validation accuracy",
        "Share of the validation split that was classified correctly in the last evaluation.",
        "validation_accuracy",
        "{:.4f}".format,
    ),
    CellColumn.number(
        "test accuracy",
        "Share of the test set that the trained model classified correctly. The test set is used once, at the end.",
        "test_accuracy",
        "{:.4f}".format,
    ),
    CellColumn(
        "validation metric",
        "What workload.metric came to on the validation split in the last evaluation, where it is no accuracy.",
        lambda _, row: judged_in_words(row) if row.get("metric") else "",
        order=lambda _, row: judged_value(row),
    ),
    CellColumn(
        "rate's regime",
        "What the loss curve says about the learning rate. Too small: stuck or slow. Good. Too large: oscillating, "
        "collapsed or diverged.",
        lambda _, row: str(row.get("regime") or ""),
    ),
    CellColumn.number(
        "samples/s",
        "Throughput of the whole job on the training clock, after warm-up.",
        "throughput_samples_per_s",
        "{:,.0f}".format,
    ),
    CellColumn.number(
        "tokens/s",
        "Tokens of these samples, where they hold any.",
        "throughput_tokens_per_s",
        "{:,.0f}".format,
    ),
    CellColumn.number(
        "MFU",
        "Model FLOPs utilisation: the operations of three forward passes for each sample, per second and device, as a "
        "share of the peak that the device's data sheet promises for this precision. What is recomputed does not "
        "count. The cell's record names device, peak and source.",
        "mfu",
        "{:.1%}".format,
    ),
    CellColumn.number(
        "speed-up",
        "Throughput divided by that of single with the same global batch (strong scaling) or the same batch per rank "
        "(weak scaling) on the same engine, otherwise by that of the same strategy on the fewest devices.",
        "speedup",
        "{:.3g}".format,
    ),
    CellColumn.number("step, 95 %", "95 % of the steps take less time than this.", "step_time_p95_s", duration),
    CellColumn.number(
        "computing",
        "Forward pass, backward pass and optimizer, per update and device.",
        _per_update("compute_s"),
        duration,
    ),
    CellColumn.number(
        "communication",
        "Transfers that nothing hides, per update and device.",
        _per_update("communication_s"),
        duration,
    ),
    CellColumn.number(
        "idle",
        "Waiting for a slower worker, a server or a stage, per update and device.",
        _per_update("idle_s"),
        duration,
    ),
    CellColumn.number(
        "staleness",
        "Mean number of updates between reading the weights for a gradient and applying it; 0 if synchronous.",
        "staleness_mean",
        "{:.2f}".format,
    ),
    CellColumn.number(
        "counted DRAM",
        "Parameters, gradients, optimizer, activations and buffers on the fullest device, counted tensor by tensor.",
        "dram_tensors_peak_bytes",
        memory_size,
    ),
    CellColumn(
        "synchrony",
        "synchronous: all workers take each step together. asynchronous: each worker continues with weights that "
        "others may have changed meanwhile. stale-synchronous: asynchronous within a bound.",
        lambda cell, _: cell.synchrony,
    ),
    CellColumn(
        "engine",
        "real: ran on this machine's devices, timed by the wall clock. virtual: ran on a simulated cluster, timed by "
        "its simulated clock, with real gradients.",
        lambda cell, _: cell.engine,
    ),
    CellColumn("options", "Options of the strategy, and swept keys.", _options, style=_words),
    CellColumn("reason", "Why the cell has this status.", _reason, style=_words),
)
