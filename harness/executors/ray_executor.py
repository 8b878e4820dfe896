"""Cells as tasks of a Ray cluster. This process never imports Ray: `ray_driver.py` says why, and does."""

from __future__ import annotations

import contextlib
import itertools
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, replace
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import TracebackType
from typing import Self

from harness.api.host import Host
from harness.core.endings import Cause
from harness.core.errors import InputError, MachineError
from harness.core.interrupts import Interruptible
from harness.core.machine import detect_machine
from harness.core.parents import born_deaf, guarded
from harness.core.words import counted
from harness.engines.processes.forking import search_path
from harness.engines.processes.launch import Result
from harness.executors.extras import require_extra
from harness.executors.protocol import CellTask, Ended, Watcher, Whereabouts
from harness.executors.ray_words import Begun, Done, Order, RayTrouble, Room, TaskLost, WholeNode
from harness.executors.run_one import run_one, without_running
from harness.executors.travel import packed

LISTENING_S = 10.0
"""For the head to accept a connection; chosen."""

CONNECTING_S = 120.0
"""For Ray to answer and every node to say which harness it has; chosen: a cluster of two nodes takes 11 s to start."""

GOODBYE_S = 10.0
"""For Ray to be left in order; measured: 1.2 to 1.6 s. Then its driver is killed, and Ray ends its tasks."""

MOST_ORDERS = 10
"""How often a task is sent to the cluster that never begins there, because each node chosen for it goes; chosen."""

MOST_ATTEMPTS = 3
"""How often a cell may go with its process or its node before that is its record; chosen: a node dies once, and a cell
that takes its process along every time is the cause itself."""

AHEAD = 2
"""Tasks that wait at the cluster for a CPU to get free, so that none waits for the way there and back; chosen."""

CLIENT_PORT = 10001
"""Of Ray Client, which is another protocol. Source: Ray's documentation, "Ray Client"."""


@dataclass
class _Taken:
    """A task that was taken and has not ended.

    Attributes:
        orders: how often it was sent to the cluster; lost: how often it had begun there, and went with its node.
        told: whether the watcher knows that it runs; begun: whether its latest order has.
    """

    task: CellTask
    needs: WholeNode | None
    orders: int = 0
    lost: int = 0
    told: bool = False
    begun: bool = False


