"""What rings over some of a node's devices get of links that do not join all of them alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from harness.core.given_cluster import GivenLink, LinkFigures

ANY_LINK = GivenLink(0.0, 1.0)


def link_of_groups(groups: Mapping[int, LinkFigures], link: GivenLink = ANY_LINK) -> GivenLink:
    """Return a link that is known by group size; by itself it has the figures of the largest group."""
    largest = groups[max(groups)]
    whole = replace(link, latency_s=largest.latency_s, bandwidth_bytes_per_s=largest.bandwidth_bytes_per_s)
    return replace(whole, by_group=groups)


def graph_rates(graph: Sequence[tuple[int, int, int]], link_bytes_per_s: float, devices: int) -> dict[int, float]:
    """Return the bus bandwidth of rings over the first n devices: rings use every link of the device that has fewest.

    Source: Luo et al. 2020, "Plink", section 2: NCCL builds as many rings as the group's links allow.

    Args:
        graph: pairs of devices, from 0, and the number of links between them.
        devices: of one node.
    """
    found = {}
    for size in range(2, devices + 1):
        inside = [0] * size
        for first, second, links in graph:
            if max(first, second) < size:
                inside[first] += links
                inside[second] += links
        if min(inside):
            found[size] = min(inside) * link_bytes_per_s
    return found


def split_groups(link: GivenLink, group_size: int, between_bytes_per_s: float, devices: int) -> GivenLink:
    """Return a link inside groups of neighbours, such as sockets, PCIe switches or pairs, with one link between groups.

    A ring over more devices than a group holds leaves it, and comes back, over that link.
    """
    across = LinkFigures(link.latency_s, between_bytes_per_s)
    narrow = LinkFigures(link.latency_s, min(link.bandwidth_bytes_per_s, between_bytes_per_s))
    groups = {size: link.figures if size <= group_size else narrow for size in range(2, devices + 1)}
    return replace(link, by_group=groups, group_size=group_size, across=across)
