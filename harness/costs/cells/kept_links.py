"""Links that were measured over several machines, kept for later runs of the first of them."""

from __future__ import annotations

from harness.core import cache
from harness.core.machine import Machine
from harness.core.records import Unreadable, from_json, to_json
from harness.costs.cells.measured import links_key
from harness.costs.profiles.node_links import NodeLinks

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
