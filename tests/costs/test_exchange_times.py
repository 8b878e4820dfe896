"""Figures of measured links: rate and delay of sends, rings of all-reduces, and what a step makes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st

from harness.api.host import load_host
from harness.api.strategy import Layout
from harness.core.errors import InputError
from harness.core.given_cluster import GivenLink
from harness.core.machine import Machine, detect_machine
from harness.costs.cells import cluster_of, keep_node_links
from harness.costs.profiles import ExchangeTimes, InterfaceFacts, NodeLinks, ring_figures, send_figures
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures
from harness.costs.steps.collectives import all_reduce_s, ring_s
from harness.engines.virtual.prices import Costs
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

ANY: Any = None
SIZES = [4.0**k * 2**10 for k in range(9)]
DELAYS, RATES = st.floats(1e-6, 1e-2), st.floats(1e7, 1e12)


def table(delay_s: float, rate: float) -> tuple[tuple[float, float], ...]:
    return tuple((size, delay_s + size / rate) for size in SIZES)


@given(DELAYS, RATES)
def test_rate_and_delay_of_an_exact_table_are_found(delay_s, rate):
    found = send_figures(table(delay_s, rate))
    assert found.bandwidth_bytes_per_s == pytest.approx(rate, rel=1e-3)
    assert found.latency_s == pytest.approx(delay_s, rel=1e-3, abs=1e-8)


def test_what_a_connection_takes_to_get_up_to_speed_is_neither_rate_nor_delay():
    slow_start = [(size, seconds + (0.03 if size > 2**16 else 0.0)) for size, seconds in table(0.005, 25e6)]
    found = send_figures(tuple(slow_start))
    assert (found.latency_s, found.bandwidth_bytes_per_s) == pytest.approx((0.005, 25e6), rel=1e-6)


def test_one_disturbed_size_of_three_is_outvoted():
    disturbed = list(table(1e-4, 25e6))
    disturbed[-2] = (disturbed[-2][0], disturbed[-2][1] * 1.5)
    assert send_figures(tuple(disturbed)).bandwidth_bytes_per_s == pytest.approx(25e6, rel=0.02)


def test_a_single_size_gives_its_rate_and_no_delay():
    assert send_figures(((1e6, 0.1),)) == LinkFigures(0.0, pytest.approx(1e7))


def test_more_bytes_in_no_more_time_still_give_a_rate():
    assert send_figures(((1e3, 1e-3), (1e6, 1e-3))).bandwidth_bytes_per_s == pytest.approx(1e9)


@given(st.integers(2, 512), st.floats(1e-6, 1e-3), RATES)
def test_rings_of_all_reduces_take_as_long_as_these(ranks, latency_s, rate):
    link = LinkFigures(latency_s, rate)
    found = ring_figures(ranks, tuple((size, ring_s(ranks, size, link)) for size in SIZES))
    for size in SIZES:
        assert ring_s(ranks, size, found) == pytest.approx(ring_s(ranks, size, link), rel=2e-3)


# -- in a cluster ------------------------------------------------------------------------------------------------------

LINK = LinkFigures(1e-5, 1e9)
MEASURED = ((1e6, 0.010), (1e7, 0.080))
CLUSTER = Cluster("device", 2, Bus(LinkFigures(1e-6, 1e11)), LINK)


def test_all_reduces_between_nodes_are_those_measured_of_so_many_devices():
    measured = replace(CLUSTER, node_tables={4: MEASURED}, node_by_group={4: LINK, 6: LinkFigures(1e-3, 1e8)})
    assert all_reduce_s(measured, 4, 1e7) == pytest.approx(0.080)
    assert all_reduce_s(measured, 6, 1e7) == pytest.approx(ring_s(6, 1e7, LinkFigures(1e-3, 1e8)))
    # Nothing was measured of eight devices, of four on other nodes, of several at once, or with an algorithm of choice.
    plain = replace(measured, node_tables={}, node_by_group={})
    for changes in ({"ranks": 8}, {"nodes": 4}, {"groups_per_node": 2}):
        arguments = {"ranks": 4, "num_bytes": 1e7, **changes}
        assert all_reduce_s(measured, **arguments) == all_reduce_s(plain, **arguments)
    tree, plain_tree = (replace(each, algorithm="tree") for each in (measured, plain))
    assert all_reduce_s(tree, 4, 1e7) == all_reduce_s(plain_tree, 4, 1e7)


def inter_node(written: str, folder: Path) -> object:
    text = f'engine = "virtual"\nsweep.strategy = "sync-ddp"\nsweep.gpus = 4\ncluster.inter_node = {written}'
    (settings,) = parse_scenario(text, load_host(), folder / "a.toml").settings
    return settings.cluster.inter_node


def test_a_rate_of_single_messages_stands_beside_measured_all_reduces(tmp_path):
    (tmp_path / "links.csv").write_text("n,bytes,seconds\n2,1000000,1e-2\n2,10000000,8e-2\n")
    written = '{ bandwidth = "1 GB/s", latency = "9 us", table = "links.csv" }'
    link = inter_node(written, tmp_path)
    assert (link.bandwidth_bytes_per_s, link.latency_s) == pytest.approx((1e9, 9e-6))
    assert link.tables == {2: MEASURED}
    rings = inter_node('{ bandwidth = "1 GB/s", bus_bandwidth = { 2 = "400 MB/s" } }', tmp_path)
    assert rings.bandwidth_bytes_per_s == pytest.approx(1e9)
    assert rings.by_group[2].bandwidth_bytes_per_s == pytest.approx(4e8)


def test_a_latency_beside_a_table_needs_a_rate(tmp_path):
    with pytest.raises(InputError, match="latency: not beside table"):
        inter_node('{ latency = "9 us", table = "links.csv" }', tmp_path)


# -- as they were kept -------------------------------------------------------------------------------------------------


def kept_links() -> NodeLinks:
    sends = ExchangeTimes("send", 2, 2, tuple((size, 5e-3 + size / 25e6) for size in SIZES), ("a", "b"))
    reduces = ExchangeTimes("all-reduce", 2, 2, tuple((size, 12e-3 + size / 18e6) for size in SIZES), ("a", "b"))
    return NodeLinks("cpu", "gloo", 1, (sends, reduces), (InterfaceFacts("a"), InterfaceFacts("b")), 0.0)


def test_a_cell_over_machines_like_this_one_runs_on_the_links_measured_between_them(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    cell = make_cell(cluster={"preset": "this-machine"}, sweep={"strategy": ["sync-ddp"], "gpus": [2]}, device="cpu")
    one, two = replace(cell, nodes=1), replace(cell, nodes=2)
    assert cluster_of(two).node_link is None  # nothing is known of any link between machines
    keep_node_links(detect_machine(), cell.threads_per_device, kept_links())
    assert cluster_of(one).node_link is None
    found = cluster_of(two)
    assert (found.gpus_per_node, found.nodes(2)) == (1, 2)
    assert (found.node_link.latency_s, found.node_link.bandwidth_bytes_per_s) == pytest.approx((5e-3, 25e6), rel=1e-3)
    assert all_reduce_s(found, 2, 2.0**20) == pytest.approx(12e-3 + 2**20 / 18e6)  # as measured, not as sends tell
    assert "calibrated" in found.text
    given = cluster_of(replace(two, cluster=replace(two.cluster, inter_node=GivenLink(1e-6, 1e9))))
    assert given.node_link.bandwidth_bytes_per_s == 1e9
    # A server of a real cell runs beside the first workers; on links that are only given it has a node of its own.
    assert [Costs(ANY, each).node_of(-1, Layout()) for each in (found, given)] == [0, -1]


def test_simulated_cells_of_this_machine_fill_as_many_machines_as_real_ones():
    text = 'engine = "both"\ndevice = "cpu"\nsweep.strategy = "sync-ddp"\nsweep.gpus = [1, 2]\n'
    for nodes, expected in ((1, {1: 1, 2: 1}), (2, {1: 1, 2: 2})):
        plan = make_plan(parse_scenario(text, load_host(), Path("a.toml")), load_host(), Machine(2, nodes=nodes))
        assert {(cell.engine, cell.gpus): cell.nodes for cell in plan.cells} == {
            (engine, gpus): count for engine in ("real", "virtual") for gpus, count in expected.items()
        }
    text += 'cluster.inter_node = "1 GB/s"\n'
    plan = make_plan(parse_scenario(text, load_host(), Path("a.toml")), load_host(), Machine(2))
    assert {cell.gpus: cell.nodes for cell in plan.cells if cell.engine == "virtual"} == {1: 1, 2: 2}


def test_real_cells_may_say_on_which_machine_their_servers_run():
    text = (
        'engine = "both"\ndevice = "cpu"\nsweep.strategy = "async-ps"\nsweep.gpus = 1\ncluster.inter_node = "1 GB/s"\n'
    )
    text += 'cluster.servers = { placement = "dedicated", overlap = false }'
    plan = make_plan(parse_scenario(text, load_host(), Path("a.toml")), load_host(), Machine(2, nodes=2))
    assert {(cell.engine, cell.cluster.servers.placement) for cell in plan.cells} == {
        ("real", "dedicated"),
        ("virtual", "dedicated"),
    }
