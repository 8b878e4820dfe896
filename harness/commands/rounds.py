"""Run what is missing of a plan, round by round: an executor runs the cells, and each record is stored as it ends."""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeGuard

from harness.api.host import Host
from harness.core.cell import Cell, Plan
from harness.core.disturbances import NOISY
from harness.core.endings import Cause, Status
from harness.core.environment import describe_environment
from harness.core.errors import InputError, MachineError
from harness.core.interrupts import Interruptible, Uninterrupted
from harness.core.leases import Lease, Leases
from harness.core.records import Json
from harness.engines.processes.forking import sources_of
from harness.engines.processes.status import Reached
from harness.executors.one_by_one import OneByOne
from harness.executors.protocol import CellExecutor, CellTask, Ended, Whereabouts
from harness.executors.run_one import interrupted
from harness.executors.store_ended import store_ended
from harness.results.store import Record, Results, Superseded

OTHERS_S = 1.0
"""Between two looks at cells that other harnesses run; chosen: those who wait cost nothing."""


class Progress(Protocol):
    """What the runner tells whoever watches."""

    def started(self, cell: Cell, number: int, of: int) -> None:
        """A cell is about to run, beside others perhaps."""

    def reached(self, cell: Cell, reached: Reached) -> None:
        """A running cell is so far."""

    def finished(self, record: Record, seconds: float) -> None:
        """A cell has its record."""

    def elsewhere(self, record: Record, of: int) -> None:
        """A cell has its record from another harness."""

    def waiting(self, num_cells: int) -> None:
        """Nothing is left to run here; other harnesses run so many cells."""

    def round_ended(self, results: Results) -> None:
        """All points have one seed more."""


@dataclass
class Summary:
    """What a run did.

    Attributes:
        ran, kept: cells run now, and those that were there already.
        elsewhere: cells that other harnesses ran meanwhile.
        interrupted: whether Ctrl-C or another signal ended it; out_of_budget: whether limits.budget did.
    """

    ran: list[Record] = field(default_factory=list)
    kept: int = 0
    elsewhere: int = 0
    interrupted: bool = False
    out_of_budget: bool = False

    @property
    def stopped(self) -> bool:
        """Whether cells are left."""
        return self.interrupted or self.out_of_budget

    def then(self, after: Summary) -> Summary:
        """Return what both did, one after the other."""
        return Summary(
            [*self.ran, *after.ran],
            self.kept + after.kept,
            self.elsewhere + after.elsewhere,
            after.interrupted,
            after.out_of_budget,
        )

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
    executor: CellExecutor | None = None,
    retry: Sequence[str] = (),
    fresh: bool = False,
    budget_s: float | None = None,
    trace: int | None = None,
    refuse_another: Callable[[], None] = lambda: None,
    reference: Callable[[int, int], None] | None = None,
    leases: Leases | None = None,
) -> Summary:
    """Run the missing ones of `cells`; each record is on disk as soon as its cell has ended.

    Args:
        executor: what runs them, entered; None: this process, one after another.
        trace: steps of each cell to write a trace of.
        refuse_another: raises where the results folder is no longer the one that this run began with.
        reference: runs beside the cells what is due when so many of them all have ended.
        leases: of the results folder, so that others see what runs here; where they may work there too, a cell runs
            once, and this returns when all cells have ended, here or there.

    Raises:
        MachineError: the environment cannot do it (a data set is missing, say); what is finished stays.
        InputError: nothing of the only model can be trained.
    """
    todo = missing(cells, results, retry, fresh)
    run = _Run(
        executor or OneByOne(host),
        results,
        host,
        progress,
        tuple(map(str, plugins)),
        describe_environment(plan.machine),
        one_model=len({cell.workload.model.name for cell in cells}) == 1,
        fresh=fresh,
        deadline=None if budget_s is None else time.monotonic() + budget_s,
        trace=trace,
        refuse_another=refuse_another,
        reference=reference or (lambda *_: None),
        leases=leases,
        summary=Summary(kept=len(cells) - len(todo)),
    )
    return run.all(todo)


