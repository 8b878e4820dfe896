"""What the first node of a run and the agents of the others say to each other, behind the proof of their key.

An agent says `Hello`, hears `Welcome` or `Unwelcome`, then obeys: each `NodeOrder` is answered by one `Reply` with its
number. Unasked, it tells how its processes are (`Signs`, twice a second, also while there are none) and that one has
ended (`Gone`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.addresses import Address
from harness.core.machine import Machine
from harness.core.records import Json
from harness.engines.processes.here import Departure
from harness.engines.processes.process import Job
from harness.engines.processes.status import Reached
from harness.engines.processes.tasks import Task
from harness.engines.shared.waits import Waits

if TYPE_CHECKING:
    from harness.engines.telemetry.sampler import Telemetry

SIGN_S = 0.5
"""Between two signs of an agent; chosen: the supervisor looks as often."""

CellNumber = int
"""Counts the cells of a run, so that what is left of one is not taken for the next one's."""


@dataclass(frozen=True)
class Hello:
    """Who an agent is.

    Attributes:
        rank: of its node, from 1.
        host: what its machine calls itself.
        versions: of what has to be the same on all nodes.
        environment: what its measurements depend on.
        address: that reaches its machine; interface: that has it.
        port: of its door, where nodes behind it call.
    """

    rank: int
    host: str
    process: int
    versions: Mapping[str, str]
    machine: Machine
    environment: Json
    address: str
    interface: str
    port: int


@dataclass(frozen=True)
class Welcome:
    """The node is taken.

    Attributes:
        nodes: how many there are.
        interface: that the first node is reached through, on its own machine.
    """

    nodes: int


@dataclass(frozen=True)
class Unwelcome:
    """The node is not taken.

    Attributes:
        reason: for people.
    """

    reason: str


@dataclass(frozen=True)
class Sign:
    """How a process is.

    Attributes:
        waits: on the first node's clock.
        at_rest: whether it sleeps until somebody wakes it; stopped: whether somebody has stopped it.
    """

    waits: Waits | None
    reached: Reached
    at_rest: bool
    stopped: bool


@dataclass(frozen=True)
class Signs:
    """How an agent's processes are, by (cell, line)."""

    of: Mapping[tuple[CellNumber, int], Sign]


@dataclass(frozen=True)
class Gone:
    """A process has ended."""

    cell: CellNumber
    line: int
    ended: Departure


@dataclass(frozen=True)
class Start:
    """Start these processes of a cell.

    Attributes:
        jobs: of this node.
        lines: processes of the whole cell.
        doors: (host, port) of every node that this one has to call.
        endpoints: address to node of all endpoints that write to each other; empty: none do.
        clock_offset_s: this node's clock less the first one's.
        files: the user's own, by path, as the first node holds them.
    """

    cell: CellNumber
    jobs: Sequence[Job]
    lines: int
    doors: Mapping[int, tuple[str, int]]
    endpoints: Mapping[Address, int]
    clock_offset_s: float
    files: Mapping[str, bytes]


@dataclass(frozen=True)
class TellTime:
    """Tell the time: seconds, monotonic."""


@dataclass(frozen=True)
class Still:
    """Stop the processes of a cell; answered by nothing, as `GoOn`."""

    cell: CellNumber


@dataclass(frozen=True)
class GoOn:
    """Let them go on: they have stood still for so long."""

    cell: CellNumber
    stood_s: float


@dataclass(frozen=True)
class Stacks:
    """Return the stacks of processes that are to be ended."""

    cell: CellNumber
    lines: Sequence[int]


@dataclass(frozen=True)
class Watch:
    """Sample the processes of a cell from now on; answered when the sampler is ready."""

    cell: CellNumber
    interval_s: float
    probes: Sequence[str]


@dataclass(frozen=True)
class End:
    """End the processes of a cell; answered with `Left`."""

    cell: CellNumber


@dataclass(frozen=True)
class Left:
    """What a cell has left on a node.

    Attributes:
        log: what its processes wrote.
        telemetry: what its sampler saw; None where nothing was sampled.
    """

    log: str
    telemetry: Telemetry | None = None


@dataclass(frozen=True)
class RunTasks:
    """Start processes that measure; answered with what they answer, in their order.

    Attributes:
        tasks: (function, arguments) of each, as `started` takes them.
        threads: of each.
        what: is measured, for people.
        seconds: longest that they may take.
    """

    tasks: Sequence[tuple[Task, tuple[object, ...]]]
    threads: int
    what: str
    seconds: float


@dataclass(frozen=True)
class Leave:
    """There is nothing more to do."""


NodeOrder = Start | TellTime | Still | GoOn | Stacks | Watch | End | RunTasks | Leave


@dataclass(frozen=True)
class Numbered:
    """An order that is answered."""

    number: int
    order: NodeOrder


@dataclass(frozen=True)
class Reply:
    """The answer to an order.

    Attributes:
        failed: whether `content` is a reason, for people.
    """

    number: int
    content: object = None
    failed: bool = False


Signed = Mapping[tuple[CellNumber, int], Sign]
"""The last signs of an agent's processes."""
