"""What runs on every node of a run but the first: starts that node's processes, tells of them, ends them."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, MachineError
from harness.core.held_files import give
from harness.core.machine import Machine
from harness.core.records import Json
from harness.engines.processes.doors import (
    LINE_S,
    SILENT_S,
    Door,
    address_of,
    dial,
    interface_of,
    lines_to_others,
    local_address,
)
from harness.engines.processes.forking import end_all, fork_server
from harness.engines.processes.hearing import Ear, Silent
from harness.engines.processes.here import Here
from harness.engines.processes.node_words import (
    SIGN_S,
    End,
    Gone,
    GoOn,
    Hello,
    Leave,
    Left,
    Numbered,
    Reply,
    RunTasks,
    Sign,
    Signs,
    Stacks,
    Start,
    Still,
    TellTime,
    Unwelcome,
    Watch,
    Welcome,
)
from harness.engines.processes.process import Job
from harness.engines.processes.tasks import answers, started

if TYPE_CHECKING:
    from harness.engines.telemetry.sampler import Sampler

MOST_LOG = 2**18
"""Bytes of a cell's log that go to the first node: its end."""


@dataclass
class _Part:
    """The processes of one cell here."""

    here: Here
    log: Path
    jobs: Mapping[int, Job]
    told: set[int] = field(default_factory=set)
    sampler: Sampler | None = None


def serve_node(
    rendezvous: tuple[str, int],
    rank: int,
    key: bytes,
    machine: Machine,
    environment: Json,
    versions: Mapping[str, str],
    seconds: float,
    say: Callable[[str], object],
    interface: str = "",
) -> None:
    """Be a node of a run until its first node lets go.

    Args:
        rendezvous: host and port of the first node.
        seconds: longest to wait for it.
        interface: by which others reach this node; empty: the one that the route to the first node takes.

    Raises:
        InputError: the first node has another key.
        MachineError: the first node does not open, refuses this one, or is gone.
    """
    connection = dial(rendezvous, key, ("node", rank), time.monotonic() + seconds)
    address = address_of(interface) if interface else local_address(connection)
    door = Door("", 0, key)
    name = interface or interface_of(address)
    connection.send(
        Hello(rank, socket.gethostname(), os.getpid(), versions, machine, environment, address, name, door.port)
    )
    try:
        # The first node may still wait for others before it looks at this one.
        answer = Ear(connection).word(seconds)
    except (Silent, EOFError, OSError):
        raise MachineError(f"{rendezvous[0]}:{rendezvous[1]}: the first node has ended before the run began") from None
    if isinstance(answer, Unwelcome):
        raise MachineError(answer.reason)
    assert isinstance(answer, Welcome)
    say(f"node {rank} of {answer.nodes}: runs what node 0 at {rendezvous[0]} asks for, through {name or address}")
    agent = _Agent(connection, door, rank, key, name)
    try:
        agent.serve()
    finally:
        agent.close()
    say(f"node {rank} of {answer.nodes}: node 0 is done")


