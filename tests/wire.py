"""A wire between two network namespaces, with a rate and a delay: for kernels that have no netem.

python tests/wire.py NAMESPACE ADDRESS NAMESPACE ADDRESS BITS_PER_S DELAY_S [MTU]

Each end is a TUN device named wire0. It prints "up" when both are, and carries packets until it is ended; the devices
then vanish, as when a cable is pulled. Only the rate, the delay and the queue are modelled: no loss but a full queue's.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

DEVICE = "wire0"

GRAIN_S = 0.0002
"""Packets so close together leave in one go; chosen: at 200 Mb/s three of them, which halves the wire's own work, and
4 % of the shortest delay that a test asks for."""

QUEUE_BYTES = 2**20
"""What waits for the wire before packets are dropped; chosen: four times what 200 Mb/s and 5 ms hold in flight."""

ETHERNET_BYTES = 14
"""Of each packet's header that a TUN device does not show and `tc` counts, so that both mean the same by a rate."""

AT_ONCE = 32
"""Packets read from one end before the other is looked at; chosen."""

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_IFF_TUN, _IFF_NO_PI = 0x0001, 0x1000

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Have this thread in a network namespace; sockets and devices made here stay there.

    Raises:
        OSError: there is no such namespace, or this process may not enter it.
    """
    here, there = os.open("/proc/thread-self/ns/net", os.O_RDONLY), os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    try:
        _enter(there)
        try:
            yield
        finally:
            _enter(here)
    finally:
        os.close(there)
        os.close(here)


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def open_tun(namespace: str, address: str, mtu: int) -> int:
    """Return the descriptor of a new device in a namespace, with its address of a /24 and up."""
    with inside(namespace):
        tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(tun, _TUNSETIFF, struct.pack("16sH22x", DEVICE.encode(), _IFF_TUN | _IFF_NO_PI))
    for words in (
        ["addr", "add", f"{address}/24", "dev", DEVICE],
        ["link", "set", DEVICE, "mtu", str(mtu), "txqueuelen", "1000", "up"],
    ):
        subprocess.run(["ip", "-n", namespace, *words], check=True)
    return tun


@dataclass
class Direction:
    """One way of the wire.

    Attributes:
        free_s: when the last packet taken will have been put on the wire.
        flying: (when it arrives, packet), oldest first.
    """

    source: int
    target: int
    bytes_per_s: float
    delay_s: float
    free_s: float = 0.0
    flying: deque[tuple[float, bytes]] = field(default_factory=deque)

    def take(self) -> None:
        """Put on the wire what waits at its beginning."""
        for _ in range(AT_ONCE):
            try:
                packet = os.read(self.source, 65535)
            except OSError:  # nothing waits, or the device was set down
                return
            now = time.monotonic()
            start = max(now, self.free_s)
            if (start - now) * self.bytes_per_s > QUEUE_BYTES:
                continue
            self.free_s = start + (len(packet) + ETHERNET_BYTES) / self.bytes_per_s
            self.flying.append((self.free_s + self.delay_s, packet))

    def deliver(self, until_s: float) -> None:
        """Let arrive what is due."""
        while self.flying and self.flying[0][0] <= until_s:
            with suppress(OSError):  # a device that was set down takes nothing: the packet is lost, as on a cut cable
                os.write(self.target, self.flying.popleft()[1])


def carry(one: int, other: int, bytes_per_s: float, delay_s: float) -> None:
    """Carry packets both ways for ever."""
    ways = [Direction(one, other, bytes_per_s, delay_s), Direction(other, one, bytes_per_s, delay_s)]
    while True:
        now = time.monotonic()
        for way in ways:
            way.deliver(now + GRAIN_S / 2)
        due = min((way.flying[0][0] for way in ways if way.flying), default=now + 1.0)
        # select waits to the microsecond; epoll and poll would round up to whole milliseconds.
        ready, _, _ = select.select([one, other], [], [], max(GRAIN_S, due - time.monotonic()))
        for way in ways:
            if way.source in ready:
                way.take()


def main(words: list[str]) -> None:
    """Make both ends and carry."""
    first, first_address, second, second_address, bits_per_s, delay_s = words[:6]
    mtu = int(words[6]) if len(words) > 6 else 1500
    one, other = open_tun(first, first_address, mtu), open_tun(second, second_address, mtu)
    print("up", flush=True)
    carry(one, other, float(bits_per_s) / 8, float(delay_s))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        main(sys.argv[1:])
