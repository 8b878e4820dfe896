"""Start the processes of a cell, watch them, and bring home what they say. Imports no torch."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.addresses import name_of
from harness.core.endings import Cause, Status
from harness.core.errors import MachineError
from harness.core.failure import Failure, Hang
from harness.core.faults import can_go_on
from harness.core.machine import Machine, nodes_filled
from harness.core.records import Json
from harness.core.text import Text
from harness.core.words import counted
from harness.engines.processes.blame import own_files
from harness.engines.processes.doors import lines_to_others
from harness.engines.processes.forking import end_all, sources_of
from harness.engines.processes.hearing import Ear
from harness.engines.processes.here import Departure, Here, endpoints_of
from harness.engines.processes.network import Meeting
from harness.engines.processes.node_words import Left, Start, Watch
from harness.engines.processes.nodes import NodeLost, Nodes, There, nodes_present
from harness.engines.processes.process import Job
from harness.engines.processes.slots import Descriptor
from harness.engines.processes.stacks import line_in
from harness.engines.processes.status import Reached
from harness.engines.shared.waits import Wait

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.engines.telemetry.sampler import Telemetry

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
        targets: (pid, label, device) of every process of this machine.
        elsewhere: by rank of other nodes: seconds that its clock is ahead, and the `Telemetry` of its processes.
    """

    outcome: Any = None
    failure: Failure | None = None
    targets: list[tuple[int, str, str]] = field(default_factory=list)
    started_s: float = 0.0
    elsewhere: dict[int, tuple[float, Telemetry]] = field(default_factory=dict)

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
    """A process of the cell, wherever it runs.

    Attributes:
        place: its machine.
        words: what it has said that others have to hear of.
    """

    job: Job
    place: Here | There
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
    words: list[tuple[str, float]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.ear = Ear(self.control)

    @property
    def silent(self) -> bool:
        """Whether it went without saying anything."""
        return self.gone and self.answer is None and self.failure is None

    def ended(self) -> Departure:
        """Return how it ended; waits a moment for that."""
        return self.place.how_ended(self.job.line, GRACE_S)

    def lose(self) -> None:
        """Count it as gone: its machine is."""
        self.gone, self.gone_s = True, time.monotonic()

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
        elif kind in ("still", "go on"):
            self.words.append((kind, content))
        elif kind == "died":
            self.death, self.answer = content, content["answer"]
        else:
            self.failure = content


@dataclass(frozen=True)
class Sampling:
    """What is sampled of processes on other nodes; whoever starts a cell samples those of this machine.

    Attributes:
        interval_s: between two samples.
        probes: by name.
    """

    interval_s: float
    probes: tuple[str, ...]


def run_cell(
    cell: Cell,
    plugins: Sequence[str] = (),
    *,
    log: str = "",
    options: Json | None = None,
    sampling: Sampling | None = None,
    on_start: Callable[[list[tuple[int, str, str]]], None] | None = None,
    on_progress: Callable[[Reached], None] | None = None,
) -> Result:
    """Run one cell in processes of its own.

    Args:
        log: file that the processes' output is appended to.
        options: passed on to the engine (tests replay logs this way).
        sampling: of processes on other nodes; None: nothing.
        on_start: called with (pid, label, device) of all processes of this machine just before training starts.
        on_progress: called twice a second with how far the first process is.
    """
    supervisor = _Supervisor(cell, [str(p) for p in plugins], log, options or {}, on_progress, sampling)
    try:
        result = supervisor.run(on_start)
    except KeyboardInterrupt:
        end_all()  # whoever was being started when it came is in no list yet
        raise
    finally:
        supervisor.clean_up()
    result.elsewhere = {
        rank: (supervisor.there[rank].node.offset_s, left.telemetry)
        for rank, left in supervisor.left.items()
        if left.telemetry is not None
    }
    return result


class _Supervisor:
    """Holds the processes of one cell; a context that must be cleaned up, whatever happens."""

    def __init__(
        self,
        cell: Cell,
        plugins: list[str],
        log: str,
        options: Json,
        on_progress: Callable[[Reached], None] | None,
        sampling: Sampling | None = None,
    ) -> None:
        self.cell, self.plugins, self.log, self.options = cell, plugins, log, options
        self.on_progress, self.sampling = on_progress, sampling
        self.sources = sources_of(cell)
        self.children: list[_Child] = []
        self.here: Here | None = None
        self.there: dict[int, There] = {}
        self.left: dict[int, Left] = {}
        self.lost: dict[str, str] = {}
        self.started_s = 0.0

    # -- starting ------------------------------------------------------------------------------------------------

    def run(self, on_start: Callable[[list[tuple[int, str, str]]], None] | None) -> Result:
        """Start, release at one moment, watch to the end.

        The cell's time counts from when its processes are there, and anew from when all are ready: a server that still
        imports torch is not the cell's, and loading and warming up is not its training.
        """
        jobs = [self._job("virtual")] if self.cell.engine == "virtual" else self._real_jobs()
        for job in jobs:
            job.label = _label(job)
        self.here = Here(self.cell, self.plugins, self.log, len(jobs))
        if any(job.node for job in jobs):
            self._start_on_nodes(self.here, jobs)
        else:
            store = Path(self.here.folder.name) / "store"
            for job in jobs:
                job.meeting = job.meeting and Meeting(store)
            self.here.connect(jobs)
            self._start(self.here, jobs)
        result = self._watch(until=lambda: all(child.ready for child in self._live()))
        result = result or self._other_data()
        if result is None:
            on_start = on_start or (lambda targets: None)
            on_start(self._targets())
            self._sample_elsewhere()
            self._release()
            result = self._watch(until=lambda: not self._live())
        return result or self._finished()

    def _start(self, here: Here, jobs: Sequence[Job]) -> None:
        """Start processes of this machine."""
        for job in jobs:
            mine, theirs = here.pipe()
            here.start(job, theirs)
            self.children.append(_Child(job, here, mine, job.label))
        here.close_descriptors()

    def _start_on_nodes(self, here: Here, jobs: Sequence[Job]) -> None:
        """Start processes of several machines: the others' agents first, because they call for lines to ours.

        Raises:
            MachineError: a node is lost, or cannot do it.
        """
        nodes = nodes_present()
        assert nodes is not None
        nodes.refuse_lost()
        number = nodes.next_cell()
        listener = self._meet_at_port(nodes, jobs)
        endpoints, doors = {job.address: job.node for job in endpoints_of(self.cell, jobs)}, nodes.doors()
        asked = []
        for node in nodes.others:
            own = [job for job in jobs if job.node == node.hello.rank]
            if not own:
                continue
            node.compare_clocks()
            start = Start(number, own, len(jobs), doors, endpoints, node.offset_s, self.sources)
            asked.append((node, node.order(start)))
            self.there[node.hello.rank] = There(node, number)

        def check() -> None:
            for node, order in asked:
                node.refuse_failed(order)

        near = [job for job in jobs if not job.node]
        try:
            far = lines_to_others(0, number, endpoints, doors, nodes.door, nodes.key, check)
            for job in near:
                job.far = far.get(job.address, {})
            here.connect(near)
            self._start(here, near)
            if listener is not None:
                listener.close()
            for job in jobs:
                if job.node:
                    control = nodes.door.take(("control", number, job.line), self.cell.cell_timeout_s, check)
                    if control is None:
                        raise MachineError(f"node {job.node} has not started {job.label}")
                    self.children.append(_Child(job, self.there[job.node], control, job.label))
            for node, order in asked:
                node.answer(order)
        except NodeLost as lost:
            raise MachineError(str(lost)) from None
        finally:
            nodes.door.forget(number)
        self.children.sort(key=lambda child: child.job.line)

    def _meet_at_port(self, nodes: Nodes, jobs: Sequence[Job]) -> socket.socket | None:
        """Give the processes that meet a port of this machine to meet at; return its socket, to be closed."""
        together = [job for job in jobs if job.meeting is not None]
        if not together:
            return None
        listener, port = nodes.open_port()
        for job in together:
            job.meeting = Meeting(None, nodes.host, port, interface=nodes.interface)
        first = next(job for job in together if job.group_rank == 0)
        assert first.meeting is not None
        first.meeting.listener = Descriptor(listener.fileno())
        return listener

    def _targets(self) -> list[tuple[int, str, str]]:
        """Return (pid, label, device) of the processes of this machine."""
        assert self.here is not None
        processes = self.here.processes
        near = [child.job for child in self.children if child.job.line in processes]
        return [(processes[job.line].pid or 0, job.label, job.device) for job in near]

    def _sample_elsewhere(self) -> None:
        if self.sampling is None:
            return
        for there in self.there.values():
            with contextlib.suppress(NodeLost, MachineError):  # a lost one is found soon enough
                there.node.ask(Watch(there.cell, self.sampling.interval_s, self.sampling.probes))

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
        nodes = nodes_present()
        spread = OverNodes.of(cell, nodes.machine if nodes is not None else None)
        # A single worker may have its server on another machine.
        apart = spread.nodes > 1 or any(spread.node_of_server(k) for k in range(cell.servers))
        present = 1 if cell.device == "cpu" else self._gpus_present()
        jobs = []
        for number in range(cell.gpus):
            worker, device_rank = divmod(number, devices)
            node = spread.node_of(number)
            place: Json = {"group_rank": number, "group_size": cell.gpus if together else 1}
            place |= {"node": node, "spread": apart, "meeting": Meeting() if together else None}
            device = _device_of(cell, (number - spread.first_of(node)) % present)
            jobs.append(
                self._job("worker", address=worker, device_rank=device_rank, device=device, line=number, **place)
            )
        evaluates_on = _device_of(cell, 0)
        jobs += [
            self._job(
                "server",
                address=-1 - k,
                line=cell.gpus + k,
                evaluates_on=evaluates_on,
                node=spread.node_of_server(k),
                spread=apart,
            )
            for k in range(cell.servers)
        ]
        return jobs

    def _gpus_present(self) -> int:
        from harness.scenario.plan import detect_machine

        return max(1, detect_machine().gpus)

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
            if self.on_progress is not None and self.here is not None:
                self.on_progress(self.here.reached(0))
        return None

    def _hear(self, seconds: float) -> None:
        """Hear who has something to say, waiting at most so long for anybody."""
        ready = connection.wait([child.control for child in self._live()], timeout=seconds)
        for child in self._live():
            if child.control in ready:
                child.hear()
            elif child.place.lost:
                child.lose()
            for word, stood_s in child.words:
                self._pass_on(child, word, stood_s)
            child.words.clear()

    def _pass_on(self, child: _Child, word: str, stood_s: float) -> None:
        """Let the processes of the other machines stand still, or go on; its own machine's have been told already."""
        for place in (self.here, *self.there.values()):
            if place is child.place or place is None:
                continue
            if word == "still":
                place.still()
            else:
                place.go_on(stood_s)

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
        killed = Cause.MEMORY if child.ended().for_memory else Cause.KILLED
        return Failure(Cause.FAULT if child.death is not None else killed, Text(words), child.job.line)

    def _words_of_loss(self, child: _Child, goes_on: bool) -> str:
        from harness.engines.shared.fault_draws import words_of_loss

        ended = child.ended()
        if child.death is not None:
            return words_of_loss(self.cell, child.death["rank"], child.death["when"], alone=not goes_on)[1]
        others = "; the others went on" if goes_on else ""
        if child.place.lost:
            with_it = [each for each in self.children if each.place is child.place and each.answer is None]
            return "; ".join([child.place.lost, *map(self._what_it_did, with_it)]) + others
        return f"{child.label} {ended.words}{others}"

    @staticmethod
    def _what_it_did(child: _Child) -> str:
        """Say what a process did when it was last heard of."""
        waits, steps = child.place.waits(child.job.line), child.place.reached(child.job.line).steps
        return f"{child.label} had done {counted(steps, 'step')}" + (f" and waited in {waits.words}" if waits else "")

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
        return min(silent, key=lambda child: (not _is_no_answer(child), child.gone_s), default=None)

    def _deadlock(self) -> Result | None:
        """Find that everybody has waited for a message for a while: then none can come any more."""
        if self.started_s == 0:
            return None
        live = [c for c in self._live() if c.answer is None]
        waits = [(c, c.place.waits(c.job.line)) for c in live]
        now = time.monotonic()
        stuck = [(c, w) for c, w in waits if w is not None and now - w.since_s > DEADLOCK_S]
        if not live or len(stuck) < len(live) or not any(w.wait is Wait.RECEIVE for _, w in stuck):
            return None
        # One that is stopped, or gets no processor, may have its message and not have taken it yet.
        if not all(c.place.is_at_rest(c.job.line) for c in live):
            return None
        words = [f"{c.label} waits in {w.words} from {w.since_s - self.started_s:.3g} s on" for c, w in stuck]
        return Result.ended_by(Cause.DEADLOCK, "deadlock: " + "; ".join(words), stuck[0][0].job.line)

    def _too_late(self) -> Failure:
        """Ask who has not ended where he is; the stacks go to the log, a sentence and the lines into the record."""
        late = [child for child in self._live() if child.answer is None]
        stopped = [child.place.is_stopped(child.job.line) for child in late]
        waits = [child.place.waits(child.job.line) for child in late]
        stacks = self._stacks(late)
        self._keep({child.label: stack for child, stack in zip(late, stacks, strict=True)})
        own = own_files(self.cell, self.plugins)
        hangs = []
        for child, is_still, waited, stack in zip(late, stopped, waits, stacks, strict=True):
            line, function = line_in(stack, own) or (None, "")
            hangs.append(Hang(child.label, is_still, waited.words if waited else "", line, function))
        return too_late(hangs, "finished" if self.started_s else "ready to train", self.cell)

    def _stacks(self, asked: Sequence[_Child]) -> list[str]:
        """Return where processes are, in their order; each machine is asked once."""
        found: dict[int, str] = {}
        for place in dict.fromkeys(child.place for child in asked):
            lines = [child.job.line for child in asked if child.place is place]
            found |= zip(lines, place.stacks(lines), strict=True)
        return [found[child.job.line] for child in asked]

    def _keep(self, stacks: dict[str, str]) -> None:
        """Write stacks into the cell's log."""
        if not self.log:
            return
        with open(self.log, "a", encoding="utf-8") as log:
            for label, stack in stacks.items():
                log.write(f"\n{label} when its time was up:\n{stack.strip() or 'no answer'}\n")

    # -- the end -------------------------------------------------------------------------------------------------

    def _finished(self) -> Result:
        assert self.here is not None
        self.here.see_off(GRACE_S)
        targets = self._targets()
        answers = [c.answer for c in self.children if c.answer is not None]
        if self.cell.engine == "virtual":
            answers[0].notes += self._note_of_import()
            return Result(outcome=answers[0], targets=targets, started_s=self.started_s)
        from harness.engines.real.merge import merge

        outcome = merge(answers, self.cell)
        outcome.notes += [*self.lost.values(), *self._note_of_import()]
        nodes = nodes_present()
        if self.there and nodes is not None:
            outcome.facts["nodes"] = nodes.facts(self.there)
        return Result(outcome=outcome, targets=targets, started_s=self.started_s)

    def _note_of_import(self) -> list[str]:
        return [self.here.note] if self.here is not None and self.here.note else []

    def clean_up(self) -> None:
        """End whatever still lives: terminate, wait, kill; then what they have left behind."""
        for rank, there in self.there.items():
            self.left[rank] = there.end()
        if self.here is not None:
            self.here.clean_up()
        for child in self.children:
            child.control.close()
        self._keep_logs()

    def _keep_logs(self) -> None:
        """Put what processes of other nodes wrote behind what those of this one did."""
        for rank, left in self.left.items():
            if self.log and left.log:
                with open(self.log, "a", encoding="utf-8") as log:
                    log.write(f"\nnode {rank}:\n{left.log}")


def _follows(failure: Failure) -> bool:
    """Whether a failure may be what another process's end brought about."""
    return failure.cause is Cause.PEER or failure.follows


def _has_own_cause(child: _Child) -> bool:
    return child.failure is not None and not _follows(child.failure)


def _is_no_answer(child: _Child) -> bool:
    """Whether a signal ended a process that nothing sends by itself: torch aborts where it has lost a peer."""
    return child.ended().killed_by not in (0, signal.SIGABRT)


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


@dataclass(frozen=True)
class OverNodes:
    """How the devices of a cell lie on nodes: in order of their numbers, each node as many as evenly goes.

    Attributes:
        nodes: that have devices of the cell; there: all that there are.
    """

    cell: Cell
    nodes: int
    there: int

    @classmethod
    def of(cls, cell: Cell, machine: Machine | None) -> OverNodes:
        """Fill as few nodes as hold all devices; where none hold them, all.

        Args:
            machine: all nodes together; None: this one is alone.
        """
        if machine is None or machine.nodes == 1:
            return cls(cell, 1, 1)
        return cls(
            cell,
            nodes_filled(cell.gpus, machine.devices_of_node(cell.device, cell.threads_per_device), machine.nodes),
            machine.nodes,
        )

    def node_of(self, device: int) -> int:
        """Return the node of a device."""
        return device * self.nodes // self.cell.gpus

    def first_of(self, node: int) -> int:
        """Return the number of a node's first device."""
        return -(-node * self.cell.gpus // self.nodes)

    def node_of_server(self, number: int) -> int:
        """Return the node of a server: the first one's host, with the workers in turn, or behind them.

        Source: `cluster.servers.placement`; dedicated servers share the last node where the workers fill all.
        """
        given = self.cell.cluster.servers
        placement = given.placement if given is not None else "cpu"
        if placement == "dedicated":
            return self.nodes + number % (self.there - self.nodes) if self.there > self.nodes else self.there - 1
        return 0 if placement == "cpu" else number % self.nodes


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
