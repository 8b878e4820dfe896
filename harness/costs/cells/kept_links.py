"""Links that were measured over several machines, kept for later runs of the first of them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.machine import Machine, detect_machine
from harness.core.records import Unreadable, from_json, to_json
from harness.costs.cells.measured import links_key, load_cluster, load_profile
from harness.costs.profiles.node_links import NodeLinks

if TYPE_CHECKING:
    from harness.core.cell import Cell

_KIND = "node-links"


def keep_node_links(machine: Machine, threads: int, links: NodeLinks) -> None:
    """Keep what was measured over several machines, in place of what was kept before.

    Args:
        machine: one of them; all are alike.
    """
    cache.save(_KIND, links_key(machine, links.device, threads), to_json(links))


def load_node_links(machine: Machine, device: str, threads: int) -> NodeLinks | None:
    """Return what was last measured over machines of which this is one, or None."""
    content = cache.load(_KIND, links_key(machine, device, threads))
    try:
        return None if content is None else from_json(NodeLinks, content)
    except Unreadable:
        return None  # kept by another version, which measured something else


def node_links_of(cell: Cell) -> NodeLinks | None:
    """Return the links of a cell that fills several machines like this one, where nobody gives them; None else."""
    given = cell.cluster
    if cell.nodes < 2 or given.inter_node is not None or given.device is not None:
        return None
    return load_node_links(detect_machine(), cell.device, cell.threads_per_device)


def measured_id(cell: Cell) -> str:
    """Return a hash of the measurements behind a cell; nothing where this machine has not made them all."""
    machine = detect_machine()
    profile, cluster = load_profile(cell, machine), load_cluster(cell.device, cell.threads_per_device, machine)
    if profile is None:
        return ""
    links = node_links_of(cell)
    behind = [to_json(profile), cluster and to_json(cluster), *([to_json(links)] if links else [])]
    return hashlib.sha256(json.dumps(behind, sort_keys=True).encode()).hexdigest()[:16]
