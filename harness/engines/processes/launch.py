"""Start the processes of a cell, watch them, and bring home what they say. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, reduction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.faults import can_go_on
from harness.engines.processes.process import Job, run_process
from harness.engines.processes.slots import make_slot_file
from harness.engines.processes.status import StatusBoard

if TYPE_CHECKING:
    from harness.core.cell import Cell

PRELOADED = [
    "torch",
    "torch._dynamo",
    "torch.distributed",
    "torch.nn.parallel",
    "harness.engines.shared.setup",
    "harness.engines.virtual.engine",
    "harness.engines.real.endpoints",
    "harness.workloads.data",
    "harness.workloads.nets",
    "harness.workloads.losses",
    "harness.engines.telemetry.sampler",
]
"""What the fork server imports once, so that a cell starts in a tenth of a second instead of five."""

DEADLOCK_S = 5.0
"""All processes waiting for messages for so long, with none under way, is a deadlock; chosen: pipes deliver in
microseconds, so that anything above scheduling hiccups will do."""

GRACE_S = 3.0
"""Time for the other processes to leave after one has failed, before they are ended; chosen."""


@dataclass
class Result:
    """How a cell's processes ended.

    Attributes:
        status: "finished", or the status that the record will have.
        outcome: the merged outcome, where it finished.
        whose: "user" (the fault of a plugin or the machine), "harness" (ours).
        targets: (pid, label, device) of every process.
    """

    status: str
    reason: str = ""
    outcome: Any = None
    whose: str = ""
    targets: list[tuple[int, str, str]] = field(default_factory=list)
    started_s: float = 0.0


@dataclass
class _Child:
    job: Job
    process: Any
    control: connection.Connection
    label: str
    answer: Any = None
    failure: dict[str, Any] | None = None
    death: dict[str, Any] | None = None
    ready: bool = False
    gone: bool = False


def fork_server() -> Any:
    """Return the context that every cell's processes come from, its server started and warm."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def run_cell(
    cell: Cell,
    plugins: Sequence[str] = (),
    *,
    log: str = "",
    options: dict[str, Any] | None = None,
    on_start: Callable[[list[tuple[int, str, str]]], None] | None = None,
) -> Result:
    """Run one cell in processes of its own.

    Args:
        log: file that the processes' output is appended to.
        options: passed on to the engine (tests replay logs this way).
        on_start: called with (pid, label, device) of all processes just before training starts.
    """
    supervisor = _Supervisor(cell, [str(p) for p in plugins], log, options or {})
    try:
        return supervisor.run(on_start)
    finally:
        supervisor.clean_up()


