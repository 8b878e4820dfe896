"""Start the processes of a cell, watch them, and bring home what they say. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.addresses import name_of
from harness.core.endings import Cause, Status
from harness.core.failure import Failure, Hang
from harness.core.faults import can_go_on
from harness.core.records import Json
from harness.core.text import Text
from harness.engines.processes.blame import own_files
from harness.engines.processes.forking import end_all, fork_server, sources_of, sweep, temporary_folder
from harness.engines.processes.hearing import Ear, how_ended, reap, was_ended_for_memory
from harness.engines.processes.kernel_kills import kernel_kills
from harness.engines.processes.process import Job, run_process
from harness.engines.processes.slots import Descriptor, make_slot_file
from harness.engines.processes.stacks import ask, is_at_rest, is_stopped, line_in
from harness.engines.processes.status import Reached, StatusBoard
from harness.engines.shared.waits import Wait

if TYPE_CHECKING:
    from harness.core.cell import Cell

DEADLOCK_S = 5.0
"""All processes waiting for messages for so long, with none under way, is a deadlock; chosen: pipes deliver in
microseconds, so that anything above scheduling hiccups will do."""

GRACE_S = 3.0
"""Time for the other processes to leave after one has failed, before they are ended; chosen."""


@dataclass
class Result:
    """How a cell's processes ended.

    Attributes:
        outcome: the merged outcome, where they came to their end.
        failure: why they did not.
        targets: (pid, label, device) of every process.
    """

    outcome: Any = None
    failure: Failure | None = None
    targets: list[tuple[int, str, str]] = field(default_factory=list)
    started_s: float = 0.0

    @classmethod
    def ended_by(cls, cause: Cause, reason: str, process: int = 0) -> Result:
        """Return the result of a cell that something ended."""
        return cls(failure=Failure(cause, Text(reason), process))

    @property
    def finished(self) -> bool:
        """Whether training came to its end."""
        return self.failure is None

    @property
    def cause(self) -> Cause | None:
        """What ended the cell early, if anything did."""
        return self.failure.cause if self.failure is not None else None

    @property
    def status(self) -> Status | None:
        """The status that the record of a cell which did not finish will have."""
        return self.failure.cause.status if self.failure is not None else None

    @property
    def reason(self) -> Text:
        """Why it did not finish."""
        return self.failure.reason if self.failure is not None else Text("")


@dataclass
class _Child:
    job: Job
    process: Any
    control: connection.Connection
    label: str
    ear: Ear = field(init=False)
    answer: Any = None
    failure: Failure | None = None
    death: Json | None = None
    ready: bool = False
    checksum: str = ""
    gone: bool = False
    gone_s: float = 0.0

    def __post_init__(self) -> None:
        self.ear = Ear(self.control)

    @property
    def silent(self) -> bool:
        """Whether it went without saying anything."""
        return self.gone and self.answer is None and self.failure is None

    @property
    def killed_by(self) -> int:
        """Number of the signal that ended it; 0 where none did, or it lives."""
        return max(0, -(self.process.exitcode or 0))

    def hear(self) -> None:
        """Take in what it has said by now."""
        try:
            for kind, content in self.ear.words():
                self._take(kind, content)
        except (EOFError, OSError):
            self.gone, self.gone_s = True, time.monotonic()

    def _take(self, kind: str, content: Any) -> None:
        if kind == "ready":
            self.ready, self.checksum = True, content.get("data", "")
        elif kind == "done":
            self.answer = content
        elif kind == "died":
            self.death, self.answer = content, content["answer"]
        else:
            self.failure = content


def run_cell(
    cell: Cell,
    plugins: Sequence[str] = (),
    *,
    log: str = "",
    options: Json | None = None,
    on_start: Callable[[list[tuple[int, str, str]]], None] | None = None,
    on_progress: Callable[[Reached], None] | None = None,
) -> Result:
    """Run one cell in processes of its own.

    Args:
        log: file that the processes' output is appended to.
        options: passed on to the engine (tests replay logs this way).
        on_start: called with (pid, label, device) of all processes just before training starts.
        on_progress: called twice a second with how far the first process is.
    """
    supervisor = _Supervisor(cell, [str(p) for p in plugins], log, options or {}, on_progress)
    try:
        return supervisor.run(on_start)
    except KeyboardInterrupt:
        end_all()  # whoever was being started when it came is in no list yet
        raise
    finally:
        supervisor.clean_up()


class _Supervisor:
    """Holds the processes of one cell; a context that must be cleaned up, whatever happens."""

    def __init__(
        self,
        cell: Cell,
        plugins: list[str],
        log: str,
        options: Json,
        on_progress: Callable[[Reached], None] | None,
    ) -> None:
        self.cell, self.plugins, self.log, self.options = cell, plugins, log, options
        self.on_progress = on_progress
        self.context, self.sources = fork_server(cell, plugins, log, with_data=True), sources_of(cell)
        self.folder = temporary_folder()
        self.children: list[_Child] = []
        self.board: StatusBoard | None = None
        self.descriptors: list[int] = []
        self.lost: dict[str, str] = {}
        self.started_s = 0.0
        self.kernel_kills = kernel_kills()

    # -- starting ------------------------------------------------------------------------------------------------

    def run(self, on_start: Callable[[list[tuple[int, str, str]]], None] | None) -> Result:
        """Start, release at one moment, watch to the end.

        The cell's time counts from when its processes are there, and anew from when all are ready: a server that still
        imports torch is not the cell's, and loading and warming up is not its training.
        """
        jobs = [self._job("virtual")] if self.cell.engine == "virtual" else self._real_jobs()
        self.board = StatusBoard(len(jobs))
        for job in jobs:
            self._start(job, len(jobs))
        self._close_descriptors()
        result = self._watch(until=lambda: all(child.ready for child in self._live()))
        result = result or self._other_data()
        if result is None:
            targets = [(c.process.pid, c.label, c.job.device) for c in self.children]
            if on_start is not None:
                on_start(targets)
            self._release()
            result = self._watch(until=lambda: not self._live())
        return result or self._finished()

    def _start(self, job: Job, lines: int) -> None:
        mine, theirs = self.context.Pipe()
        job.lines, job.label, job.stack = lines, _label(job), str(self._stack_of(job))
        assert self.board is not None
        job.status = Descriptor(self.board.descriptor)
        # A daemon may have no children, such as the processes that read data ahead; the kernel ends it with us anyway.
        daemon = not self.cell.workload.loading.workers
        process = self.context.Process(target=run_process, args=(job, theirs), daemon=daemon)
        process.start()
        theirs.close()  # with no copy of its end here, a dead child is the end of the pipe
        for pipe in job.pipes.values():
            pipe.close()
        self.children.append(_Child(job, process, mine, job.label))

    def _other_data(self) -> Result | None:
        """Refuse processes that loaded other data than each other: each would train on its own."""
        first, *others = [child for child in self.children if child.checksum] or [self.children[0]]
        other = next((child for child in others if child.checksum != first.checksum), None)
        if other is None:
            return None
        name = self.cell.workload.dataset.name
        reason = (
            f"{name}: {first.label} and {other.label} loaded different data (checksums {first.checksum[:8]} and "
            f"{other.checksum[:8]}); the function must return the same each time: give its generator a fixed seed, as "
            "with numpy.random.default_rng(0)"
        )
        return Result.ended_by(Cause.USER, reason, other.job.line)

    def _release(self) -> None:
        self.started_s = time.monotonic()
        for child in self.children:
            with contextlib.suppress(OSError):
                child.control.send(self.started_s)

    def _job(self, kind: str, **fields: Any) -> Job:
        return Job(
            self.cell,
            self.plugins,
            kind,
            log=self.log,
            environment=dict(os.environ),
            options=self.options,
            sources=self.sources,
            **fields,
        )

    def _real_jobs(self) -> list[Job]:
        cell = self.cell
        devices = cell.gpus // cell.workers
        # Workers that hold the model meet at marks; where the server holds it they never do, and one may die.
        together = devices > 1 or (cell.workers > 1 and not cell.server_counts)
        rendezvous = str(Path(self.folder.name) / "store") if together else ""
        present = 1 if cell.device == "cpu" else self._gpus_present()
        jobs = []
        for number in range(cell.gpus):
            worker, device_rank = divmod(number, devices)
            place = {"rendezvous": rendezvous, "group_rank": number, "group_size": cell.gpus if together else 1}
            device = _device_of(cell, number % present)
            jobs.append(
                self._job("worker", address=worker, device_rank=device_rank, device=device, line=number, **place)
            )
        evaluates_on = _device_of(cell, 0)
        jobs += [
            self._job("server", address=-1 - k, line=cell.gpus + k, evaluates_on=evaluates_on)
            for k in range(cell.servers)
        ]
        self._connect(jobs)
        return jobs

    def _gpus_present(self) -> int:
        from harness.scenario.plan import detect_machine

        return max(1, detect_machine().gpus)

    def _connect(self, jobs: list[Job]) -> None:
        """Give every pair of endpoints a pipe, and each direction its slots."""
        endpoints = [job for job in jobs if job.device_rank == 0]
        if self.cell.gpus != self.cell.workers:
            return  # one worker of several devices has nobody to write to
        for i, a in enumerate(endpoints):
            for b in endpoints[i + 1 :]:
                a.pipes[b.address], b.pipes[a.address] = self.context.Pipe()
                there, back = make_slot_file(), make_slot_file()
                self.descriptors += [there, back]
                a.slots[b.address] = (Descriptor(there), Descriptor(back))
                b.slots[a.address] = (Descriptor(back), Descriptor(there))

    def _close_descriptors(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        self.descriptors.clear()

    # -- watching ------------------------------------------------------------------------------------------------

    def _live(self) -> list[_Child]:
        return [child for child in self.children if not child.gone]

    def _watch(self, until: Callable[[], bool]) -> Result | None:
        """Wait, without polling faster than twice a second, until a condition holds or something goes wrong."""
        deadline = time.monotonic() + self.cell.cell_timeout_s
        while not until():
            left = deadline - time.monotonic()
            if left <= 0:
                return Result(failure=self._too_late())
            self._hear(min(left, 0.5))
            trouble = self._trouble()
            if trouble is not None:
                return trouble
            if self.on_progress is not None and self.board is not None:
                self.on_progress(self.board.reached(0))
        return None

    def _hear(self, seconds: float) -> None:
        """Hear who has something to say, waiting at most so long for anybody."""
        ready = connection.wait([child.control for child in self._live()], timeout=seconds)
        for child in self._live():
            if child.control in ready:
                child.hear()

    def _trouble(self) -> Result | None:
        failed = [c for c in self.children if c.failure is not None]
        if failed:
            return Result(failure=self._first_failure())
        for child in sorted(self.children, key=lambda child: child.gone_s):
            if child.gone and (child.answer is None or child.death) and child.label not in self.lost:
                if not self._may_go_on_without(child):
                    return Result(failure=self._loss(child))
                self.lost[child.label] = self._words_of_loss(child, goes_on=True)
        return self._deadlock()

    def _loss(self, child: _Child) -> Failure:
        """Return the failure that a process which has gone is to the others."""
        words = self._words_of_loss(child, goes_on=False)
        if child.death is not None:
            cause = Cause.FAULT
        else:
            for_memory = was_ended_for_memory(child.process, self.kernel_kills)
            cause = Cause.MEMORY if for_memory else Cause.KILLED
        return Failure(cause, Text(words), child.job.line)

    def _words_of_loss(self, child: _Child, goes_on: bool) -> str:
        from harness.engines.shared.fault_draws import words_of_loss

        child.process.join(GRACE_S)
        if child.death is not None:
            return words_of_loss(self.cell, child.death["rank"], child.death["when"], alone=not goes_on)[1]
        why = how_ended(child.process, self.kernel_kills)
        return f"{child.label} {why}{'; the others went on' if goes_on else ''}"

    def _may_go_on_without(self, child: _Child) -> bool:
        """An asynchronous strategy goes on as long as a worker and its servers live."""
        workers = [c for c in self.children if c.job.kind == "worker" and not c.death and (c.answer or not c.gone)]
        return (
            can_go_on(self.cell.synchrony, self.cell.server_counts)
            and child.job.kind == "worker"
            and bool(workers)
            and self.started_s > 0
        )

    def _first_failure(self) -> Failure:
        """Wait a moment for the others' view, and return what came first: others complain of what follows from it."""
        until = time.monotonic() + GRACE_S
        while self._live() and time.monotonic() < until and not any(map(_has_own_cause, self.children)):
            self._hear(0.1)
        self._hear(0)  # a process's end and the complaints of those who lost it may be heard in either order
        failed = [(c, c.failure) for c in self.children if c.failure is not None]
        child, failure = min(failed, key=lambda each: (_follows(each[1]), each[1].at_s))
        dead = self._first_dead()
        if dead is not None and (_follows(failure) or dead.gone_s < failure.at_s or _is_no_answer(dead)):
            return self._loss(dead)
        if failure.cause.of_whole_cell or len(self.children) == 1:
            return failure
        return replace(failure, reason=Text(f"{child.label}: {failure.reason}"))

    def _first_dead(self) -> _Child | None:
        """Return the first process that went without a word and was not done without."""
        silent = [c for c in self.children if c.silent and c.label not in self.lost]
        for child in silent:
            child.process.join(GRACE_S)
        return min(silent, key=lambda child: (not _is_no_answer(child), child.gone_s), default=None)

    def _deadlock(self) -> Result | None:
        """Find that everybody has waited for a message for a while: then none can come any more."""
        if self.started_s == 0 or self.board is None:
            return None
        live = [c for c in self._live() if c.answer is None]
        waits = [(c, self.board.read(c.job.line)) for c in live]
        now = time.monotonic()
        stuck = [(c, w) for c, w in waits if w is not None and now - w.since_s > DEADLOCK_S]
        if not live or len(stuck) < len(live) or not any(w.wait is Wait.RECEIVE for _, w in stuck):
            return None
        # One that is stopped, or gets no processor, may have its message and not have taken it yet.
        if not all(is_at_rest(c.process.pid) for c in live):
            return None
        words = [f"{c.label} waits in {w.words} from {w.since_s - self.started_s:.3g} s on" for c, w in stuck]
        return Result.ended_by(Cause.DEADLOCK, "deadlock: " + "; ".join(words), stuck[0][0].job.line)

    def _too_late(self) -> Failure:
        """Ask who has not ended where he is; the stacks go to the log, a sentence and the lines into the record."""
        late = [child for child in self._live() if child.answer is None]
        stopped = [is_stopped(child.process.pid) for child in late]
        waits = [self.board.read(child.job.line) if self.board is not None else None for child in late]
        stacks = ask([(child.process.pid, self._stack_of(child.job)) for child in late])
        self._keep({child.label: stack for child, stack in zip(late, stacks, strict=True)})
        own = own_files(self.cell, self.plugins)
        hangs = []
        for child, is_still, waited, stack in zip(late, stopped, waits, stacks, strict=True):
            line, function = line_in(stack, own) or (None, "")
            hangs.append(Hang(child.label, is_still, waited.words if waited else "", line, function))
        return too_late(hangs, "finished" if self.started_s else "ready to train", self.cell)

    def _stack_of(self, job: Job) -> Path:
        return Path(self.folder.name) / f"stack-{job.line}"

    def _keep(self, stacks: dict[str, str]) -> None:
        """Write stacks into the cell's log."""
        if not self.log:
            return
        with open(self.log, "a", encoding="utf-8") as log:
            for label, stack in stacks.items():
                log.write(f"\n{label} when its time was up:\n{stack.strip() or 'no answer'}\n")

    # -- the end -------------------------------------------------------------------------------------------------

    def _finished(self) -> Result:
        reap([child.process for child in self.children], GRACE_S)
        targets = [(c.process.pid, c.label, c.job.device) for c in self.children]
        answers = [c.answer for c in self.children if c.answer is not None]
        if self.cell.engine == "virtual":
            answers[0].notes += self._note_of_import()
            return Result(outcome=answers[0], targets=targets, started_s=self.started_s)
        from harness.engines.real.merge import merge

        outcome = merge(answers, self.cell)
        outcome.notes += [*self.lost.values(), *self._note_of_import()]
        return Result(outcome=outcome, targets=targets, started_s=self.started_s)

    def _note_of_import(self) -> list[str]:
        return [self.context.note] if self.context.note else []

    def clean_up(self) -> None:
        """End whatever still lives: terminate, wait, kill; then what they have left behind."""
        for child in self.children:
            if child.process.is_alive():
                child.process.terminate()
        reap([child.process for child in self.children], patience_s=1.0)
        for child in self.children:
            child.control.close()
        sweep()
        self._close_descriptors()
        if self.board is not None:
            self.board.close()
        self.folder.cleanup()


