"""Run what is missing of a plan: cell by cell, round by round, every cell in processes of its own."""

from __future__ import annotations

import itertools
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from harness.analysis.cell_row import curve_table, identity_row, outcome_row
from harness.api.host import Host, describe
from harness.commands.admission import admit, with_memory, with_utilisation
from harness.commands.timed import run_in_this_process
from harness.core.budget import Budget
from harness.core.cell import Cell, Plan
from harness.core.cells_here import measuring_here
from harness.core.disturbances import NOISY, Disturbance, Disturbances, above_limits, disturbed_columns
from harness.core.endings import Cause, Status
from harness.core.environment import describe_environment
from harness.core.errors import InputError, MachineError, PluginError
from harness.core.failure import Failure
from harness.core.interrupts import Interruptible, Uninterrupted, what_came
from harness.core.machine_counters import MachineCounters
from harness.core.metrics import ACCURACY, Judged
from harness.core.not_known import NotKnown
from harness.core.outcome import TableColumns
from harness.core.outside_text import bounded
from harness.core.records import Json, to_json
from harness.core.words import counted, three
from harness.engines.processes.blame import explain, own_files
from harness.engines.processes.forking import fork_server
from harness.engines.processes.launch import Result, run_cell
from harness.engines.processes.status import Reached
from harness.engines.telemetry import Sample
from harness.engines.telemetry.disturbed import disturbances_sampled
from harness.engines.telemetry.sampler import Sampler, Telemetry
from harness.engines.telemetry.summary import energy_by_device, summarise, summary_notes
from harness.results.logs import bound_log
from harness.results.store import Record, Results
from harness.results.trace_files import TRACED, steps_to_record, write_trace


class Progress(Protocol):
    """What the runner tells whoever watches."""

    def started(self, cell: Cell, number: int, of: int) -> None:
        """A cell's processes are about to start."""

    def reached(self, reached: Reached) -> None:
        """The running cell is so far."""

    def finished(self, record: Record, seconds: float) -> None:
        """A cell has its record."""

    def round_ended(self, results: Results) -> None:
        """All points have one seed more."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        ran, kept: cells run now, and those that were there already.
        interrupted: whether Ctrl-C or another signal ended it; out_of_budget: whether limits.budget did.
    """

    ran: list[Record] = field(default_factory=list)
    kept: int = 0
    interrupted: bool = False
    out_of_budget: bool = False

    @property
    def stopped(self) -> bool:
        """Whether cells are left."""
        return self.interrupted or self.out_of_budget

    def then(self, after: Summary) -> Summary:
        """Return what both did, one after the other."""
        return Summary([*self.ran, *after.ran], self.kept + after.kept, after.interrupted, after.out_of_budget)

    @property
    def failures(self) -> list[Record]:
        """Return the cells that crashed or timed out now."""
        return [record for record in self.ran if record.status.failed]


def missing(
    cells: Sequence[Cell], results: Results, retry: Sequence[str] = (), fresh: bool = False
) -> list[tuple[Cell, int]]:
    """Return the cells to run, each with the number of earlier attempts.

    Args:
        retry: statuses that are run again although they are findings, and `NOISY` for cells that were disturbed.
        fresh: run everything again; what is there is moved aside.
    """
    todo = []
    for cell in cells:
        record = results.record(cell.cell_id)
        if record is None or fresh or _became_possible(record, cell) or _asked_for(record, retry):
            todo.append((cell, 0))
        elif not record.final:
            todo.append((cell, record.attempts))
    return todo


def _asked_for(record: Record, retry: Sequence[str]) -> bool:
    return record.status in retry or (NOISY in retry and bool(record.row.get(NOISY)))


def _became_possible(record: Record, cell: Cell) -> bool:
    """Say whether a plan once left a cell out that it runs now; what running has found out stays found."""
    return record.status is Status.NOT_POSSIBLE and bool(record.cell.not_possible) and not cell.not_possible


def run_cells(
    plan: Plan,
    cells: Sequence[Cell],
    results: Results,
    host: Host,
    plugins: Sequence[str],
    progress: Progress,
    *,
    retry: Sequence[str] = (),
    fresh: bool = False,
    budget_s: float | None = None,
    trace: int | None = None,
    refuse_another: Callable[[], None] = lambda: None,
    reference: Callable[[int, int], None] | None = None,
) -> Summary:
    """Run the missing ones of `cells`; each record is on disk before the next cell starts.

    Args:
        trace: steps of each cell to write a trace of.
        refuse_another: raises where the results folder is no longer the one that this run began with.
        reference: runs beside the cells what is due when so many of them all have ended.

    Raises:
        MachineError: the environment cannot do it (a data set is missing, say); what is finished stays.
        InputError: nothing of the only model can be trained.
    """
    todo = missing(cells, results, retry, fresh)
    summary = Summary(kept=len(cells) - len(todo))
    environment = describe_environment(plan.machine)
    one_model = len({cell.workload.model.name for cell in cells}) == 1
    deadline = None if budget_s is None else time.monotonic() + budget_s
    numbers = itertools.count(1)
    try:
        for cells_of_round in _rounds(todo):
            for cell, attempts in cells_of_round:
                if deadline is not None and time.monotonic() >= deadline:
                    summary.out_of_budget = True
                    return summary
                refuse_another()
                if reference:
                    reference(len(summary.ran), len(todo))
                progress.started(cell, next(numbers), len(todo))
                began = time.monotonic()
                stored = results.record(cell.cell_id)
                if fresh or (attempts == 0 and stored is not None and stored.status is not Status.INTERRUPTED):
                    results.set_aside(cell.cell_id)  # asked for again: a finding is never overwritten
                _tell(host, "cell_started", cell)
                with Uninterrupted():
                    record = _run_one(cell, attempts, results, host, plugins, environment, trace, progress, one_model)
                    summary.ran.append(record)
                _tell(host, "cell_finished", record.cell, record.row)
                progress.finished(record, time.monotonic() - began)
            refuse_another()
            progress.round_ended(results)
        if reference:
            reference(len(summary.ran), len(todo))
    except KeyboardInterrupt:
        summary.interrupted = True
    return summary


