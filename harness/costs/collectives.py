"""How long collectives take: laws of alpha and beta, or measured tables."""

from __future__ import annotations

from harness.costs.cluster import Cluster, Link


def ring_s(ranks: int, num_bytes: float, link: Link) -> float:
    """Return the time of a ring all-reduce: 2 (n - 1) messages of 1/n of the bytes each.

    Source: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms", section 3.
    """
    if ranks == 1:
        return 0.0
    return 2 * (ranks - 1) * (link.latency_s + link.seconds(num_bytes / ranks))


def all_reduce_s(cluster: Cluster, ranks: int, num_bytes: float, nodes: int | None = None) -> float:
    """Return the seconds of one all-reduce over `ranks` devices that are spread evenly over `nodes`.

    Args:
        nodes: default: as few nodes as hold so many devices.
    """
    spread = cluster.nodes(ranks) if nodes is None else nodes
    link = cluster.bus.link if spread == 1 or cluster.node_link is None else cluster.node_link
    return ring_s(ranks, num_bytes, link)


def all_gather_s(cluster: Cluster, ranks: int, num_bytes: float, nodes: int | None = None) -> float:
    """Return the seconds of an all-gather, or of a reduce-scatter; `num_bytes` is the whole vector."""
    return all_reduce_s(cluster, ranks, num_bytes, nodes) / 2


def transfer_s(cluster: Cluster, num_bytes: float, crosses_nodes: bool = False) -> float:
    """Return the seconds of one message between two devices, latency included."""
    link = cluster.node_link if crosses_nodes and cluster.node_link else cluster.bus.link
    return link.latency_s + link.seconds(num_bytes)