def _follows(failure: Failure) -> bool:
    """Whether a failure may be what another process's end brought about."""
    return failure.cause is Cause.PEER or failure.follows


def _has_own_cause(child: _Child) -> bool:
    return child.failure is not None and not _follows(child.failure)


def _is_no_answer(child: _Child) -> bool:
    """Whether a signal ended a process that nothing sends by itself: torch aborts where it has lost a peer."""
    return child.killed_by not in (0, signal.SIGABRT)


def too_late(hangs: Sequence[Hang], what: str, cell: Cell) -> Failure:
    """Return the failure of a cell that is not `what` in time."""
    limit = f"not {what} after {cell.cell_timeout_s:g} s (limits.cell_timeout)"
    return Failure(Cause.TIMEOUT, Text("; ".join([limit, *_hanging(hangs)])), hangs=tuple(hangs))


def _hanging(hangs: Sequence[Hang]) -> list[str]:
    """Return who hangs and in what, processes in the same place together."""
    from harness.core.words import listed

    by_place: dict[tuple[str, str], list[str]] = {}
    for hang in hangs:
        by_place.setdefault(_place(hang), []).append(hang.process)
    return [f"{listed(names)} {place[len(names) > 1]}" for place, names in by_place.items()]


def _place(hang: Hang) -> tuple[str, str]:
    """Return what is said of one process that hangs, and of several."""
    if hang.stopped:
        return "is stopped", "are stopped"
    if hang.waits:
        return f"waits in {hang.waits}", f"wait in {hang.waits}"
    if hang.line is not None:
        at = f"in {hang.line.file}:{hang.line.number}, {hang.function}"
        return f"is {at}", f"are {at}"
    return "does not answer", "do not answer"


def _device_of(cell: Cell, number: int) -> str:
    """Return what torch calls a device of the cell's kind."""
    return cell.device if cell.device == "cpu" else f"{cell.device}:{number}"


def _label(job: Job) -> str:
    if job.kind == "virtual":
        return "virtual cluster"
    if job.kind == "server":
        return name_of(job.address)
    of_several = job.cell.gpus > job.cell.workers
    return f"rank {job.line}" if of_several else name_of(job.address)