class _Due(NamedTuple):
    """A cell to run, of which round, with the number of earlier attempts."""

    round: int
    cell: Cell
    attempts: int


@dataclass
class _Running:
    """A task that was taken and has not ended.

    Attributes:
        started: whether it runs, and does not only wait for that.
    """

    task: CellTask
    round: int
    since_s: float
    lease: Lease | None = None
    started: bool = False

    @property
    def still_ours(self) -> Callable[[], bool]:
        """Return what makes sure that nobody else has taken the cell over."""
        return self.lease.confirm if self.lease is not None else lambda: True

    def release(self) -> None:
        """Let others see that the cell does not run here any more."""
        if self.lease is not None:
            self.lease.release()


@dataclass
class _Run:
    """One call of `run_cells`: hands out tasks, is told what goes on, and takes in what has ended.

    Signals are held back throughout, except while an executor waits and while code of others runs: what has ended is
    stored, and told, before an interrupt is raised.
    """

    executor: CellExecutor
    results: Results
    host: Host
    progress: Progress
    plugins: tuple[str, ...]
    environment: Json
    one_model: bool
    fresh: bool
    deadline: float | None
    trace: int | None
    refuse_another: Callable[[], None]
    reference: Callable[[int, int], None]
    leases: Leases | None
    summary: Summary
    of: int = 0
    rounds: list[int] = field(default_factory=list)  # cells that each has left
    running: dict[str, _Running] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    before: dict[str, Record | None] = field(default_factory=dict)  # records as they were when this began
    postponed: list[_Due] = field(default_factory=list)  # what others run

    def all(self, todo: Sequence[tuple[Cell, int]]) -> Summary:
        """Run what is to do, and say what was done."""
        self.of = len(todo)
        if self.leases is not None and self.leases.joins:
            self.before = {cell.cell_id: self.results.record(cell.cell_id) for cell, _ in todo}
        rounds = list(_rounds(todo, apart=self.executor.at_once > 1))
        self.rounds = [len(cells) for cells in rounds]
        left = [_Due(number, cell, attempts) for number, cells in enumerate(rounds) for cell, attempts in cells]
        try:
            with Uninterrupted():
                while left:
                    with contextlib.closing(self.executor.run(self.tasks(left), self)) as ending:
                        for ended in ending:
                            self.take(ended)
                    before, left, self.postponed = left, self.postponed, []
                    if left == before and not self.summary.out_of_budget:  # others run all that is left
                        with Interruptible():
                            self.progress.waiting(len(left))
                            time.sleep(OTHERS_S)
                if not self.summary.out_of_budget:
                    with Interruptible():
                        self.reference(len(self.summary.ran), self.of)
        except KeyboardInterrupt:
            self.summary.interrupted = True
            with Uninterrupted():
                begun = [] if self.executor.goes_on else [each for each in self.running.values() if each.started]
                for left_over in begun:
                    with contextlib.suppress(Superseded):
                        ended = interrupted(left_over.task)
                        self.results.write_record(ended.record, ended.tables, left_over.still_ours)
        finally:
            for left_over in self.running.values():
                left_over.release()
        return self.summary

    def tasks(self, left: Sequence[_Due]) -> Iterator[CellTask]:
        """Hand out what is to run next, its place made ready; an executor asks when it has room."""
        for due in left:
            cell = due.cell
            if self.deadline is not None and time.monotonic() >= self.deadline:
                self.summary.out_of_budget = True
                return
            self.refuse_another()
            lease = None
            if self.leases is not None and (lease := self.leases.take(cell.cell_id)) is None:
                self.postponed.append(due)
                continue
            stored = self.results.record(cell.cell_id)
            if lease is not None and self.is_news(stored):
                lease.release()
                self.take_note(due, stored)
                continue
            if self.fresh or (due.attempts == 0 and stored is not None and stored.status is not Status.INTERRUPTED):
                self.results.set_aside(cell.cell_id)  # asked for again: a finding is never overwritten
            log = "" if cell.not_possible else str(self.results.new_log(cell.cell_id))
            task = CellTask(cell, due.attempts, self.plugins, self.trace, self.environment, sources_of(cell), log)
            self.running[cell.cell_id] = _Running(task, due.round, time.monotonic(), lease)
            yield task

    def is_news(self, stored: Record | None) -> TypeGuard[Record]:
        """Whether another harness has run a cell since this run began."""
        if self.leases is None or not self.leases.joins or stored is None or stored.status is Status.INTERRUPTED:
            return False
        return stored != self.before[stored.cell.cell_id]

    def take_note(self, due: _Due, record: Record) -> None:
        """Count a cell that another harness has run."""
        self.summary.elsewhere += 1
        with Interruptible():
            self.progress.elsewhere(record, self.of)
            self.end_of(due.round)

    def started(self, task: CellTask, place: Whereabouts) -> None:
        """Tell that a task is about to run, and first run what measures the machine itself: nothing else runs now."""
        with Interruptible():
            if task.alone or self.executor.at_once == 1:
                self.reference(len(self.summary.ran), self.of)
            self.progress.started(task.cell, next(self.numbers), self.of)
            running = self.running[task.cell_id]
            running.since_s, running.started = time.monotonic(), True
            if running.lease is not None:
                running.lease.tell(where={"host": place.host, "process": place.process})
                running.lease.touch()
            for listener in self.host.listeners:
                listener.cell_started(task.cell)

    def reached(self, task: CellTask, reached: Reached) -> None:
        """Tell how far a task is."""
        lease = self.running[task.cell_id].lease
        if lease is not None and reached.steps:
            lease.tell(step=reached.steps)
        self.progress.reached(task.cell, reached)

    def take(self, ended: Ended) -> None:
        """Store what ended, and tell it.

        Raises:
            MachineError: the environment could not do it. There is no record: the cell was not tried, and runs as soon
                as the machine can.
            InputError: its model cannot be trained, and there is no other: no strategy will do better.
        """
        record = ended.record
        if record.cause is Cause.WORKLOAD and self.one_model:
            raise InputError([record.reason])
        if record.cause is Cause.MACHINE:
            raise MachineError(record.reason)
        was = self.running[ended.task.cell_id]
        try:
            if not ended.stored:
                store_ended(ended, self.results, was.still_ours)
        except Superseded:  # this harness was stopped for so long that another one took the cell over
            self.postponed.append(_Due(was.round, ended.task.cell, ended.task.attempts))
            return
        finally:
            was.release()
            del self.running[ended.task.cell_id]
        self.summary.ran.append(record)
        with Interruptible():
            for listener in self.host.listeners:
                listener.cell_finished(record.cell, record.row)
            self.progress.finished(record, time.monotonic() - was.since_s)
            self.end_of(was.round)

    def end_of(self, number: int) -> None:
        """Count a cell of a round as ended, and tell of the round where it was the last, and all before have ended."""
        open_before = next((at for at, left in enumerate(self.rounds) if left), len(self.rounds))
        self.rounds[number] -= 1
        open_now = next((at for at, left in enumerate(self.rounds) if left), len(self.rounds))
        if open_now > open_before:
            self.refuse_another()
            self.progress.round_ended(self.results)


def _rounds(todo: Sequence[tuple[Cell, int]], *, apart: bool) -> Iterator[list[tuple[Cell, int]]]:
    """Yield the cells of one seed after those of another, in the plan's order.

    Args:
        apart: within a round those of one engine after those of the other, because measured ones run alone.
    """
    for _, group in itertools.groupby(todo, key=lambda item: item[0].seed):
        cells = list(group)
        engines = list(dict.fromkeys(cell.engine for cell, _ in cells))
        yield sorted(cells, key=lambda item: engines.index(item[0].engine)) if apart else cells