def _rounds(todo: Sequence[tuple[Cell, int]]) -> Iterator[list[tuple[Cell, int]]]:
    """Yield the cells of one seed after those of another, in the plan's order."""
    for _, group in itertools.groupby(todo, key=lambda item: item[0].seed):
        yield list(group)


def _run_one(
    cell: Cell,
    attempts: int,
    results: Results,
    host: Host,
    plugins: Sequence[str],
    environment: Json,
    trace: int | None,
    progress: Progress,
    one_model: bool,
) -> Record:
    """Run a cell and write its record; an interruption leaves one that says so, as long as the cell has not ended."""
    began_s = time.monotonic()
    telemetry, started = None, datetime.now(UTC)
    try:
        with Interruptible():
            cell, result = _admitted(cell, results, host, plugins)
            if result is None:
                result, telemetry = _run_watched(cell, results, host, plugins, trace, progress)
    except KeyboardInterrupt:
        interrupted = Result.ended_by(Cause.INTERRUPT, f"stopped by {what_came()}; run the same command to continue")
        results.write_record(*make_record(cell, interrupted, None, environment, attempts))
        raise
    if result.cause is Cause.WORKLOAD and one_model:
        raise InputError([result.reason])  # no strategy will do better
    if result.cause is Cause.MACHINE:
        # No record: the cell was not tried, and runs as soon as the machine can.
        raise MachineError(result.reason)
    record, tables = make_record(cell, result, telemetry, environment, attempts + 1)
    record = replace(
        with_utilisation(with_memory(record, host), host),
        started=started.isoformat(timespec="seconds"),
        took_s=time.monotonic() - began_s,
    )
    results.write_record(record, tables)
    if trace and result.outcome is not None:
        write_trace(results, cell, result.outcome, trace)
    return record


def _admitted(cell: Cell, results: Results, host: Host, plugins: Sequence[str]) -> tuple[Cell, Result | None]:
    """Return the cell as it is to run, and what ends it before it starts: whatever it is, it ends this cell only."""
    if cell.not_possible:
        return cell, Result.ended_by(Cause.IMPOSSIBLE, cell.not_possible)
    try:
        cell, verdict = admit(cell, host, plugins)
    except Exception as error:
        log = results.new_log(cell.cell_id)
        log.write_text(bounded("".join(traceback.format_exception(error))), encoding="utf-8")
        return cell, Result(failure=explain(error, own_files(cell, plugins)))
    return cell, Result.ended_by(Cause.MEMORY, verdict) if verdict else None


def _tell(host: Host, method: str, *facts: Any) -> None:
    """Call a method of every listener.

    Raises:
        PluginError: a listener raised something of its own.
    """
    for listener in host.listeners:
        try:
            getattr(listener, method)(*facts)
        except Exception as error:
            raise PluginError(f"{type(listener).__name__}.{method}: {describe(error)}") from error


def _run_watched(
    cell: Cell, results: Results, host: Host, plugins: Sequence[str], trace: int | None, progress: Progress
) -> tuple[Result, Telemetry | None]:
    """Run a cell with telemetry beside it."""
    log = results.new_log(cell.cell_id)
    options = {"trace": steps_to_record(cell, trace)} if trace else {}
    watch = _Watch(cell, list(host.probes.values()))
    try:
        timed = run_in_this_process(cell, host, plugins, log, options.get("trace")) if cell.timing_only else None
        result = timed or run_cell(
            cell, plugins, log=str(log), options=options, on_start=watch.start, on_progress=progress.reached
        )
    finally:
        watch.stop()
        bound_log(log)
    if trace and cell.engine == "real" and result.outcome is not None:
        result.outcome.notes.append(TRACED)
    return result, watch.telemetry


class _Watch:
    """The sampler of one cell; virtual cells have none, since this machine's DRAM is not the virtual cluster's."""

    def __init__(self, cell: Cell, probes: list[Any]) -> None:
        self.cell, self.probes = cell, probes
        self.sampler: Sampler | None = None
        self.telemetry: Telemetry | None = None
        self.around = ExitStack()
        self.others: Callable[[], int | None] = lambda: None
        self.before: MachineCounters | None = None

    def start(self, processes: list[tuple[int, str, str]]) -> None:
        """Begin to sample; called when the processes are ready and training has not started."""
        from harness.engines.telemetry import Target

        if self.cell.engine == "virtual":
            return
        if self.cell.device == "cpu":
            self.others = self.around.enter_context(measuring_here())
        targets = [Target(pid, label, device) for pid, label, device in processes]
        self.sampler = Sampler(fork_server(self.cell), targets, self.cell.measure.telemetry_interval_s, self.probes)
        self.sampler.start()
        self.sampler.ready(timeout_s=5.0)
        self.before = MachineCounters.now()

    def stop(self) -> None:
        """End the sampler and keep what it saw, and what else went on."""
        with self.around:
            around = MachineCounters.now().since(self.before) if self.before else {}
            around |= {Disturbance.OTHER_RUN: self.others()}
            if self.sampler is not None:
                self.telemetry = replace(self.sampler.stop(timeout_s=5.0), around=around)
                self.sampler = None


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
