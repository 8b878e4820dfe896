"""`harness calibrate` over several machines: start the ranks of each, and put together what they measured."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from harness.core.words import counted
from harness.costs.profiles import NodeLinks
from harness.engines.calibration.node_times import LINK_SIZES, NODE_COLLECTIVES, RankTimes, measure_exchanges
from harness.engines.processes.far_tasks import Tasks, answers_of_nodes, meeting_of
from harness.engines.processes.nodes import Nodes

MOST_CPU_RANKS = 8
"""Of one machine, where devices are cores; chosen: exchanges inside a machine share its memory from a few on."""

EXCHANGE_S = 8.0
"""One exchange over one group, in words to the user only; measured (2 nodes of one EPYC core, 2026-12): 5 s where links
are fast, 11 s over 200 Mb/s."""

RANKS_START_S = 15.0
"""Until all ranks have met, in words to the user only; chosen: importing torch on a busy machine."""

NODES_PATIENCE_S = 1800.0
"""For all of it; chosen: thirty times what it takes on links that are sold."""


def calibrate_nodes(nodes: Nodes, device: str, threads: int, say: Callable[[str], object]) -> NodeLinks:
    """Measure the links inside and between the machines of a run.

    Args:
        device: "cpu" or "cuda".
        threads: of one CPU device.

    Raises:
        MachineError: a process failed, or a node is lost.
    """
    count = 1 + len(nodes.others)
    per_node = nodes.machine.devices_of_node(device, threads)
    per_node = per_node if device == "cuda" else min(per_node, MOST_CPU_RANKS)
    ranks, groups = count * per_node, 1 if per_node == 1 else 3
    seconds = RANKS_START_S + EXCHANGE_S * (groups * len(NODE_COLLECTIVES) + min(groups, 2))
    each = counted(per_node, "rank")
    say(f"calibrating {counted(count, 'machine')} with {each} each: about {seconds:.0f} s")
    where = [node for node in range(count) for _ in range(per_node)]
    hosts = [socket.gethostname(), *(node.hello.host for node in nodes.others)]
    with meeting_of(nodes) as meetings:
        tasks: dict[int, Tasks] = {
            node: [
                (
                    measure_exchanges,
                    (rank, where, hosts, meetings[node if rank % per_node == 0 or node else -1], LINK_SIZES, device),
                )
                for rank in range(ranks)
                if where[rank] == node
            ]
            for node in range(count)
        }
        told = answers_of_nodes(nodes, tasks, threads, "calibrating links", NODES_PATIENCE_S)
    found = [one for node in told for one in node if isinstance(one, RankTimes)]
    exchanges = tuple(each for one in found for each in one.exchanges)
    facts = tuple(one.facts for one in found if one.facts is not None)
    backend = "nccl" if device == "cuda" else "gloo"
    return NodeLinks(device, backend, per_node, exchanges, facts, time.time())
