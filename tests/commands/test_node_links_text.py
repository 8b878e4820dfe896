"""Links measured over machines in words: their share of what they are rated at, where to look, and as a scenario."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.api.host import load_host
from harness.commands.cli import main
from harness.commands.node_links_text import (
    Rated,
    age_of,
    cluster_lines,
    describe_nodes,
    rated_as_written,
    rated_by_machines,
    where_to_look,
)
from harness.core import cache
from harness.core.errors import InputError
from harness.core.given_cluster import LinkFigures
from harness.core.machine import detect_machine
from harness.core.records import from_json, to_json
from harness.costs.cells import keep_node_links, load_node_links
from harness.costs.profiles.exchange_times import BUS_SHARES, ExchangeTimes
from harness.costs.profiles.node_links import InterfaceFacts, NodeLinks
from harness.costs.steps.collectives import ring_s
from harness.scenario.read import parse_scenario

SIZES = [4.0**k * 2**10 for k in range(9)]
GIGABIT = 1e9 / 8
BETWEEN = LinkFigures(40e-6, 7.75 * GIGABIT)
RING = LinkFigures(60e-6, 6 * GIGABIT)
INSIDE = LinkFigures(5e-6, 9e9)
RATED = Rated(25 * GIGABIT, 0.94, "ethernet-25g")


def sends(figures: LinkFigures, hosts: tuple[str, ...]) -> ExchangeTimes:
    table = tuple((size, figures.latency_s + figures.seconds(size)) for size in SIZES)
    return ExchangeTimes("send", 2, len(hosts), table, hosts)


def reduces(ranks: int, nodes: int, link: LinkFigures) -> ExchangeTimes:
    return ExchangeTimes("all-reduce", ranks, nodes, tuple((size, ring_s(ranks, size, link)) for size in SIZES))


def facts(host: str, **changes: object) -> InterfaceFacts:
    offloads = {"tso": True, "gso": True, "gro": True}
    return replace(InterfaceFacts(host, "eth0", 1500, 25 * GIGABIT, "mlx5_core", offloads), **changes)


def measured(*nodes: InterfaceFacts, **changes: object) -> NodeLinks:
    exchanges = (sends(INSIDE, ("a",)), sends(BETWEEN, ("a", "b")), reduces(2, 1, INSIDE), reduces(4, 2, RING))
    return replace(NodeLinks("cpu", "gloo", 2, exchanges, nodes or (facts("a"), facts("b")), 0.0), **changes)


# -- shares ------------------------------------------------------------------------------------------------------------


def test_a_slow_link_says_its_share_and_where_to_look():
    text = describe_nodes(measured(), "measured", between=RATED)
    assert "between machines: a message gets 969 MB/s (7.75 Gb/s), delay 40.0 us" in text
    assert "gives 31 % of its rate (3.12 GB/s or 25 Gb/s, ethernet-25g); large messages usually get 94 %" in text
    assert "where to look:" in text
    assert "inside a machine: a message gets 9 GB/s" in text
    assert "nothing says what this link is rated at; name it to see its share: --intra-node LINK" in text


def test_a_good_link_needs_no_looking():
    text = describe_nodes(measured(), "measured", between=Rated(8 * GIGABIT, 0.94, "given"))
    assert "gives 97 % of its rate (1 GB/s or 8 Gb/s, given)" in text
    assert "where to look" not in text


def test_without_being_told_the_machines_say_what_they_are_able_to():
    assert rated_by_machines(measured()) == Rated(25 * GIGABIT, 0.94, "what eth0 of a says")
    slower = measured(facts("a"), facts("b", rated_bytes_per_s=GIGABIT))
    assert rated_by_machines(slower) == Rated(GIGABIT, 0.94, "what eth0 of b says")
    assert rated_by_machines(measured(facts("a"), facts("b", rated_bytes_per_s=None))) is None


def test_adapters_count_where_nccl_may_use_them():
    nodes = [facts(name, adapters={"mlx5_0": 25e9, "mlx5_1": 25e9}) for name in "ab"]
    assert rated_by_machines(measured(*nodes)).bytes_per_s == 25 * GIGABIT  # gloo sends by TCP
    assert rated_by_machines(measured(*nodes, backend="nccl")).bytes_per_s == 50e9
    off = [replace(each, environment={"NCCL_IB_DISABLE": "1"}) for each in nodes]
    assert rated_by_machines(measured(*off, backend="nccl")).bytes_per_s == 25 * GIGABIT


def test_the_slowest_pair_is_named_beside_the_fastest():
    exchanges = [sends(LinkFigures(1e-5, rate), pair) for rate, pair in ((3.5e9, ("a", "b")), (1.5e9, ("b", "c")))]
    links = measured(facts("a"), facts("b"), facts("c"), exchanges=tuple(exchanges))
    text = describe_nodes(links, "measured")
    assert "a message gets 1.5 GB/s (12 Gb/s)" in text
    assert "so it is from b to c; from a to b it gets 3.5 GB/s (28 Gb/s)" in text


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("ethernet-25g", Rated(25 * GIGABIT, 0.94, "ethernet-25g")),
        ("25 Gb/s", Rated(25 * GIGABIT, 0.94, "given")),
        ("400 Gb/s", Rated(400 * GIGABIT, 0.95, "given")),
    ],
)
def test_a_link_is_named_or_rated(written, expected):
    found = rated_as_written("--inter-node", written, False, load_host())
    assert (found.bytes_per_s, found.usual, found.source) == pytest.approx(
        (expected.bytes_per_s, expected.usual, expected.source)
    )


@pytest.mark.parametrize(
    ("written", "says"),
    [("ethernet-25", "did you mean ethernet-25g"), ("25", "expected a link such as"), ("0 Gb/s", "expected a link")],
)
def test_what_is_no_link_is_refused(written, says):
    with pytest.raises(InputError, match=f"--inter-node {written}: .*{says}"):
        rated_as_written("--inter-node", written, False, load_host())


# -- where to look -----------------------------------------------------------------------------------------------------

WHERE = {
    "another interface": (
        {"others": {"eth1": 50 * GIGABIT}},
        "gloo",
        "which says 25 Gb/s; eth1 says 50 Gb/s: try GLOO_SOCKET_IFNAME=eth1",
    ),
    "the interface": ({}, "gloo", "a and b: the others are met over eth0, driver mlx5_core; GLOO_SOCKET_IFNAME"),
    "that of NCCL": ({}, "nccl", "NCCL_SOCKET_IFNAME chooses another"),
    "MTU": ({}, "gloo", "a and b: the MTU of eth0 is 1500; 9000"),
    "MTUs": ({"mtu": 9000}, "gloo", "the MTUs differ (1500 and 9000): set the same"),
    "offload": ({"offloads": {"tso": False, "gro": False}}, "gloo", "tso and gro of eth0 are off: ethtool -K eth0 tso"),
    "one offload": ({"offloads": {"tso": False}}, "gloo", "tso of eth0 is off: ethtool -K eth0 tso on"),
    "InfiniBand and gloo": ({"adapters": {"mlx5_0": 25e9}}, "gloo", "a: mlx5_0 (200 Gb/s) is not used by gloo"),
    "InfiniBand off": (
        {"adapters": {"mlx5_0": 25e9}, "environment": {"NCCL_IB_DISABLE": "1"}},
        "nccl",
        "NCCL_IB_DISABLE keeps NCCL from mlx5_0 (200 Gb/s): unset it",
    ),
    "InfiniBand chosen": (
        {"adapters": {"mlx5_0": 25e9, "mlx5_1": 25e9}, "environment": {"NCCL_IB_HCA": "mlx5_0"}},
        "nccl",
        "NCCL_IB_HCA=mlx5_0 chooses among mlx5_0 (200 Gb/s) and mlx5_1 (200 Gb/s)",
    ),
    "NCCL": ({}, "nccl", "NET/Socket is TCP"),
    "iperf": ({}, "gloo", "`iperf3 -s` on a and `iperf3 -c a` on b"),
}


@pytest.mark.parametrize("name", WHERE)
def test_facts_say_where_to_look(name):
    changes, backend, says = WHERE[name]
    links = measured(facts("a", **changes), facts("b"), backend=backend)
    assert says in "\n".join(where_to_look(links, BETWEEN, RATED, True))


def test_what_is_as_it_should_be_is_not_mentioned():
    links = measured(facts("a", mtu=9000), facts("b", mtu=9000))
    text = "\n".join(where_to_look(links, BETWEEN, RATED, True))
    assert "MTU" not in text
    assert "ethtool" not in text
    assert "in flight" not in text


def test_a_long_fat_link_needs_a_window():
    text = "\n".join(where_to_look(measured(), LinkFigures(0.04, 1e8), RATED, True))
    assert "119 MiB are in flight on such a link, and one connection may hold 4 MiB" in text


# -- as a scenario has it ----------------------------------------------------------------------------------------------


def test_the_lines_of_a_cluster_give_the_measured_link_back():
    lines = "\n".join(cluster_lines(measured()))
    text = f'engine = "virtual"\nsweep.strategy = "sync-ddp"\nsweep.gpus = 4\n{lines}\ndevice = "a100"\n'
    (settings,) = parse_scenario(text, load_host(), Path("a.toml")).settings
    found = settings.cluster
    assert found.gpus_per_node == 2
    for link, single, ring in ((found.inter_node, BETWEEN, {4: RING}), (found.intra_node, INSIDE, {2: INSIDE})):
        assert link.bandwidth_bytes_per_s == pytest.approx(single.bandwidth_bytes_per_s, rel=1e-3)
        assert link.latency_s == pytest.approx(single.latency_s, rel=1e-2)
        assert list(link.by_group) == list(ring)
        for ranks, figures in ring.items():
            rate, latency_s = link.by_group[ranks].bandwidth_bytes_per_s, link.by_group[ranks].latency_s
            assert rate == pytest.approx(figures.bandwidth_bytes_per_s, rel=1e-3)
            assert latency_s == pytest.approx(figures.latency_s, rel=1e-2)


def test_every_exchange_has_a_column_with_its_bus_bandwidth():
    exchanges = [ExchangeTimes(name, 4, 2, ((2.0**20, 1e-3),)) for name in BUS_SHARES if name != "send"]
    text = describe_nodes(measured(exchanges=tuple(exchanges)), "measured")
    assert "4 ranks on 2 machines: time of one, and its bus bandwidth" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("1 MiB"))
    # 2^20 bytes in 1 ms: 1.05 GB/s, times 1.5, 0.75, 0.75, 0.75, 1 and 1.
    rates = ["1.57 GB/s", "786 MB/s", "786 MB/s", "786 MB/s", "1.05 GB/s", "1.05 GB/s"]
    assert [" ".join(row.split()[k : k + 2]) for k in range(4, len(row.split()), 4)] == rates


# -- what is kept ------------------------------------------------------------------------------------------------------


def test_what_was_measured_comes_back_and_is_shown(monkeypatch, tmp_path):
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    assert from_json(NodeLinks, to_json(measured())) == measured()
    keep_node_links(detect_machine(), 1, measured())
    assert load_node_links(detect_machine(), "cpu", 1) == measured()
    assert load_node_links(detect_machine(), "cpu", 2) is None
    shown = CliRunner().invoke(main, ["calibrate", "--show", "--device", "cpu", "--inter-node", "ethernet-25g"])
    assert shown.exit_code == 0
    assert "2 machines (a and b) with 2 ranks each, cpu over gloo: measured" in shown.output
    assert "31 % of its rate" in shown.output


def test_what_another_version_kept_of_machines_counts_as_absent(monkeypatch):
    monkeypatch.setattr(cache, "load", lambda kind, key: {"device": "cpu"})
    assert load_node_links(detect_machine(), "cpu", 1) is None


def test_ages_are_counted_from_the_measurement():
    assert age_of(measured(), now_s=7200.0) == "measured 2 h ago"


# -- what was printed elsewhere ----------------------------------------------------------------------------------------


def test_files_of_one_cluster_become_its_links(tmp_path):
    (tmp_path / "all.txt").write_text(RUN.format(name="all_reduce", busbw="1.50", seconds=1000))
    (tmp_path / "send.txt").write_text(RUN.format(name="", busbw="1.00", seconds=900))
    words = ["calibrate", "--inter-node", "25 Gb/s", "--import", str(tmp_path / "all.txt")]
    done = CliRunner().invoke(main, [*words, "--import", f"sendrecv_perf={tmp_path / 'send.txt'}"])
    assert done.exit_code == 0
    assert "2 machines (a and b) with 2 ranks each, cuda over nccl: read from" in done.output
    assert "gpus_per_node = 2" in done.output
    assert "4 = { bandwidth =" in done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--import", "no.txt"], "no.txt cannot be read: No such file"),
        (["--import", "all-reduc=no.txt"], "all-reduc.*did you mean all-reduce"),
        (["--import", "no.txt", "--show"], "--show and --import: one of them"),
    ],
)
def test_wrong_imports_end_in_one_error(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["calibrate", *words])
    assert done.exit_code == 2
    assert re.search(says, done.output)


RUN = """\
# Collective test starting: {name}_perf
# nThread 1 nGpus 1 minBytes 1000000 maxBytes 1000000
#  Rank  0 Group  0 Pid  1 on  a device  0 [0000:06:00] NVIDIA A100
#  Rank  1 Group  0 Pid  2 on  a device  1 [0000:07:00] NVIDIA A100
#  Rank  2 Group  0 Pid  1 on  b device  0 [0000:06:00] NVIDIA A100
#  Rank  3 Group  0 Pid  2 on  b device  1 [0000:07:00] NVIDIA A100
#       size         count      type   redop    root     time   algbw   busbw  #wrong     time   algbw   busbw  #wrong
#        (B)    (elements)                               (us)  (GB/s)  (GB/s)             (us)  (GB/s)  (GB/s)
  1000000  250000     float     sum      -1  {seconds}    1.00   {busbw}       0  {seconds}    1.00   {busbw}       0
"""
