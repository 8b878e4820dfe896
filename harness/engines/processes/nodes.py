"""The other machines of a run, as its first node sees them: an agent on each, at the end of a connection."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from harness.core.errors import MachineError
from harness.core.machine import Machine
from harness.core.records import Json
from harness.engines.processes.doors import SILENT_S, Door, interface_of, local_address
from harness.engines.processes.hearing import Ear, Silent
from harness.engines.processes.here import Departure
from harness.engines.processes.node_words import (
    CellNumber,
    End,
    Gone,
    GoOn,
    Hello,
    Leave,
    Left,
    NodeOrder,
    Numbered,
    Reply,
    Sign,
    Signs,
    Stacks,
    Still,
    TellTime,
    Unwelcome,
    Welcome,
)
from harness.engines.processes.status import Reached
from harness.engines.shared.waits import Waits

CLOCK_TRIES = 9
"""Times that a node's clock is asked for; chosen: the fastest answer of so many met no queue."""

ANSWER_S = 60.0
"""Longest that an order's answer is waited for; chosen: ending a cell takes seconds; a silent node is known before."""

_NO_SIGN = Sign(None, Reached(0, None), at_rest=False, stopped=False)


class NodeLost(Exception):
    """A node gives no sign any more; the message says which and since when."""


@dataclass
class _Waiting:
    answer: Reply | None = None


class Node:
    """One other machine.

    Attributes:
        hello: who it is.
        lost: why it counts as gone; empty while it lives.
        offset_s: its clock less ours; round_trip_s: of the fastest word there and back.
    """

    def __init__(self, hello: Hello, connection: Connection) -> None:
        self.hello, self.lost = hello, ""
        self.offset_s = self.round_trip_s = 0.0
        self._connection, self._ear = connection, Ear(connection)
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._numbers = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self.signs: dict[tuple[CellNumber, int], Sign] = {}
        self.gone: dict[tuple[CellNumber, int], Departure] = {}
        self._leaving = False
        threading.Thread(target=self._listen, name=self.name, daemon=True).start()

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"node {self.hello.rank} ({self.hello.host})"

    # -- hearing -------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        try:
            while True:
                self._heard(self._ear.word(SILENT_S))
        except Silent:
            self._lose(f"gave no sign for {SILENT_S:g} s: it has stopped, or the network to it is cut")
        except (EOFError, OSError):
            self._lose("closed its connection: its harness has ended")

    def _heard(self, word: object) -> None:
        with self._changed:
            if isinstance(word, Signs):
                self.signs = {**self.signs, **word.of}
            elif isinstance(word, Gone):
                self.gone[word.cell, word.line] = word.ended
            elif isinstance(word, Reply) and word.number in self._waiting:
                self._waiting[word.number].answer = word
            self._changed.notify_all()

    def _lose(self, why: str) -> None:
        with self._changed:
            self.lost = "" if self._leaving else f"{self.name} {why}"
            self._changed.notify_all()

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so of what this node has said, or it is lost; return whether it is so."""
        with self._changed:
            self._changed.wait_for(lambda: until() or bool(self.lost), seconds)
            return until()

    # -- saying --------------------------------------------------------------------------------------------------------

    def tell(self, order: NodeOrder | Numbered) -> None:
        """Give an order, or lose it where the node is lost."""
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(order)

    def order(self, order: NodeOrder) -> int:
        """Give an order that is answered, and return its number."""
        number = next(self._numbers)
        with self._changed:
            self._waiting[number] = _Waiting()
        self.tell(Numbered(number, order))
        return number

    def answer(self, number: int, seconds: float = ANSWER_S) -> object:
        """Return the answer to an order.

        Raises:
            NodeLost: the node is gone, or does not answer.
            MachineError: it could not do it.
        """
        waiting = self._waiting[number]
        there = self.wait(lambda: waiting.answer is not None, seconds)
        with self._changed:
            self._waiting.pop(number, None)
        if not there or waiting.answer is None:
            raise NodeLost(self.lost or f"{self.name} gave no answer for {seconds:g} s")
        if waiting.answer.failed:
            raise MachineError(f"{self.name}: {waiting.answer.content}")
        return waiting.answer.content

    def refuse_failed(self, number: int) -> None:
        """Refuse to go on where the node is lost, or could not do what it was ordered.

        Raises:
            MachineError: so it is.
        """
        if self.lost:
            raise MachineError(self.lost)
        waiting = self._waiting.get(number)
        if waiting is not None and waiting.answer is not None and waiting.answer.failed:
            raise MachineError(f"{self.name}: {waiting.answer.content}")

    def ask(self, order: NodeOrder, seconds: float = ANSWER_S) -> object:
        """Give an order and return its answer; errors as of `answer`."""
        return self.answer(self.order(order), seconds)

    def compare_clocks(self) -> None:
        """Find how far the node's clock is from ours: the middle of the fastest of several questions is its moment.

        Source: Cristian 1989, "Probabilistic clock synchronization": the error is at most half the round trip.

        Raises:
            NodeLost: it does not answer.
        """
        found = []
        for _ in range(CLOCK_TRIES):
            began = time.monotonic()
            there = self.ask(TellTime())
            assert isinstance(there, float)
            ended = time.monotonic()
            found.append((ended - began, there - (began + ended) / 2))
        self.round_trip_s, self.offset_s = min(found)

    def forget(self, cell: CellNumber) -> None:
        """Forget what was said of the processes of a cell that has ended."""
        with self._changed:
            self.signs = {key: sign for key, sign in self.signs.items() if key[0] != cell}
            self.gone = {key: ended for key, ended in self.gone.items() if key[0] != cell}

    def leave(self) -> None:
        """Let the node's agent end, well."""
        self._leaving = True
        self.tell(Leave())
        with contextlib.suppress(OSError):
            self._connection.close()

    def facts(self) -> Json:
        """Return what a record says of the node; no host names."""
        machine = self.hello.machine
        return {
            "node": self.hello.rank,
            "environment": self.hello.environment,
            "cores": machine.cores,
            "gpus": machine.gpus,
            "interface": self.hello.interface,
            "clock_offset_s": self.offset_s,
            "round_trip_s": self.round_trip_s,
        }


