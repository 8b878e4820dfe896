"""How long collectives take: laws of alpha and beta, or measured tables."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Mapping

from harness.costs.profiles.cluster_figures import Cluster, LinkFigures, MeasuredTable
from harness.costs.steps.protocols import MeasuredAllReduce, between_s


def ring_s(ranks: int, num_bytes: float, link: LinkFigures) -> float:
    """Return the time of a ring all-reduce: 2 (n - 1) messages of 1/n of the bytes each.

    Source: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms", section 3.
    """
    if ranks == 1:
        return 0.0
    return 2 * (ranks - 1) * (link.latency_s + link.seconds(num_bytes / ranks))


def halving_doubling_s(ranks: int, num_bytes: float, link: LinkFigures) -> float:
    """Return the time of an all-reduce by recursive halving and doubling.

    Exact for powers of two; others add a first and a last exchange of the whole vector.

    Source: Thakur, Rabenseifner and Gropp 2005, "Optimization of Collective Communication Operations in MPICH", 4.5.
    """
    if ranks == 1:
        return 0.0
    steps = int(math.log2(ranks))
    even = 1 << steps
    extra = 2 * (link.latency_s + link.seconds(num_bytes)) if even != ranks else 0.0
    return extra + 2 * steps * link.latency_s + 2 * (even - 1) * link.seconds(num_bytes / even)


def tree_s(ranks: int, num_bytes: float, link: LinkFigures) -> float:
    """Return the time of an all-reduce over a double binary tree: every rank sends and receives the bytes twice.

    Source: Sanders, Speck and Traeff 2009, "Two-tree algorithms for full bandwidth broadcast, reduction and scan".
    """
    if ranks == 1:
        return 0.0
    return 2 * math.ceil(math.log2(ranks)) * link.latency_s + 2 * link.seconds(num_bytes)


def measured_s(table: MeasuredTable, num_bytes: float) -> float:
    """Return a measured time: lines between measured points in logarithms; beyond them the nearest rate or time.

    Logarithms, because the points lie so and relative errors are what matters.
    """
    if num_bytes <= 0:
        return 0.0
    (least, least_s), (most, most_s) = table[0], table[-1]
    if num_bytes <= least:
        return least_s
    if num_bytes >= most:
        return most_s * num_bytes / most
    above = bisect_left(table, (num_bytes, 0.0))
    (x0, y0), (x1, y1) = table[above - 1], table[above]
    share = math.log(num_bytes / x0) / math.log(x1 / x0)
    return y0 * math.exp(share * math.log(y1 / y0))


SPARSE = 8.0
"""Ratio of two measured sizes from which libraries may change their protocol between them: chosen."""


def between_measured_s(
    cluster: Cluster, tables: Mapping[int, MeasuredTable], ranks: int, num_bytes: float
) -> float | None:
    """Return the seconds of an all-reduce from those measured; None where none was of so many devices.

    Sizes far from the next measured ones are reckoned by what libraries do, not by a straight line.

    Args:
        tables: of all-reduces over devices of one node, or of several, by number of devices.
    """
    table = tables.get(ranks)
    if not table:
        return None
    above = bisect_left(table, (num_bytes, 0.0))
    if 0 < above < len(table) and table[above][0] >= SPARSE * table[above - 1][0]:
        small, large = (MeasuredAllReduce(*point) for point in table[above - 1 : above + 1])
        return between_s(ranks, small, large, num_bytes, cluster.constants)
    return measured_s(table, num_bytes)


def inside_link(cluster: Cluster, ranks: int) -> LinkFigures:
    """Return the link of a ring over so many devices of one node."""
    groups = cluster.bus.by_group
    if not groups:
        return cluster.bus.link
    return groups[min(groups, key=lambda size: (abs(size - ranks), size))]


def all_reduce_s(
    cluster: Cluster, ranks: int, num_bytes: float, nodes: int | None = None, groups_per_node: int = 1
) -> float:
    """Return the seconds of one all-reduce over `ranks` devices that are spread evenly over `nodes`.

    The hierarchical algorithm reduces inside nodes, then between them in concurrent rings, then hands out inside again:
    every ring between nodes moves 1/g of the bytes and has 1/g of the node's link.

    What was measured of so many devices on so many nodes is preferred, where the algorithm is "auto".

    Source: Jia et al. 2018, "Highly Scalable Deep Learning Training System with Mixed-Precision", section 3.3.

    Args:
        nodes: default: as few nodes as hold so many devices.
        groups_per_node: all-reduces that run at once and share each node's link.
    """
    if ranks <= 1 or num_bytes <= 0:
        return 0.0
    spread = cluster.nodes(ranks) if nodes is None else nodes
    if spread <= 1 or cluster.node_link is None:
        measured = between_measured_s(cluster, cluster.bus.tables, ranks, num_bytes)
        return ring_s(ranks, num_bytes, inside_link(cluster, ranks)) if measured is None else measured
    if cluster.algorithm == "auto" and spread == cluster.nodes(ranks) and groups_per_node == 1:
        measured = between_measured_s(cluster, cluster.node_tables, ranks, num_bytes)
        if measured is not None:
            return measured
        if ranks in cluster.node_by_group:
            return ring_s(ranks, num_bytes, cluster.node_by_group[ranks])
    between = LinkFigures(cluster.node_link.latency_s, cluster.node_link.bandwidth_bytes_per_s / groups_per_node)
    local = max(1, ranks // spread)
    inside = inside_link(cluster, local)
    slowest = LinkFigures(between.latency_s, min(between.bandwidth_bytes_per_s, inside.bandwidth_bytes_per_s))
    times = {
        "ring": ring_s(ranks, num_bytes, slowest),
        "tree": tree_s(ranks, num_bytes, slowest),
        "halving-doubling": halving_doubling_s(ranks, num_bytes, slowest),
        "hierarchical": all_reduce_s(cluster, local, num_bytes, 1) + ring_s(spread, num_bytes, between),
    }
    return min(times.values()) if cluster.algorithm == "auto" else times[cluster.algorithm]


def all_gather_s(
    cluster: Cluster, ranks: int, num_bytes: float, nodes: int | None = None, groups_per_node: int = 1
) -> float:
    """Return the seconds of an all-gather; `num_bytes` is the whole vector."""
    return _half_s(cluster, cluster.bus.gathers, ranks, num_bytes, nodes, groups_per_node)


def reduce_scatter_s(
    cluster: Cluster, ranks: int, num_bytes: float, nodes: int | None = None, groups_per_node: int = 1
) -> float:
    """Return the seconds of a reduce-scatter; `num_bytes` is the whole vector."""
    return _half_s(cluster, cluster.bus.scatters, ranks, num_bytes, nodes, groups_per_node)


def _half_s(
    cluster: Cluster,
    tables: Mapping[int, MeasuredTable],
    ranks: int,
    num_bytes: float,
    nodes: int | None,
    groups_per_node: int,
) -> float:
    """Return the seconds of either half of an all-reduce: as measured inside a node, else half of a ring's time.

    gloo's reduce-scatter takes as long as its all-reduce, or longer: it is no ring (torch 2.13, two processes).
    """
    inside = cluster.node_link is None or (cluster.nodes(ranks) if nodes is None else nodes) <= 1
    table = tables.get(ranks) if inside and ranks > 1 else None
    return (
        measured_s(table, num_bytes) if table else all_reduce_s(cluster, ranks, num_bytes, nodes, groups_per_node) / 2
    )


def transfer_s(cluster: Cluster, num_bytes: float, crosses_nodes: bool = False) -> float:
    """Return the seconds of one message between two devices, latency included."""
    link = cluster.node_link if crosses_nodes and cluster.node_link else cluster.bus.link
    return link.latency_s + link.seconds(num_bytes)
