"""What a message between two processes of this host costs: the real transport, measured as strategies use it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from harness.engines.calibration.single_times import least, typical
from harness.engines.real.messages import NearPeer, Peer, Post, Slots
from harness.engines.shared.flat import Flat
from harness.engines.shared.parcel import Parcel

SIZES = tuple(4**k * 2**10 for k in range(1, 9))
"""Bytes of a value: 4 KiB, 16 KiB, ... 64 MiB."""

PAUSE_S = 0.002
"""Computing between two messages, so that the receiver sleeps when one arrives; chosen: a step of a small network."""

REPEATS = {size: 24 if size <= 2**20 else 8 for size in SIZES}


@dataclass
class _TimedPost(Post):
    """A post that notes how long it copies messages out."""

    takes: list[float] = field(default_factory=list)

    def _read(self, peer: Peer, raw: bytes | bytearray) -> Parcel:
        start = time.monotonic()
        parcel = super()._read(peer, raw)
        self.takes.append(time.monotonic() - start)
        return parcel


def measure_messages(number: int, slots: tuple[Any, Any], pipe: Connection, _: Connection) -> dict[str, Any]:
    """Exchange values of all sizes with one other process and return what this side saw.

    Args:
        number: 0 begins, 1 answers.
        slots: descriptors (outgoing, incoming).
        pipe: to the other process.
    """
    outgoing, incoming = (each.detach() for each in slots)
    seen = {}
    # Sizes rise, and all slots of the size before have been read: each size starts at the front of the same file.
    for size in SIZES:
        peer = NearPeer(1 - number, pipe, Slots(outgoing, size), Slots(incoming, size))
        post = _TimedPost({1 - number: peer}, (size // 4, 0), torch.float32)
        seen[size] = _begin(post, size) if number == 0 else _answer(post, size)
    return seen


def _begin(post: Post, size: int) -> tuple[float, float]:
    """Send and wait for the answer; return seconds of a send and of a round."""
    value, sends, rounds = Flat([torch.zeros(size // 4)]), [], []
    for _ in range(REPEATS[size] + 2):
        _compute(PAUSE_S)
        start = time.monotonic()
        post.send(1, value, start, False)
        sends.append(time.monotonic() - start)
        _receive(post)
        rounds.append(time.monotonic() - start)
    return typical(sends[2:]), typical(rounds[2:])


def _answer(post: _TimedPost, size: int) -> tuple[float, float]:
    """Take what comes and send as much back; return seconds of taking it, and of one way from start to end."""
    value, ways = Flat([torch.zeros(size // 4)]), []
    for _ in range(REPEATS[size] + 2):
        sent_s = _receive(post)
        ways.append(time.monotonic() - sent_s)
        post.send(0, value, time.monotonic(), False)
    return typical(post.takes[2:]), typical(ways[2:])


def _receive(post: Post) -> float:
    """Wait for a message, let its value go, and return when it was sent."""
    while True:
        over, parcel = post.match(None, False)
        if over and parcel is not None:
            return parcel.sent_s
        post.pump(None)


def _compute(seconds: float) -> None:
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        pass


def measure_host(_: Connection) -> dict[str, list[tuple[int, float]]]:
    """Return seconds of loading weights and of adding two values, by their bytes."""
    return {
        "load": [(size, _on_memory(size, torch.Tensor.copy_)) for size in SIZES],
        "add": [(size, _on_memory(size, torch.Tensor.add)) for size in SIZES],
    }


def _on_memory(size: int, operation: Callable[..., object]) -> float:
    a, b = torch.zeros(size // 4), torch.zeros(size // 4)
    return least(lambda: operation(a, b), torch.device("cpu"), repeats=max(2, min(100, 2**24 // size)))
