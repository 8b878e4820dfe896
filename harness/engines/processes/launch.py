"""Start the processes of a cell, watch them, and bring home what they say. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.addresses import name_of
from harness.core.endings import Cause, Status
from harness.core.failure import Failure
from harness.core.faults import can_go_on
from harness.core.records import Json
from harness.core.text import Text
from harness.engines.processes.forking import end_all, fork_server, sources_of, sweep, temporary_folder
from harness.engines.processes.process import Job, run_process
from harness.engines.processes.slots import Descriptor, make_slot_file
from harness.engines.processes.status import Reached, StatusBoard
from harness.engines.shared.waits import Wait

if TYPE_CHECKING:
    from harness.core.cell import Cell

DEADLOCK_S = 5.0
"""All processes waiting for messages for so long, with none under way, is a deadlock; chosen: pipes deliver in
microseconds, so that anything above scheduling hiccups will do."""

GRACE_S = 3.0
"""Time for the other processes to leave after one has failed, before they are ended; chosen."""

_BLAMED_FIRST = (
    *(
        Cause.MACHINE,
        Cause.WORKLOAD,
        Cause.IMPOSSIBLE,
        Cause.USER,
        Cause.DEADLOCK,
        Cause.FAULT,
        Cause.MEMORY,
        Cause.HARNESS,
    ),
    Cause.PEER,
)
"""Of several processes that failed: an error of one's own brings about the complaints that a peer has gone."""


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
    answer: Any = None
    failure: Failure | None = None
    death: Json | None = None
    ready: bool = False
    checksum: str = ""
    gone: bool = False

    @property
    def silent(self) -> bool:
        """Whether it went without saying anything."""
        return self.gone and self.answer is None and self.failure is None


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
        self.context, self.sources = fork_server(cell, plugins, log), sources_of(cell)
        self.folder = temporary_folder()
        self.children: list[_Child] = []
        self.board: StatusBoard | None = None
        self.descriptors: list[int] = []
        self.lost: dict[str, str] = {}
        self.started_s = 0.0

    # -- starting ------------------------------------------------------------------------------------------------

    def run(self, on_start: Callable[[list[tuple[int, str, str]]], None] | None) -> Result:
        """Start, release at one moment, watch to the end."""
        deadline = time.monotonic() + self.cell.cell_timeout_s
        jobs = [self._job("virtual")] if self.cell.engine == "virtual" else self._real_jobs()
        self.board = StatusBoard(len(jobs))
        for job in jobs:
            self._start(job, len(jobs))
        self._close_descriptors()
        result = self._watch(deadline, until=lambda: all(child.ready for child in self._live()))
        result = result or self._other_data()
        if result is None:
            targets = [(c.process.pid, c.label, c.job.device) for c in self.children]
            if on_start is not None:
                on_start(targets)
            self._release()
            result = self._watch(deadline, until=lambda: not self._live())
        return result or self._finished()

    def _start(self, job: Job, lines: int) -> None:
        mine, theirs = self.context.Pipe()
        job.lines, job.label = lines, _label(job)
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

    def _watch(self, deadline: float, until: Callable[[], bool]) -> Result | None:
        """Wait, without polling faster than twice a second, until a condition holds or something goes wrong."""
        while not until():
            waitable = [child.control for child in self._live()]
            left = deadline - time.monotonic()
            if left <= 0:
                return Result.ended_by(Cause.TIMEOUT, self._timeout_reason())
            ready = connection.wait(waitable, timeout=min(left, 0.5))
            for child in self._live():
                if child.control in ready:
                    self._hear(child)
            trouble = self._trouble()
            if trouble is not None:
                return trouble
            if self.on_progress is not None and self.board is not None:
                self.on_progress(self.board.reached(0))
        return None

    def _hear(self, child: _Child) -> None:
        try:
            kind, content = child.control.recv()
        except (EOFError, OSError):
            child.gone = True
            return
        if kind == "ready":
            child.ready, child.checksum = True, content.get("data", "")
        elif kind == "done":
            child.answer = content
        elif kind == "died":
            child.death, child.answer = content, content["answer"]
        else:
            child.failure = content

    def _trouble(self) -> Result | None:
        failed = [c for c in self.children if c.failure is not None]
        if failed:
            return Result(failure=self._first_failure())
        for child in self.children:
            if child.gone and (child.answer is None or child.death) and child.label not in self.lost:
                if not self._may_go_on_without(child):
                    return Result(failure=self._loss(child))
                self.lost[child.label] = self._words_of_loss(child, goes_on=True)
        return self._deadlock()

    def _loss(self, child: _Child) -> Failure:
        """Return the failure that a process which has gone is to the others."""
        cause = Cause.KILLED if child.death is None else Cause.FAULT
        return Failure(cause, Text(self._words_of_loss(child, goes_on=False)), child.job.line)

    def _words_of_loss(self, child: _Child, goes_on: bool) -> str:
        from harness.engines.shared.fault_draws import words_of_loss

        child.process.join(GRACE_S)
        if child.death is not None:
            return words_of_loss(self.cell, child.death["rank"], child.death["when"], alone=not goes_on)[1]
        return (
            f"{child.label} died; the others went on" if goes_on else f"{child.label} {_ending(child.process.exitcode)}"
        )

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
        """Wait a moment for the others' view: the first cause is rarely the complaint that a peer has gone."""
        until = time.monotonic() + GRACE_S
        while self._live() and time.monotonic() < until:
            ready = connection.wait([c.control for c in self._live()], timeout=0.1)
            for child in self._live():
                if child.control in ready:
                    self._hear(child)
            if any(c.failure is not None and c.failure.cause is not Cause.PEER for c in self.children):
                break
        killed = self._killed()
        if killed is not None:
            return self._loss(killed)
        failed = [(c, c.failure) for c in self.children if c.failure is not None]
        child, failure = min(failed, key=lambda each: _BLAMED_FIRST.index(each[1].cause))
        silent = [c for c in self.children if c.silent]
        if failure.cause is Cause.PEER and silent:
            return self._loss(silent[0])
        if failure.cause.of_whole_cell or len(self.children) == 1:
            return failure
        return replace(failure, reason=Text(f"{child.label}: {failure.reason}"))

    def _killed(self) -> _Child | None:
        """Return a process that a signal ended: what others raise, who got no more from it, follows from that.

        Its end and their complaints may be heard in either order.
        """
        for child in self._live():
            if child.control.poll(0):
                self._hear(child)
        for child in self.children:
            if child.silent and child.label not in self.lost:
                child.process.join(GRACE_S)
                if (child.process.exitcode or 0) < 0:
                    return child
        return None

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
        words = [f"{c.label} waits in {w.words} from {w.since_s - self.started_s:.3g} s on" for c, w in stuck]
        return Result.ended_by(Cause.DEADLOCK, "deadlock: " + "; ".join(words), stuck[0][0].job.line)

    def _timeout_reason(self) -> str:
        limit = self.cell.cell_timeout_s
        waits = [(c, self.board.read(c.job.line)) for c in self._live()] if self.board is not None else []
        words = [f"{c.label} waits in {w.words}" for c, w in waits if w is not None]
        return f"not finished after {limit:g} s (limits.cell_timeout)" + ("; " + ", ".join(words) if words else "")

    # -- the end -------------------------------------------------------------------------------------------------

    def _finished(self) -> Result:
        for child in self.children:
            child.process.join(GRACE_S)
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
        for child in self.children:
            child.process.join(1.0)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
            child.control.close()
        sweep()
        self._close_descriptors()
        if self.board is not None:
            self.board.close()
        self.folder.cleanup()


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


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        import signal

        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} without a word"
