"""What the run and the process that talks to Ray tell each other over their pipe."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WholeNode:
    """Of a task that measures its machine, and therefore gets a node of its own: how large that has to be.

    Attributes:
        nodes: how many such nodes it gets.
    """

    cpus: int
    gpus: int
    nodes: int = 1


@dataclass(frozen=True)
class Order:
    """Run a task.

    Attributes:
        key: by which it is called from then on; each order has one of its own.
        parcel: pickled.
        needs: None of a task that runs beside others, on one CPU.
    """

    key: int
    parcel: bytes
    needs: WholeNode | None


@dataclass(frozen=True)
class Room:
    """How many tasks the cluster has room for now.

    Attributes:
        beside: tasks that run beside others: CPUs of the nodes that measure nothing.
        alone: tasks that get a node of their own: the nodes.
    """

    beside: int
    alone: int


@dataclass(frozen=True)
class Begun:
    """A task runs."""

    key: int
    host: str
    process: int


@dataclass(frozen=True)
class Done:
    """A task has ended.

    Attributes:
        ended: pickled.
    """

    key: int
    ended: bytes


@dataclass(frozen=True)
class TaskLost:
    """A task went with its process or its node, and is not run again unless it is ordered again.

    Attributes:
        why: in Ray's words.
    """

    key: int
    why: str


@dataclass(frozen=True)
class RayTrouble:
    """Nothing more comes.

    Attributes:
        words: what is wrong.
        ours: whether it is a bug of the harness; else the cluster cannot do it.
    """

    words: str
    ours: bool = False