class _Agent:
    def __init__(self, connection: Connection, door: Door, rank: int, key: bytes, interface: str) -> None:
        self._connection, self._door, self._rank, self._key = connection, door, rank, key
        self._interface = interface
        self._ear = Ear(connection)
        self._sending, self._looking = threading.Lock(), threading.Lock()
        self._parts: dict[int, _Part] = {}
        self._closed = False
        self._folder = tempfile.TemporaryDirectory(prefix="harness-node-")
        fork_server()  # begins to import torch, so that the first cell need not wait for it

    def _send(self, word: object) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(word)

    # -- signs of life -------------------------------------------------------------------------------------------------

    def _give_signs(self) -> None:
        """Say twice a second how all processes are; in a thread, because starting some takes long."""
        while not self._closed:
            with self._looking:
                signs = {
                    (cell, line): _sign_of(part.here, line)
                    for cell, part in self._parts.items()
                    for line in list(part.here.processes)
                    if line not in part.told
                }
            self._send(Signs(signs))
            time.sleep(SIGN_S)

    # -- orders --------------------------------------------------------------------------------------------------------

    def serve(self) -> None:
        """Obey until told to leave.

        Raises:
            MachineError: the first node is gone.
        """
        threading.Thread(target=self._give_signs, name="signs", daemon=True).start()
        while True:
            sentinels = {
                process.sentinel: (cell, line)
                for cell, part in self._parts.items()
                for line, process in part.here.processes.items()
                if line not in part.told
            }
            ready = wait([self._connection, *sentinels])
            for each in ready:
                if each in sentinels:
                    self._tell_gone(*sentinels[each])  # type: ignore[index]
            if self._connection not in ready:
                continue
            try:
                words = self._ear.words()
            except (EOFError, OSError):
                raise MachineError(
                    "node 0 is gone, or the network to it is cut; this node's processes were ended"
                ) from None
            for word in words:
                if isinstance(word, Leave):
                    return
                self._obey(word)

    def _tell_gone(self, cell: int, line: int) -> None:
        part = self._parts[cell]
        part.told.add(line)
        self._send(Gone(cell, line, part.here.how_ended(line, SILENT_S)))

    def _obey(self, word: object) -> None:
        if isinstance(word, (Still, GoOn)):
            if (part := self._parts.get(word.cell)) is None:
                return
            if isinstance(word, Still):
                part.here.still()
            else:
                part.here.go_on(word.stood_s)
        elif isinstance(word, Numbered):
            try:
                answer = Reply(word.number, self._do(word.order))
            except (HarnessError, OSError) as error:
                answer = Reply(word.number, str(error), failed=True)
            except Exception as error:
                traceback.print_exc()
                answer = Reply(word.number, f"{type(error).__name__}: {error}", failed=True)
            self._send(answer)

    def _do(self, order: object) -> object:
        if isinstance(order, TellTime):
            return time.monotonic()
        if isinstance(order, Start):
            self._start(order)
            return None
        if isinstance(order, Stacks):
            part = self._parts[order.cell]
            return part.here.stacks(order.lines)
        if isinstance(order, Watch):
            self._watch(order)
            return None
        if isinstance(order, End):
            return self._end(order.cell)
        if isinstance(order, RunTasks):
            with started(order.tasks, order.threads) as asked:
                return answers(asked, order.what, order.seconds)
        raise MachineError(f"{type(order).__name__}: this node knows no such order")

    def _start(self, order: Start) -> None:
        """Start a cell's processes here: their lines first, which other nodes wait for, then what they are forked from.

        Raises:
            MachineError: a line cannot be had.
        """
        give(order.files)
        log = Path(self._folder.name) / f"log-{order.cell}"
        log.touch(mode=0o600)
        cell = order.jobs[0].cell
        lines = lines_to_others(self._rank, order.cell, order.endpoints, order.doors, self._door, self._key)
        here = Here(cell, order.jobs[0].plugins, str(log), order.lines, order.clock_offset_s)
        part = _Part(here, log, {job.line: job for job in order.jobs})
        with self._looking:
            self._parts[order.cell] = part
        here.connect(order.jobs)
        for job in order.jobs:
            job.environment, job.log, job.far = dict(os.environ), str(log), lines.get(job.address, {})
            if job.meeting is not None:
                job.meeting.interface = self._interface
            control = dial(order.doors[0], self._key, ("control", order.cell, job.line), time.monotonic() + LINE_S)
            here.start(job, control)  # may take as long as importing torch: no lock is held that signs of life need
        here.close_descriptors()

    def _watch(self, order: Watch) -> None:
        from harness.engines.telemetry import Target
        from harness.engines.telemetry.sampler import Sampler

        part = self._parts[order.cell]
        targets = [
            Target(process.pid or 0, part.jobs[line].label, part.jobs[line].device)
            for line, process in part.here.processes.items()
        ]
        part.sampler = Sampler(fork_server(), targets, order.interval_s, order.probes)
        part.sampler.start()
        part.sampler.ready(timeout_s=5.0)

    def _end(self, cell: int) -> Left:
        with self._looking:
            part = self._parts.pop(cell, None)
        self._door.forget(cell)
        if part is None:
            return Left("")
        telemetry = part.sampler.stop(timeout_s=5.0) if part.sampler is not None else None
        part.here.clean_up()
        content = part.log.read_bytes()[-MOST_LOG:].decode(errors="replace")
        part.log.unlink()
        return Left(content, telemetry)

    def close(self) -> None:
        """End all that still runs here."""
        self._closed = True
        for cell in list(self._parts):
            self._end(cell)
        end_all()
        self._door.close()
        self._connection.close()
        self._folder.cleanup()


def _sign_of(here: Here, line: int) -> Sign:
    return Sign(here.waits(line), here.reached(line), here.is_at_rest(line), here.is_stopped(line))
