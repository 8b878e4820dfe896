"""What a machine says of its interfaces: of a node's own, not of the machine's that it runs on."""

from __future__ import annotations

import socket
import subprocess
from types import SimpleNamespace

import psutil
import pytest
from namespaces import nodes
from wire import inside

from harness.engines.calibration import interface_facts as facts_module
from harness.engines.calibration.interface_facts import adapters_of, driver_of, interface_facts, offloads_of


@pytest.mark.dist
def test_a_nodes_interface_is_asked_where_the_node_is():
    with nodes(1) as (node,):
        subprocess.run(["ip", "-n", node.name, "link", "set", "eth0", "mtu", "9000"], check=True)
        with inside(node.name):
            found = interface_facts("eth0", {"GLOO_SOCKET_IFNAME": "eth0", "HOME": "/root", "NCCL_IB_DISABLE": "1"})
            offloads = offloads_of("eth0")
    assert (found.host, found.interface, found.mtu, found.driver) == (socket.gethostname(), "eth0", 9000, "veth")
    assert found.rated_bytes_per_s is None  # a veth says 10 Gb/s, which is no rate
    assert found.others == {}
    assert found.offloads == {}  # and no adapter does anything for the processor
    assert set(offloads) == {"tso", "gso", "gro"}
    assert offloads["gso"]
    assert found.environment == {"GLOO_SOCKET_IFNAME": "eth0", "NCCL_IB_DISABLE": "1"}


@pytest.mark.dist
def test_a_wires_end_says_no_rate():
    with nodes(2, bits_per_s=1e8, delay_s=0.001) as (node, _), inside(node.name):
        found = interface_facts("wire0", {})
    assert (found.mtu, found.driver, found.rated_bytes_per_s) == (1500, "tun", None)


def stats(speed: int, up: bool = True, mtu: int = 1500) -> SimpleNamespace:
    return SimpleNamespace(speed=speed, isup=up, mtu=mtu, duplex=2)


def test_interfaces_that_are_able_to_more_are_named(monkeypatch):
    found = {"eth0": stats(1000), "eth1": stats(25_000), "eth2": stats(100_000, up=False), "br0": stats(10_000)}
    monkeypatch.setattr(psutil, "net_if_stats", lambda: found)
    monkeypatch.setattr(facts_module, "driver_of", lambda name: "bridge" if name == "br0" else "ice")
    monkeypatch.setattr(facts_module, "offloads_of", lambda name: {"tso": False, "gro": True})
    facts = interface_facts("eth0", {})
    assert facts.offloads == {"tso": False, "gro": True}
    assert facts.rated_bytes_per_s == 1e9 / 8
    assert facts.others == {"eth1": 25e9 / 8}  # one is down, and a bridge has no rate of its own


def test_an_interface_that_is_not_there_says_nothing(monkeypatch):
    monkeypatch.setattr(psutil, "net_if_stats", dict)
    facts = interface_facts("none0", {})
    assert (facts.mtu, facts.rated_bytes_per_s, facts.driver, facts.offloads) == (None, None, "", {})
    assert driver_of("") == ""
    assert driver_of("a-name-longer-than-fifteen") == ""


def test_active_adapters_say_their_rates(tmp_path):
    for name, state, rate in (
        ("mlx5_0", "4: ACTIVE", "200 Gb/sec (4X HDR)"),
        ("mlx5_1", "1: DOWN", "100 Gb/sec (4X EDR)"),
        ("mlx5_2", "4: ACTIVE", "none"),
    ):
        port = tmp_path / name / "ports" / "1"
        port.mkdir(parents=True)
        (port / "state").write_text(f"{state}\n")
        (port / "rate").write_text(f"{rate}\n")
    assert adapters_of(tmp_path) == {"mlx5_0": 25e9}
    assert adapters_of(tmp_path / "none") == {}
