"""Links measured between nodes: rate and delay by sends, collectives as they are, and which ranks measure what."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from lazy import lazy
from namespaces import nodes
from places import TESTS

from harness.core.records import from_json
from harness.costs.profiles.exchange_times import ExchangeTimes, ring_figures
from harness.costs.profiles.node_links import NodeLinks

node_times = lazy("harness.engines.calibration.node_times")

RATE = 200e6 / 8
SIZES = [4**k * 2**10 for k in range(8)]
"""To 16 MiB, which take 0.7 s at 200 Mb/s: the last size that is measured there."""


def measured(per_node: int, sizes: Sequence[int] = SIZES, **link: Any) -> NodeLinks:
    """Return what ranks of two nodes measure, each started by hand."""
    with nodes(2, **link) as both:
        where = [node for node in range(2) for _ in range(per_node)]
        words = [str(TESTS / "rank_of_links.py"), json.dumps(where), json.dumps([node.host for node in both])]
        words += [both[0].address, "29500", json.dumps(list(sizes))]
        variables = {"GLOO_SOCKET_IFNAME": both[0].interface}
        ranks = [
            both[node].start([sys.executable, words[0], str(rank), *words[1:]], variables)
            for rank, node in enumerate(where)
        ]
        told = [rank.communicate(timeout=200.0) for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0] * len(ranks), told[0][1][-2000:]
    found = [from_json(node_times.RankTimes, json.loads(out)) for out, _ in told]
    return NodeLinks(
        "cpu",
        "gloo",
        per_node,
        tuple(each for one in found for each in one.exchanges),
        tuple(one.facts for one in found if one.facts),
        0.0,
    )


def of(links: NodeLinks, exchange: str) -> ExchangeTimes:
    (found,) = [each for each in links.exchanges if each.exchange == exchange]
    return found


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timed
@pytest.mark.parametrize(
    "delay_s", [pytest.param(None, id="tbf", marks=pytest.mark.long), pytest.param(0.005, id="wire")]
)
def test_a_links_rate_is_found_by_sends_and_collectives_are_told_as_measured(delay_s):
    links = measured(1, bits_per_s=RATE * 8, delay_s=delay_s)
    found = links.link(between=True)
    assert found.bandwidth_bytes_per_s == pytest.approx(RATE, rel=0.1)
    if delay_s is not None:
        assert found.latency_s == pytest.approx(delay_s, rel=0.2)
    for name in ("all-reduce", "all-gather", "reduce-scatter", "all-to-all"):
        table = of(links, name)
        assert (table.ranks, table.nodes, table.hosts) == (2, 2, ("node0", "node1"))
        # No exchange is faster than the link. gloo's reduce-scatter moves as many bytes as its all-reduce.
        assert (0.3 if name == "reduce-scatter" else 0.6) * RATE < table.best_bus_bytes_per_s < 1.05 * RATE
    assert links.rings(between=True) == {2: ring_figures(2, of(links, "all-reduce").table)}
    assert [facts.interface for facts in links.nodes] == ["eth0" if delay_s is None else "wire0"] * 2
    assert [facts.host for facts in links.nodes] == ["node0", "node1"]


@pytest.mark.dist
def test_ranks_of_two_nodes_measure_inside_between_and_all_together():
    links = measured(2, [2**10, 2**14])
    groups = {(each.exchange, each.ranks, each.nodes) for each in links.exchanges}
    collectives = {"all-reduce", "all-gather", "reduce-scatter", "all-to-all"}
    expected = {(name, ranks, count) for name in collectives for ranks, count in ((2, 1), (2, 2), (4, 2))}
    assert groups == {*expected, ("send", 2, 1), ("send", 2, 2)}
    assert all([size for size, _ in each.table] == [2**10, 2**14] for each in links.exchanges)
    assert all(seconds > 0 for each in links.exchanges for _, seconds in each.table)
    assert list(links.rings(between=True)) == [4]
    assert list(links.rings(between=False)) == [2]
    assert links.sends(between=False)[0].hosts == ("node0",)


@pytest.mark.parametrize(
    ("ranks", "pairs", "groups"),
    [
        ([0, 1], [(0, 1)], [[0, 1]]),
        ([0, 0], [(0, 1)], [[0, 1]]),
        ([0, 0, 1, 1], [(0, 1), (0, 2)], [[0, 1], [0, 2], [0, 1, 2, 3]]),
        ([0, 1, 2], [(0, 1), (1, 2), (2, 0)], [[0, 1, 2]]),
        ([0], [], []),
    ],
)
def test_pairs_and_groups_cover_what_there_is(ranks, pairs, groups):
    where = node_times.Where(0, ranks, ["a", "b", "c"], None)
    assert (where.pairs, where.groups) == (pairs, groups)


@pytest.mark.parametrize(
    ("backend", "environment", "name"),
    [
        ("gloo", {"GLOO_SOCKET_IFNAME": "eth0,eth1"}, "eth0"),
        ("gloo", {}, ""),
        ("nccl", {"NCCL_SOCKET_IFNAME": "=ib0", "GLOO_SOCKET_IFNAME": "lo"}, "ib0"),
        ("nccl", {"NCCL_SOCKET_IFNAME": "^lo,docker"}, ""),
    ],
)
def test_the_interface_is_what_the_backend_was_told(monkeypatch, backend, environment, name):
    for variable in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    assert node_times.interface_used(backend) == name
