"""What this machine says of the interface that its processes meet over.

Everything is asked of the kernel by calls on a socket, not read from /sys: that shows the interfaces of whoever mounted
it, and in a container or a network namespace these are others.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Mapping
from pathlib import Path

import psutil

from harness.costs.profiles import InterfaceFacts

try:
    import fcntl
except ImportError:  # Windows has neither these calls nor the interfaces' names
    fcntl = None  # type: ignore[assignment]

MEGABIT = 1e6 / 8
"""Bytes a second."""

UNREAL = frozenset({"veth", "tun", "bridge", "dummy", "macvlan", "ipvlan"})
"""Drivers without an adapter: a veth says 10 Gb/s and a TUN device 10 Mb/s, whatever carries them."""

OFFLOADS = {"tso": 0x1E, "gso": 0x23, "gro": 0x2B}
"""Commands that ask for them. Source: linux/ethtool.h (ETHTOOL_GTSO, ETHTOOL_GGSO, ETHTOOL_GGRO)."""

DECIDING = re.compile(r"(GLOO|NCCL|RCCL)_|TP_SOCKET_IFNAME$")
"""Variables that decide how processes reach each other."""

_SIOCETHTOOL = 0x8946
_GDRVINFO = 0x3
_RATE = re.compile(r"([0-9.]+) Gb/sec")
_ADAPTERS = Path("/sys/class/infiniband")


def interface_facts(interface: str, environment: Mapping[str, str] = os.environ) -> InterfaceFacts:
    """Return what this machine says of one of its interfaces; what it does not say is left empty.

    Args:
        interface: its name; empty where only the backend knows.
        environment: of the processes that meet.
    """
    stats = psutil.net_if_stats()
    own, driver = stats.get(interface), driver_of(interface)
    rated = own.speed * MEGABIT if own is not None and driver not in UNREAL else 0.0
    others = {
        name: each.speed * MEGABIT
        for name, each in stats.items()
        if name != interface and each.isup and each.speed * MEGABIT > rated and driver_of(name) not in UNREAL
    }
    return InterfaceFacts(
        host=socket.gethostname(),
        interface=interface,
        mtu=own.mtu if own is not None else None,
        rated_bytes_per_s=rated or None,
        driver=driver,
        offloads=offloads_of(interface) if driver not in UNREAL else {},
        others=others,
        adapters=adapters_of(_ADAPTERS),
        environment={name: value for name, value in sorted(environment.items()) if DECIDING.match(name)},
    )


def driver_of(interface: str) -> str:
    """Return the name of an interface's driver; nothing where there is none, or no way to ask."""
    # struct ethtool_drvinfo: the command, driver[32], and 160 bytes behind it.
    answer = _ask(interface, struct.pack("I192x", _GDRVINFO))
    return answer[4:36].split(b"\0")[0].decode(errors="replace")


def offloads_of(interface: str) -> dict[str, bool]:
    """Return what an adapter may do for the processor, and whether it does; without what cannot be asked."""
    found = {}
    for name, command in OFFLOADS.items():
        if answer := _ask(interface, struct.pack("II", command, 0)):
            found[name] = bool(struct.unpack("II", answer)[1])
    return found


def _ask(interface: str, question: bytes) -> bytes:
    """Return the kernel's answer to a question of ethtool; nothing where it has none."""
    if fcntl is None or not 0 < len(interface) < 16:
        return b""
    import ctypes

    buffer = ctypes.create_string_buffer(question, len(question))
    request = struct.pack("16sP", interface.encode(), ctypes.addressof(buffer))
    request += bytes(40 - len(request))  # struct ifreq
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        try:
            fcntl.ioctl(asking, _SIOCETHTOOL, request)
        except OSError:
            return b""
    return buffer.raw


def adapters_of(folder: Path) -> dict[str, float]:
    """Return InfiniBand and RoCE adapters whose port is active, and their rates in bytes a second."""
    found: dict[str, float] = {}
    for port in sorted(folder.glob("*/ports/*")):
        try:
            state, rate = (port / "state").read_text(), _RATE.match((port / "rate").read_text())
        except OSError:
            continue
        if rate and "ACTIVE" in state:
            name = port.parent.parent.name
            found[name] = max(found.get(name, 0.0), float(rate[1]) * 1e9 / 8)
    return found
