"""Nodes of a cluster on one machine: network namespaces with host names of their own, joined by a switch or a wire.

    with nodes(2, bits_per_s=200e6) as (one, other):
        one.run(["ip", "addr"])
        process = other.start([sys.executable, "rank.py"])
        other.cut()

What is on a node sees its own interfaces and loopback, and reaches the other nodes by their addresses alone. Files,
processes, memory and the clock are the machine's. A node's network cannot be told from a machine's by what runs on it.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import IO

import pytest
from places import TESTS
from wire import DEVICE, inside

PREFIX = "harness-test-"

BURST_BYTES = 32 * 2**10
"""Of tbf's bucket, which passes at any speed after a pause; chosen: below what a rate is measured by."""

QUEUE_S = 0.05
"""How long a packet may wait for a shaped port before it is dropped; chosen, as TOOLS of such links do: 50 ms."""

ENDING_S = 5.0
"""For what runs on a node to end when it is killed, and for a wire to come up; chosen."""

_serial = itertools.count()


@dataclass(frozen=True)
class Node:
    """A network namespace.

    Attributes:
        name: of the namespace, unique on the machine.
        host: the host name that commands see there.
        address: that the other nodes reach.
        interface: that has it.
        started: processes that were started here through it.
    """

    name: str
    host: str
    address: str
    interface: str
    started: list[subprocess.Popen[str]] = field(default_factory=list, compare=False)

    def command(self, words: Sequence[str]) -> list[str]:
        """Return the words that run a command on this node; its process is the command itself, so signals reach it."""
        # Not `ip netns exec`: it mounts a new /sys, which hides /sys/fs/cgroup.
        named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.host]
        return ["nsenter", f"--net=/run/netns/{self.name}", *named, *words]

    def run(
        self, words: Sequence[str], timeout_s: float = 60.0, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command here and return what it printed; `env` is added to this process's."""
        environment = {**os.environ, **(env or {})}
        return subprocess.run(self.command(words), capture_output=True, text=True, timeout=timeout_s, env=environment)

    def start(
        self,
        words: Sequence[str],
        env: Mapping[str, str] | None = None,
        stdout: IO[str] | int | None = subprocess.PIPE,
        stderr: IO[str] | int | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command here; what still runs when the nodes go is killed."""
        environment = {**os.environ, **(env or {})}
        process = subprocess.Popen(self.command(words), stdout=stdout, stderr=stderr, text=True, env=environment)
        self.started.append(process)
        return process

    def socket(self, kind: socket.SocketKind = socket.SOCK_STREAM) -> socket.socket:
        """Return a new IPv4 socket of this process that lives on this node."""
        with inside(self.name):
            return socket.socket(socket.AF_INET, kind)

    def cut(self) -> None:
        """Set this node's link down: what it sends and what it is sent is lost, and nobody is told."""
        _ip("-n", self.name, "link", "set", self.interface, "down")

    def mend(self) -> None:
        """Set this node's link up again."""
        _ip("-n", self.name, "link", "set", self.interface, "up")

    def addresses(self) -> dict[str, list[str]]:
        """Return this node's interfaces and the IPv4 addresses of each."""
        found = json.loads(_ip("-n", self.name, "-json", "-4", "addr"))
        return {each["ifname"]: [info["local"] for info in each["addr_info"]] for each in found}

    def processes(self) -> list[int]:
        """Return the ids of what runs on this node, whoever started it."""
        return [int(word) for word in _ip("netns", "pids", self.name).split()]

    def kill(self) -> None:
        """Kill everything that runs on this node at once, as a machine's loss does; its link stays up."""
        for process in self.started:
            process.kill()  # first: it may not have entered yet, and would not be found here
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)


@contextmanager
def nodes(number: int, *, bits_per_s: float | None = None, delay_s: float | None = None) -> Iterator[list[Node]]:
    """Make nodes for the duration of a block; skips the test where this machine cannot.

    Without a delay every node has a port of a switch, shaped both ways by `tc tbf` where a rate is given. With a delay
    the two nodes are joined by a wire in user space (tests/wire.py), since few kernels of containers have netem.

    Args:
        bits_per_s: of a link, headers included: at an MTU of 1500, 96 % of it is what TCP carries.
        delay_s: one way; for two nodes and with a rate.
    """
    if reason := why_not():
        pytest.skip(reason)
    if delay_s is not None and (number != 2 or bits_per_s is None):
        raise ValueError("a wire joins two nodes, and has a rate")
    _sweep()
    base = f"{PREFIX}{os.getpid()}-{next(_serial)}"
    switch, interface = f"{base}-switch", "eth0" if delay_s is None else DEVICE
    made = [Node(f"{base}-node{k}", f"node{k}", f"10.77.0.{k + 1}", interface) for k in range(number)]
    wire = None
    try:
        for node in made:
            _ip("netns", "add", node.name)
            _ip("-n", node.name, "link", "set", "lo", "up")
        if delay_s is None:
            _plug(switch, made, bits_per_s)
        else:
            assert bits_per_s is not None
            wire = _lay(made[0], made[1], bits_per_s, delay_s)
        yield made
    finally:
        for node in made:
            with suppress(subprocess.CalledProcessError):
                node.kill()
        if wire is not None:
            wire.kill()
            wire.communicate()
        for name in [switch, *(node.name for node in made)]:
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


@cache
def why_not() -> str | None:
    """Return why nodes cannot be made on this machine, or None."""
    if not sys.platform.startswith("linux"):
        return "nodes are network namespaces of Linux"
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in ("ip", "tc", "nsenter", "unshare"):
        if shutil.which(program) is None:
            return f"no `{program}`: nodes need iproute2 and util-linux"
    name = f"{PREFIX}{os.getpid()}-tried"
    try:
        _ip("netns", "add", name)
        try:
            _ip("-n", name, "link", "add", "br0", "type", "bridge")
            _ip("-n", name, "link", "add", "one", "type", "veth", "peer", "name", "other")
            _shape(name, "one", 1e8)
        finally:
            _ip("netns", "del", name)
    except subprocess.CalledProcessError as error:
        return f"this kernel refuses nodes: {' '.join(error.cmd)}: {error.stderr.strip()}"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "no /dev/net/tun: a wire with a delay needs it"
    return None


def _plug(switch: str, made: Sequence[Node], bits_per_s: float | None) -> None:
    """Give every node a port of a switch, which has a namespace of its own: the machine's network stays as it is."""
    _ip("netns", "add", switch)
    _ip("-n", switch, "link", "add", "br0", "type", "bridge")
    _ip("-n", switch, "link", "set", "br0", "up")
    for k, node in enumerate(made):
        port = f"port{k}"
        veth = ["type", "veth", "peer", "name", node.interface, "netns", node.name]
        _ip("-n", switch, "link", "add", port, *veth)
        _ip("-n", switch, "link", "set", port, "master", "br0", "up")
        _ip("-n", node.name, "addr", "add", f"{node.address}/24", "dev", node.interface)
        _ip("-n", node.name, "link", "set", node.interface, "up")
        if bits_per_s is not None:
            _shape(node.name, node.interface, bits_per_s)
            _shape(switch, port, bits_per_s)


def _shape(namespace: str, interface: str, bits_per_s: float) -> None:
    limit = int(bits_per_s / 8 * QUEUE_S) + BURST_BYTES
    tbf = ["tbf", "rate", f"{bits_per_s:.0f}bit", "burst", f"{BURST_BYTES}b", "limit", f"{limit}b"]
    _run("tc", "-n", namespace, "qdisc", "add", "dev", interface, "root", *tbf)


def _lay(one: Node, other: Node, bits_per_s: float, delay_s: float) -> subprocess.Popen[str]:
    ends = [one.name, one.address, other.name, other.address]
    words = [sys.executable, str(TESTS / "wire.py"), *ends, str(bits_per_s), str(delay_s)]
    wire = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert wire.stdout is not None
    if wire.stdout.readline().strip() != "up":
        raise RuntimeError(f"the wire did not come up: it ended with {wire.wait(ENDING_S)}")
    return wire


def _sweep() -> None:
    """Delete the namespaces of tests that were killed before they could."""
    for name in os.listdir("/run/netns") if os.path.isdir("/run/netns") else []:
        process = name.removeprefix(PREFIX).split("-")[0]
        if name.startswith(PREFIX) and process.isdigit() and not os.path.exists(f"/proc/{process}"):
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "del", name)


def _ip(*words: str) -> str:
    return _run("ip", *words)


def _run(*words: str) -> str:
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=30.0).stdout
