"""Processes of several machines that measure together: started on each, heard, and ended whatever happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence

from harness.core.errors import MachineError
from harness.engines.processes.network import Meeting
from harness.engines.processes.node_words import RunTasks
from harness.engines.processes.nodes import Node, NodeLost, Nodes
from harness.engines.processes.slots import Descriptor
from harness.engines.processes.tasks import Task, answers, started

BLAME_S = 5.0
"""Longest that a reason is waited for from another node; chosen: who loses a peer says so at once, not why it went."""

Tasks = Sequence[tuple[Task, tuple[object, ...]]]


@contextlib.contextmanager
def meeting_of(nodes: Nodes) -> Iterator[list[Meeting]]:
    """Yield where the processes of each node meet; that of the first node is for its first process alone.

    The others of the first node take the one behind all nodes' own.
    """
    listener, port = nodes.open_port()
    with listener:
        interfaces = [nodes.interface, *(node.hello.interface for node in nodes.others), nodes.interface]
        meetings = [Meeting(None, nodes.host, port, interface=interface) for interface in interfaces]
        meetings[0].listener = Descriptor(listener.fileno())
        yield meetings


def answers_of_nodes(
    nodes: Nodes, tasks: Mapping[int, Tasks], threads: int, what: str, timeout_s: float
) -> list[list[object]]:
    """Start tasks on several nodes and return what they answer, by node and in their order.

    Args:
        tasks: (function, arguments) by rank of the node; 0 is this machine.
        threads: of each process.
        what: is measured, for people.

    Raises:
        MachineError: one failed, died, or took longer than `timeout_s`, or a node is lost.
    """
    others = [(node, RunTasks(tasks[node.hello.rank], threads, what, timeout_s)) for node in nodes.others]
    asked = [(node, node.order(order)) for node, order in others]
    until = time.monotonic() + timeout_s
    try:
        with started(tasks[0], threads) as connections:
            own = answers(connections, what, timeout_s)
        rest = [node.answer(number, max(1.0, until - time.monotonic())) for node, number in asked]
    except NodeLost as lost:
        raise MachineError(str(lost)) from None
    except MachineError:
        _refuse_cause(asked)
        raise
    assert all(isinstance(found, list) for found in rest)  # as `RunTasks` says
    return [own, *rest]  # type: ignore[list-item]


def _refuse_cause(asked: Sequence[tuple[Node, int]]) -> None:
    """Refuse with another node's reason where it failed: then what failed here was the loss of a peer.

    Raises:
        MachineError: so it is.
    """
    until = time.monotonic() + BLAME_S
    while time.monotonic() < until:
        for node, number in asked:
            node.refuse_failed(number)
        time.sleep(0.1)