class There:
    """The processes of one cell on another machine.

    Args:
        cell: number of the cell.
    """

    def __init__(self, node: Node, cell: CellNumber) -> None:
        self.node, self.cell = node, cell

    @property
    def lost(self) -> str:
        """Why the machine counts as gone; empty while it lives."""
        return self.node.lost

    def _sign(self, line: int) -> Sign:
        return self.node.signs.get((self.cell, line), _NO_SIGN)

    def waits(self, line: int) -> Waits | None:
        """Return what a process waits for, since when on our clock; None while it runs, as far as it was heard."""
        return self._sign(line).waits

    def reached(self, line: int) -> Reached:
        """Return how far a process is, as far as it was heard."""
        return self._sign(line).reached

    def is_at_rest(self, line: int) -> bool:
        """Whether a process sleeps until somebody wakes it."""
        return self._sign(line).at_rest

    def is_stopped(self, line: int) -> bool:
        """Whether somebody has stopped a process."""
        return self._sign(line).stopped

    def stacks(self, lines: Sequence[int]) -> list[str]:
        """Return the stacks of processes that are to be ended; empty where there is no answer."""
        try:
            found = self.node.ask(Stacks(self.cell, list(lines)))
            assert isinstance(found, list)
            return found
        except (NodeLost, MachineError):
            return [""] * len(lines)

    def how_ended(self, line: int, patience_s: float) -> Departure:
        """Return how a process ended that has gone without a word.

        Args:
            patience_s: longest that the word of its end is waited for.
        """
        key = self.cell, line
        self.node.wait(lambda: key in self.node.gone, patience_s)
        return self.node.gone.get(key) or Departure(f"was lost with {self.node.lost or self.node.name}", killed_by=9)

    def still(self) -> None:
        """Stop them."""
        self.node.tell(Still(self.cell))

    def go_on(self, stood_s: float) -> None:
        """Let them go on."""
        self.node.tell(GoOn(self.cell, stood_s))

    def end(self) -> Left:
        """End them, and return what they leave; nothing where the node is lost."""
        try:
            left = self.node.ask(End(self.cell))
            assert isinstance(left, Left)
        except (NodeLost, MachineError):
            left = Left("")
        self.node.forget(self.cell)
        return left