class _Supervisor:
    """Holds the processes of one cell; a context that must be cleaned up, whatever happens."""

    def __init__(self, cell: Cell, plugins: list[str], log: str, options: dict[str, Any]) -> None:
        self.cell, self.plugins, self.log, self.options = cell, plugins, log, options
        self.context = fork_server()
        self.folder = tempfile.TemporaryDirectory(prefix="harness-")
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
        job.status = _Descriptor(self.board.descriptor)
        process = self.context.Process(target=run_process, args=(job, theirs), daemon=True)
        process.start()
        theirs.close()  # with no copy of its end here, a dead child is the end of the pipe
        for pipe in job.pipes.values():
            pipe.close()
        self.children.append(_Child(job, process, mine, job.label))

    def _release(self) -> None:
        self.started_s = time.monotonic()
        for child in self.children:
            with contextlib.suppress(OSError):
                child.control.send(self.started_s)

    def _job(self, kind: str, **fields: Any) -> Job:
        return Job(
            self.cell.to_dict(),
            self.plugins,
            kind,
            log=self.log,
            environment=dict(os.environ),
            options=self.options,
            **fields,
        )

    def _real_jobs(self) -> list[Job]:
        cell = self.cell
        devices = cell.gpus // cell.workers
        # Workers that hold the model meet at marks; where the server holds it they never do, and one may die.
        together = devices > 1 or (cell.workers > 1 and not cell.server_counts)
        rendezvous = str(Path(self.folder.name) / "store") if together else ""
        jobs = []
        for number in range(cell.gpus):
            worker, device_rank = divmod(number, devices)
            place = {"rendezvous": rendezvous, "group_rank": number, "group_size": cell.gpus if together else 1}
            device = f"cuda:{number % self._gpus_present()}" if cell.device == "cuda" else "cpu"
            jobs.append(
                self._job("worker", address=worker, device_rank=device_rank, device=device, line=number, **place)
            )
        jobs += [self._job("server", address=-1 - k, line=cell.gpus + k) for k in range(cell.servers)]
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
                a.slots[b.address] = (_Descriptor(there), _Descriptor(back))
                b.slots[a.address] = (_Descriptor(back), _Descriptor(there))

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
                return Result("timeout", self._timeout_reason(), whose="user")
            ready = connection.wait(waitable, timeout=min(left, 0.5))
            for child in self._live():
                if child.control in ready:
                    self._hear(child)
            trouble = self._trouble()
            if trouble is not None:
                return trouble
        return None

    def _hear(self, child: _Child) -> None:
        try:
            kind, content = child.control.recv()
        except (EOFError, OSError):
            child.gone = True
            return
        if kind == "ready":
            child.ready = True
        elif kind == "done":
            child.answer = content
        elif kind == "died":
            child.death, child.answer = content, content["answer"]
        else:
            child.failure = content

    def _trouble(self) -> Result | None:
        failed = [c for c in self.children if c.failure is not None]
        if failed:
            return self._failure(failed)
        for child in self.children:
            if child.gone and (child.answer is None or child.death) and child.label not in self.lost:
                goes_on, words = self._loss(child)
                if not goes_on:
                    return Result("crashed", words, whose="user")
                self.lost[child.label] = words
        return self._deadlock()

    def _loss(self, child: _Child) -> tuple[bool, str]:
        """Return whether the others go on without a process that has gone, and that in words."""
        from harness.engines.shared.fault_draws import words_of_loss

        child.process.join(GRACE_S)
        goes_on = self._may_go_on_without(child)
        if child.death is not None:
            rank, when = child.death["rank"], child.death["when"]
            return goes_on, words_of_loss(self.cell, rank, when, alone=not goes_on)[1]
        ending = f"{child.label} {_ending(child.process.exitcode)}"
        return goes_on, f"{child.label} died; the others went on" if goes_on else ending

    def _may_go_on_without(self, child: _Child) -> bool:
        """An asynchronous strategy goes on as long as a worker and its servers live."""
        workers = [c for c in self.children if c.job.kind == "worker" and not c.death and (c.answer or not c.gone)]
        return (
            can_go_on(self.cell.synchrony, self.cell.server_counts)
            and child.job.kind == "worker"
            and bool(workers)
            and self.started_s > 0
        )

    def _failure(self, failed: list[_Child]) -> Result:
        """Wait a moment for the others' view: the first cause is rarely the complaint that a peer has gone."""
        until = time.monotonic() + GRACE_S
        while self._live() and time.monotonic() < until:
            ready = connection.wait([c.control for c in self._live()], timeout=0.1)
            for child in self._live():
                if child.control in ready:
                    self._hear(child)
            if any(c.failure is not None and c.failure["whose"] != "peer" for c in self.children):
                break
        killed = self._killed()
        if killed is not None:
            return Result("crashed", self._loss(killed)[1], whose="user")
        failed = [c for c in self.children if c.failure is not None]
        order = {"machine": 0, "user": 1, "memory": 2, "harness": 3, "peer": 4}
        child = min(failed, key=lambda c: order[c.failure["whose"]])  # type: ignore[index]
        assert child.failure is not None
        silent = [c for c in self.children if c.gone and c.answer is None and c.failure is None]
        if child.failure["whose"] == "peer" and silent:
            return Result("crashed", self._loss(silent[0])[1], whose="user")
        status = "out-of-memory" if child.failure["whose"] == "memory" else "crashed"
        prefix = f"{child.label}: " if len(self.children) > 1 else ""
        return Result(status, prefix + child.failure["reason"], whose=child.failure["whose"])

    def _killed(self) -> _Child | None:
        """Return a process that a signal ended: what others raise, who got no more from it, follows from that.

        Its end and their complaints may be heard in either order.
        """
        for child in self._live():
            if child.control.poll(0):
                self._hear(child)
        for child in self.children:
            silent = child.gone and child.answer is None and child.failure is None
            if silent and child.label not in self.lost:
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
        if not live or len(stuck) < len(live) or not any(w.word.startswith("receive") for _, w in stuck):
            return None
        words = [f"{c.label} waits in {w.word} since {w.since_s - self.started_s:.3g} s" for c, w in stuck]
        return Result("crashed", "deadlock: " + "; ".join(words), whose="user")

    def _timeout_reason(self) -> str:
        limit = self.cell.cell_timeout_s
        waits = [(c, self.board.read(c.job.line)) for c in self._live()] if self.board is not None else []
        words = [f"{c.label} waits in {w.word}" for c, w in waits if w is not None]
        return f"not finished after {limit:g} s (limits.cell_timeout)" + ("; " + ", ".join(words) if words else "")

    # -- the end -------------------------------------------------------------------------------------------------

    def _finished(self) -> Result:
        for child in self.children:
            child.process.join(GRACE_S)
        targets = [(c.process.pid, c.label, c.job.device) for c in self.children]
        answers = [c.answer for c in self.children if c.answer is not None]
        if self.cell.engine == "virtual":
            return Result("finished", outcome=answers[0], targets=targets, started_s=self.started_s)
        from harness.engines.real.merge import merge

        outcome = merge(answers, self.cell)
        outcome.notes += self.lost.values()
        return Result("finished", outcome=outcome, targets=targets, started_s=self.started_s)

    def clean_up(self) -> None:
        """End whatever still lives: terminate, wait, kill."""
        for child in self.children:
            if child.process.is_alive():
                child.process.terminate()
        for child in self.children:
            child.process.join(1.0)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
            child.control.close()
        self._close_descriptors()
        if self.board is not None:
            self.board.close()
        self.folder.cleanup()


class _Descriptor:
    """A file descriptor that is duplicated into the child when its process starts."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> Any:
        return _rebuild, (reduction.DupFd(self._descriptor),)


def _rebuild(duplicate: Any) -> Any:
    return duplicate


def _label(job: Job) -> str:
    if job.kind == "virtual":
        return "virtual cluster"
    if job.kind == "server":
        return "server" if job.address == -1 else f"server {-1 - job.address}"
    of_several = job.cell["gpus"] > job.cell["workers"]
    return f"rank {job.line}" if of_several else f"worker {job.address}"


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        import signal

        return f"was killed by {signal.Signals(-code).name}"
    return f"ended with exit code {code} without a word"