class RayExecutor:
    """Runs cells on a Ray cluster.

    Cells of the virtual engine take a CPU each, wherever one is free. A cell that is measured gets a node of its own:
    all CPUs and GPUs of it, so that Ray starts nothing beside it. What goes with its node is run again on another.

    Args:
        host: with the run's plugins.
        address: HOST:PORT of the head, as `ray start --head` prints it; empty: as Ray finds one by itself.

    Raises:
        MachineError: Ray is not installed.
        InputError: the address is that of Ray Client.
    """

    goes_on = ""

    def __init__(self, host: Host, address: str = "") -> None:
        require_extra("ray", "ray", "--executor ray")
        _refuse_client(f"ray://{address}" if address else os.environ.get("RAY_ADDRESS", ""), given=bool(address))
        self.host, self.address = host, address
        self.at_once = 2  # more than one, until the cluster says how many
        self.machine = detect_machine()
        self.room = Room(0, 0)
        self.taken: dict[int, _Taken] = {}
        self.keys = itertools.count()
        self.pipe: Connection | None = None  # to what talks to Ray, once something is to run

    # -- beginning and end ---------------------------------------------------------------------------------------------

    def __enter__(self) -> Self:
        """Nothing yet: a run of which everything is there needs no cluster."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave Ray, which ends what still runs; what does not leave in time is killed with all that it started."""
        if self.pipe is None:
            return
        self.pipe.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(GOODBYE_S if kind is None else 0.5)
        os.close(self.telling)
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.pipe = None

    def _connect(self) -> Connection:
        """Start what talks to Ray, and wait until it has heard from every node.

        Raises:
            MachineError: Ray does not answer, or a node has another harness.
        """
        if self.address:
            _refuse_silence(self.address)
        self.folder = tempfile.mkdtemp(prefix="harness-ray-")
        self.log = Path(self.folder) / "log.txt"
        told, self.telling = os.pipe()
        ours, theirs = Pipe()
        called = f"serve_run({theirs.fileno()}, {self.address!r})"
        code = (
            f"import sys; sys.path[:] = {search_path()!r}; from harness.executors.ray_driver import serve_run; {called}"
        )
        with self.log.open("wb") as log, born_deaf():
            self.process = subprocess.Popen(
                guarded([sys.executable, "-c", code], told),
                pass_fds=[told, theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.pipe = ours
        os.close(told)
        theirs.close()
        with Interruptible():
            there = ours.poll(CONNECTING_S)
        if not there:
            at = self.address or "RAY_ADDRESS, or a cluster of this machine"
            raise MachineError(
                f"ray: {at}: no answer for {CONNECTING_S:g} s. Give HOST:PORT as `ray start --head` prints it, from a "
                "machine that is a node of the cluster; `ray status` there says whether it runs"
            )
        return ours

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        """Run tasks on the cluster, and yield each when it has ended.

        Raises:
            KeyboardInterrupt: a signal came while it waited.
            MachineError: the cluster is gone, or cannot run them.
        """
        source, more = iter(tasks), True
        waiting: CellTask | None = None
        while True:
            while more and (waiting or self._has_room()):
                waiting = waiting or next(source, None)
                if waiting is None:
                    more = False
                elif waiting.cell.not_possible:
                    watcher.started(waiting, Whereabouts(socket.gethostname(), os.getpid()))
                    yield run_one(waiting, self.host)
                    waiting = None
                elif self._has_room_for(waiting):
                    self._order(_Taken(waiting, self._needs(waiting)))
                    waiting = None
                else:
                    break
            if not self.taken and not more:
                return
            pipe = self.pipe or self._connect()
            with Interruptible():
                wait([pipe])
            yield from self._told(watcher)

    def _has_room(self) -> bool:
        return self._count(alone=False) < self.room.beside + AHEAD or self._count(alone=True) < self.room.alone

    def _has_room_for(self, task: CellTask) -> bool:
        most = self.room.alone if task.alone else self.room.beside + AHEAD
        return self._count(task.alone) < most

    def _count(self, alone: bool) -> int:
        return sum(taken.task.alone == alone for taken in self.taken.values())

    def _needs(self, task: CellTask) -> WholeNode | None:
        """Return how large a node a task needs that is measured; never more CPUs than the plan was made for."""
        cell = task.cell
        if not task.alone:
            return None
        if cell.device != "cpu":
            return WholeNode(1, -(-cell.gpus // cell.nodes), cell.nodes)
        return WholeNode(min(self.machine.cores, cell.cores_per_node), 0, cell.nodes)

    def _order(self, taken: _Taken) -> None:
        key = next(self.keys)
        self.taken[key] = taken
        taken.begun, taken.orders = False, taken.orders + 1
        tried = replace(taken.task, attempts=taken.task.attempts + taken.lost)
        pipe = self.pipe or self._connect()
        with contextlib.suppress(OSError):  # it has ended: what it said last is heard next
            pipe.send(Order(key, pickle.dumps(packed(tried)), taken.needs))

    def _told(self, watcher: Watcher) -> Iterator[Ended]:
        for said in self._taken_in():
            taken = self.taken[said.key]
            if isinstance(said, TaskLost):
                del self.taken[said.key]
                taken.lost += taken.begun
                if taken.lost < MOST_ATTEMPTS and taken.orders < MOST_ORDERS:
                    self._order(taken)
                else:
                    yield self._given_up(taken, said.why)
                continue
            taken.begun = True
            if not taken.told:
                taken.told = True
                place = (
                    Whereabouts(said.host, said.process) if isinstance(said, Begun) else Whereabouts("a node of Ray's")
                )
                watcher.started(taken.task, place)
            if isinstance(said, Done):
                del self.taken[said.key]
                ended: Ended | RayTrouble = pickle.loads(said.ended)
                if isinstance(ended, RayTrouble):
                    raise MachineError(ended.words)
                yield replace(_counted(ended, taken.lost), task=taken.task)

    def _taken_in(self) -> Iterator[Begun | Done | TaskLost]:
        """Yield what was said of tasks, and see how much room there is.

        Raises:
            MachineError: the driver has ended, or says why it cannot go on.
        """
        pipe = self.pipe
        assert pipe is not None
        try:
            while pipe.poll():
                said = pipe.recv()
                if isinstance(said, Room):
                    self.room, self.at_once = said, max(2, said.beside)
                elif isinstance(said, RayTrouble):
                    if said.ours:
                        raise RuntimeError(said.words)
                    raise MachineError(said.words)
                elif said.key in self.taken:
                    yield said
        except (EOFError, OSError):
            last = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-5:]
            words = "\n".join(
                ["the connection to Ray has ended; what is finished is kept. Run the command again", *last]
            )
            raise MachineError(words) from None

    def _given_up(self, taken: _Taken, why: str) -> Ended:
        """Return the record of a cell that went with its process or its node each time."""
        task = taken.task
        reason = (
            f"its process, or the node that it ran on, was lost {counted(taken.lost, 'time')} (last: {why}); look for "
            "lack of memory there, in Ray's own logs (/tmp/ray/session_latest/logs)"
        )
        tried = replace(task, attempts=task.attempts + taken.lost)
        return without_running(tried, Result.ended_by(Cause.KILLED, reason), tried=False)


def _counted(ended: Ended, lost: int) -> Ended:
    """Return what came of a cell with a note of its attempts that were lost."""
    if not lost:
        return ended
    note = f"tried {counted(lost + 1, 'time')}: {counted(lost, 'attempt')} went with the node or process of it"
    record = ended.record
    notes = (*record.notes, note)
    return replace(ended, record=replace(record, notes=notes, row=record.row | {"notes": "; ".join(notes)}))


def _refuse_silence(address: str) -> None:
    """Refuse an address where nothing listens: `ray.init` would retry for minutes.

    Raises:
        MachineError: nothing does.
    """
    host, _, port = address.rpartition(":")
    try:
        with Interruptible():
            socket.create_connection((host.strip("[]"), int(port)), timeout=LISTENING_S).close()
    except (OSError, OverflowError) as error:
        raise MachineError(
            f"--executor ray://{address}: nothing answers there: {error}. Give HOST:PORT as `ray start --head` says"
        ) from None


def _refuse_client(written: str, given: bool) -> None:
    """Refuse Ray Client: its driver runs elsewhere, and ends with the connection.

    Args:
        written: after --executor, or what RAY_ADDRESS is; in the latter "ray://" means Ray Client.

    Raises:
        InputError: it is that.
    """
    if not written.startswith("ray://") or (given and written.rpartition(":")[2] != str(CLIENT_PORT)):
        return
    whose = f"--executor {written}: port {CLIENT_PORT} is" if given else f"RAY_ADDRESS={written} is"
    advice = (
        "Run this command on a node of the cluster with --executor ray, or hand it over: ray job submit -- harness run "
        "SCENARIO --executor ray"
    )
    raise InputError([f"{whose} that of Ray Client. {advice}"])
