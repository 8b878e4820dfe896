"""Make the record of a cell that has ended, and its tables: what its row says, and what its telemetry saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from harness.analysis.cell_row import curve_table, identity_row, outcome_row
from harness.core.budget import Budget
from harness.core.cell import Cell
from harness.core.disturbances import Disturbances, above_limits, disturbed_columns
from harness.core.endings import Status
from harness.core.failure import Failure
from harness.core.metrics import ACCURACY, Judged
from harness.core.not_known import NotKnown
from harness.core.outcome import TableColumns
from harness.core.outside_text import bounded
from harness.core.records import Json, to_json
from harness.core.words import counted, three
from harness.engines.processes.launch import Result
from harness.engines.telemetry import Sample
from harness.engines.telemetry.disturbed import disturbances_sampled
from harness.engines.telemetry.sampler import Telemetry
from harness.engines.telemetry.summary import energy_by_device, summarise, summary_notes
from harness.results.store import Record


def make_record(
    cell: Cell, result: Result, telemetry: Telemetry | None, environment: Json, attempts: int
) -> tuple[Record, dict[str, TableColumns]]:
    """Return the record of a cell and its tables."""
    row = identity_row(cell, environment["id"])
    reason = bounded(result.reason)
    status = result.status or Status.OK  # of a cell that finished its outcome decides
    record = Record(cell, status, reason, cell.notes, row, environment, attempts, cause=result.cause)
    if result.failure is not None:
        record = replace(record, detail={"failure": _where_it_failed(result.failure)})
    tables: dict[str, TableColumns] = {}
    if result.outcome is not None:
        record, tables = _with_outcome(record, result)
    if telemetry is not None:
        record = _with_telemetry(record, telemetry, result)
        tables["telemetry.parquet"] = telemetry.columns.table(_origin_s(telemetry, result))
    final = {"status": record.status, "reason": record.reason, "notes": "; ".join(record.notes)}
    record = replace(record, row=record.row | final)
    return record, tables


def _where_it_failed(failure: Failure) -> Json:
    """Return the lines that a failure names, and who had not ended when time was up."""
    return {
        "raised_at": failure.raised_at and failure.raised_at._asdict(),
        "hangs": [{**to_json(hang), "line": hang.line and hang.line._asdict()} for hang in failure.hangs],
    }


def _with_outcome(record: Record, result: Result) -> tuple[Record, dict[str, TableColumns]]:
    outcome = result.outcome
    judged = Judged.of(outcome.facts.get("metric", ACCURACY), outcome.facts.get("better", ""))
    budget = Budget.of(record.cell.goal, outcome.facts["num_train"], judged)
    status, reason = outcome.status(budget)
    notes = [*record.notes, *outcome.notes]
    notes += [
        f"{word} was started {counted(count, 'time')} and never awaited"
        for word, count in sorted(outcome.unawaited.items())
    ]
    tables = {"evals.csv": curve_table(outcome), "steps.parquet": outcome.steps}
    if outcome.updates_log.get("update"):
        tables["updates.parquet"] = outcome.updates_log
    detail = {"facts": outcome.facts, "decision": outcome.decision}
    if isinstance(outcome.dram, NotKnown):
        detail |= {"dram": {}, "dram_not_known": to_json(outcome.dram)}
        notes.append(f"its memory is not counted: {outcome.dram.reason}")
    else:
        detail["dram"] = outcome.dram.kinds
    detail["host_seconds"] = {"setup": outcome.setup_s, "evaluation": outcome.evaluation_s}
    row = record.row | outcome_row(record.cell, outcome, budget)
    return replace(record, status=status, reason=reason, notes=tuple(notes), row=row, detail=detail), tables


def _during_training(telemetry: Telemetry, result: Result) -> list[Sample]:
    """Return the samples from the start of training to its end, a tick more on either side.

    What comes after, such as the evaluation of copies, is no part of what strategies are compared on.
    """
    ended_s = result.outcome.facts.get("ended_at_s") if result.outcome is not None else None
    if ended_s is None:
        return telemetry.samples
    tick = telemetry.interval_s or 0.0
    return [s for s in telemetry.samples if result.started_s - tick <= s.time_s <= ended_s + tick]


def _origin_s(telemetry: Telemetry, result: Result) -> float:
    """Return what counts as time 0: the start of training, or the first sample where it never ended well."""
    return result.started_s or min(telemetry.columns.time_s, default=0.0)


def _lost_note(lost: tuple[str, float]) -> str:
    device, since_s = lost
    return f"{device} gave no figures from {three(max(0.0, since_s))} s after training began"


def _with_telemetry(record: Record, telemetry: Telemetry, result: Result) -> Record:
    samples = _during_training(telemetry, result)
    summary = summarise(samples, telemetry.lost)
    neighbours = summary.pop("host_cpu_other_cores", None)
    disturbances = _disturbances(telemetry, samples, neighbours)
    row = record.row | summary
    if neighbours is not None:
        row["other_cores"] = neighbours
    if neighbours is not None or disturbances:
        row |= disturbed_columns(disturbances)
    origin_s = _origin_s(telemetry, result)
    lost_s = {device: since_s - origin_s for device, since_s in telemetry.lost.items()}
    detail = (record.detail or {}) | {
        "telemetry": {
            "unavailable": telemetry.unavailable,
            "interval_s": telemetry.interval_s,
            "missed_ticks": telemetry.missed_ticks,
            "sampler_cpu_cores": telemetry.sampler_cpu_cores,
            "other_cores": neighbours,
            "energy": energy_by_device(samples),
            "lost": lost_s,
            "notes": [*telemetry.notes, *map(_lost_note, lost_s.items()), *summary_notes(samples, telemetry.lost)],
        }
    }
    return replace(record, row=row, detail=detail, disturbances=disturbances)


def _disturbances(telemetry: Telemetry, samples: Sequence[Sample], other_cores: float | None) -> Disturbances:
    """Return what disturbed a cell, as its sampler saw it and as the counters of the machine tell."""
    found = disturbances_sampled(samples, other_cores)
    amounts = (*telemetry.around.items(), *found.items())
    kinds = dict.fromkeys(kind for kind, _ in amounts)
    return above_limits(
        {kind: max((a for k, a in amounts if k is kind and a is not None), default=None) for kind in kinds}
    )