@dataclass
class Nodes:
    """All machines of a run but the first, which this process is on.

    Attributes:
        host: by which the others reach this machine.
        interface: that leads to them.
    """

    door: Door
    key: bytes
    others: list[Node]
    host: str
    interface: str
    own: Machine
    _cells: Iterator[int] = field(default_factory=itertools.count)

    @property
    def machine(self) -> Machine:
        """What cells can run on: of every node as much as the smallest has, so that workers stay alike."""
        machines = [self.own, *(node.hello.machine for node in self.others)]
        count = len(machines)
        cores, gpus = min(m.cores for m in machines), min(m.gpus for m in machines)
        return Machine(cores * count, gpus * count, self.own.gpu_name if gpus else "", count)

    def next_cell(self) -> CellNumber:
        """Return a number that no cell had before."""
        return next(self._cells)

    def doors(self) -> Mapping[int, tuple[str, int]]:
        """Return where each node is called."""
        doors = {node.hello.rank: (node.hello.address, node.hello.port) for node in self.others}
        return {0: (self.host, self.door.port), **doors}

    def open_port(self) -> tuple[socket.socket, int]:
        """Return a socket that listens where the other nodes reach this machine, and its port, which was free."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        listener = socket.create_server((self.host, 0), family=family, backlog=1024)
        return listener, int(listener.getsockname()[1])

    def facts(self, ranks: Collection[int]) -> list[Json]:
        """Return what a record says of these nodes and of this one; no host names."""
        own: Json = {"node": 0, "cores": self.own.cores, "gpus": self.own.gpus, "interface": self.interface}
        return [own, *(node.facts() for node in self.others if node.hello.rank in ranks)]

    def refuse_lost(self) -> None:
        """Refuse to go on without a node.

        Raises:
            MachineError: one is lost.
        """
        lost = [node.lost for node in self.others if node.lost]
        if lost:
            raise MachineError(
                f"{lost[0]}; what was finished is kept. Start all nodes again with the same command to continue"
            )


_present: Nodes | None = None


def nodes_present() -> Nodes | None:
    """Return the other machines of this run; None where it has but one."""
    return _present


@contextmanager
def gathered(
    door: Door,
    key: bytes,
    count: int,
    own: Machine,
    versions: Mapping[str, str],
    seconds: float,
    say: Callable[[str], object],
    host: str = "",
) -> Iterator[Nodes]:
    """Wait for the other nodes of a run, and have them until the block ends.

    Args:
        count: of all nodes, this one among them.
        versions: what has to be the same on all.
        seconds: longest to wait for them.
        host: by which the others reach this machine; empty: the address that they called.

    Raises:
        MachineError: they do not all come, or one is not like this one.
    """
    global _present
    others: list[Node] = []
    address = ""
    try:
        until = time.monotonic() + seconds
        for rank in range(1, count):
            connection = door.take(("node", rank), max(0.0, until - time.monotonic()))
            if connection is None:
                raise MachineError(_missing(rank, count, seconds, door))
            address = host or local_address(connection)
            others.append(_welcome(connection, count, versions))
            say(
                f"{others[-1].name} of {count} has come, through {others[-1].hello.interface or 'an unknown interface'}"
            )
        _present = Nodes(door, key, others, address, interface_of(address), own)
        for node in others:
            node.compare_clocks()
        yield _present
    except NodeLost as lost:
        raise MachineError(str(lost)) from None
    finally:
        _present = None
        for node in others:
            node.leave()
        door.close()


def _missing(rank: int, count: int, seconds: float, door: Door) -> str:
    refused = f"; {door.refused} came with another key, see HARNESS_KEY" if door.refused else ""
    return (
        f"node {rank} of {count} has not come within {seconds:g} s{refused}. Start the same command there with "
        f"--node-rank {rank}; it has to reach this machine's port {door.port}"
    )


def _welcome(connection: Connection, count: int, versions: Mapping[str, str]) -> Node:
    """Return a node that is like this one.

    Raises:
        MachineError: it is not, or says nothing.
    """
    try:
        hello: Hello = Ear(connection).word(SILENT_S)
    except (Silent, EOFError, OSError):
        raise MachineError("a node called and then said nothing; start all nodes again") from None
    differing = [name for name, version in versions.items() if hello.versions.get(name) != version]
    if differing:
        name = differing[0]
        reason = (
            f"node {hello.rank} ({hello.host}) has {name} {hello.versions.get(name) or 'nowhere'}, this one has "
            f"{versions[name]}; install the same on all nodes"
        )
        connection.send(Unwelcome(reason))
        raise MachineError(reason)
    connection.send(Welcome(count))
    return Node(hello, connection)
