"""Messages between processes: on one host a header through a pipe and the bytes through shared memory, else by TCP.

On one host the sender copies into a free slot of a file that both sides map and never waits for the receiver: where
all slots are unread, the file grows by one. The file has no name, so nothing is left behind however a process ends. A
killed peer is noticed at once, as the end of its pipe.
"""

from __future__ import annotations

import json
import mmap
import os
import select
import struct
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import torch

from harness.api.strategy import ANY
from harness.core.addresses import Address
from harness.core.errors import MachineError, PluginError
from harness.engines.real.far_lines import FarLines
from harness.engines.real.wire import from_bytes, to_bytes
from harness.engines.shared.encoded import EncodedFlat, Form
from harness.engines.shared.flat import Flat
from harness.engines.shared.parcel import Parcel
from harness.workloads.accelerator import has_queue

HEADER = struct.Struct("<BiqqqBddBiiq")
"""kind, slot, version, samples, sequence, whether there is a loss, loss, sent_s, stop, origin worker, origin step,
bytes of JSON or of an encoded value"""

VALUE, PLAIN, LEAVE, ENCODED = 0, 1, 2, 3
LARGEST_PLAIN = 2**15
"""Bytes of a message that is no value; chosen: fits into a pipe that has room at all, plenty for numbers and words."""

UNSENT_WAIT_S = 0.01
"""How often a waiting endpoint looks whether a full pipe has room again; chosen."""

FLAG_BYTES = mmap.PAGESIZE
"""First page of a slot: its first byte is 1 while the slot holds an unread message. A page, so that slots map alone."""


class Slots:
    """Slots of equal size in a file that two processes map."""

    def __init__(self, descriptor: int, num_bytes: int) -> None:
        self._descriptor = descriptor
        self._size = FLAG_BYTES + -(-num_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
        self._maps: list[mmap.mmap] = []

    @property
    def capacity(self) -> int:
        """Bytes of payload that a slot has room for."""
        return self._size - FLAG_BYTES

    def free(self) -> int:
        """Return the number of a slot that nobody has to read; make one if need be.

        Raises:
            MachineError: there is no room for another one.
        """
        for number, slot in enumerate(self._maps):
            if slot[0] == 0:
                return number
        number = len(self._maps)
        _grow(self._descriptor, number * self._size, self._size)
        self._map_up_to(number)
        return number

    def vector(self, number: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return the payload of a slot as a tensor over the shared memory, shape (count,)."""
        self._map_up_to(number)
        return torch.frombuffer(self._maps[number], dtype=dtype, count=count, offset=FLAG_BYTES)

    def mark(self, number: int, full: bool) -> None:
        """Say that a slot holds an unread message, or that it has been read."""
        self._maps[number][0] = int(full)

    def _map_up_to(self, number: int) -> None:
        while len(self._maps) <= number:
            self._maps.append(mmap.mmap(self._descriptor, self._size, offset=len(self._maps) * self._size))


def _grow(descriptor: int, start: int, num_bytes: int) -> None:
    """Add room to a file, for certain: a sparse file in a full memory disk would kill whoever writes to it.

    Raises:
        MachineError: there is no room.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(descriptor, start, num_bytes)
        else:
            os.ftruncate(descriptor, start + num_bytes)
    except OSError as error:
        raise MachineError(
            f"no room for a message of {num_bytes} bytes in shared memory ({error.strerror}); enlarge /dev/shm "
            "(containers: --shm-size)"
        ) from error


@dataclass(eq=False)
class Receive:
    """One `receive` that has been started."""

    source: Address | None
    leavers: bool
    over: bool = False
    parcel: Parcel | None = None


@dataclass
class Space:
    """Where a value is written before it is sent.

    Attributes:
        slot: number of the receiver's slot; -1 where the value travels behind its header.
        vector: over the memory, shape (count,).
    """

    slot: int
    vector: torch.Tensor


class Peer(Protocol):
    """One other endpoint, near or far.

    Attributes:
        sent: messages sent to it so far.
        capacity: bytes of the longest value; None: as long as there is memory.
    """

    address: Address
    sent: int

    @property
    def capacity(self) -> int | None:
        """Bytes of the longest value that it takes; None: any."""

    @property
    def unsent(self) -> bool:
        """Whether anything is still kept here that was sent."""

    def room(self, count: int, dtype: torch.dtype) -> Space:
        """Return where a value of so many numbers is to be written."""

    def put(self, header: bytes, value: Space | None = None) -> bool:
        """Send a header and the value that was written; return whether the receiver is still there, and never wait."""

    def take(self) -> bytes | bytearray:
        """Return the header of a message that has come.

        Raises:
            EOFError, OSError: the peer is gone.
        """

    def value(self, slot: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return what came behind the header taken last, as a tensor that nobody else has, shape (count,)."""


@dataclass(eq=False)
class NearPeer:
    """An endpoint of this machine: its pipe, and the slots in both directions."""

    address: Address
    connection: Connection
    outgoing: Slots
    incoming: Slots
    sent: int = 0
    kept: deque[bytes] = field(default_factory=deque)

    @property
    def capacity(self) -> int | None:
        """Bytes of a slot."""
        return self.outgoing.capacity

    @property
    def unsent(self) -> bool:
        """Whether a header waits for room in the pipe."""
        return bool(self.kept)

    def room(self, count: int, dtype: torch.dtype) -> Space:
        """Return a slot that nobody has to read."""
        slot = self.outgoing.free()
        return Space(slot, self.outgoing.vector(slot, count, dtype))

    def put(self, header: bytes, value: Space | None = None) -> bool:
        """Write a message into the pipe, or keep it until there is room."""
        if value is not None:
            self.outgoing.mark(value.slot, full=True)
        self.kept.append(header)
        there = self.flush()
        if value is not None and not there:
            self.outgoing.mark(value.slot, full=False)
        return there

    def flush(self) -> bool:
        """Write what was kept, as far as there is room; return whether the receiver is still there."""
        try:
            # A socket counts as writable while half of its buffer (some 100 kB) is free: more than any message takes.
            while self.kept and select.select([], [self.connection], [], 0)[1]:
                self.connection.send_bytes(self.kept[0])
                self.kept.popleft()
        except OSError:
            self.kept.clear()  # to a receiver that is gone nothing is owed
            return False
        return True

    def take(self) -> bytes:
        """Return the header of a message that has come; errors as of `Peer.take`."""
        # Who freezes in the middle of a header holds this process, and the supervisor's deadline ends them both.
        return self.connection.recv_bytes()

    def value(self, slot: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return a copy of what a slot holds, and let it be used again."""
        copied = self.incoming.vector(slot, count, dtype).clone()
        self.incoming.mark(slot, full=False)
        return copied


@dataclass(eq=False)
class FarPeer:
    """An endpoint of another machine, at the end of a line."""

    address: Address
    lines: FarLines
    sent: int = 0
    _content: bytearray = field(default_factory=bytearray)

    capacity: int | None = None

    @property
    def unsent(self) -> bool:
        """Whether the thread has not sent all of it yet."""
        return self.lines.lines[self.address].unsent

    @property
    def has_mail(self) -> bool:
        """Whether something has come from it."""
        return bool(self.lines.lines[self.address].inbox)

    def room(self, count: int, dtype: torch.dtype) -> Space:
        """Return memory of its own: it is sent from there."""
        return Space(-1, torch.empty(count, dtype=dtype))

    def put(self, header: bytes, value: Space | None = None) -> bool:
        """Hand both to the thread."""
        content = memoryview(b"") if value is None else memoryview(value.vector.view(torch.uint8).numpy())
        return self.lines.send(self.address, header, content)

    def take(self) -> bytearray:
        """Return the header of a message that has come; errors as of `Peer.take`."""
        came = self.lines.lines[self.address].inbox.popleft()
        if came is None:
            raise EOFError
        header, self._content = came
        return header

    def value(self, slot: int, count: int, dtype: torch.dtype) -> torch.Tensor:
        """Return what came behind the header, without a copy."""
        content, self._content = self._content, bytearray()
        return torch.frombuffer(content, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)


@dataclass
class Post:
    """All peers of one endpoint, and what has arrived from them.

    Attributes:
        shape: (number of parameters, number of buffer values), the same for every value.
        form: what encoded values decode to here.
        taken: sources of the messages taken so far, in order; None ends one poll.
        lost: those of the gone that went without a farewell.
    """

    peers: dict[Address, Peer]
    shape: tuple[int, int]
    dtype: torch.dtype
    queue: deque[Parcel] = field(default_factory=deque)
    gone: set[Address] = field(default_factory=set)
    taken: list[Address | None] = field(default_factory=list)
    lost: set[Address] = field(default_factory=set)
    form: Form | None = None

    @property
    def whole_bytes(self) -> int:
        """Bytes of a value, buffers included."""
        return sum(self.shape) * int(self.dtype.itemsize)

    # -- sending -------------------------------------------------------------------------------------------------

    def send(self, to: Address, value: Any, sent_s: float, stop: bool) -> int:
        """Copy a value into shared memory, or a plain one into the pipe; return the bytes sent.

        A receiver that is gone takes nothing; that is not the sender's error.

        Raises:
            PluginError: a plain value is too large.
            MachineError: shared memory has no room for a value.
        """
        peer = self.peers[to]
        if to in self.gone:
            return 0
        peer.sent += 1
        if isinstance(value, Flat):
            return self._send_value(peer, value, sent_s, stop)
        if isinstance(value, EncodedFlat):
            return self._send_encoded(peer, value, sent_s, stop)
        text = json.dumps(value).encode()
        if len(text) > LARGEST_PLAIN:
            limit = f"at most {LARGEST_PLAIN}; weights and gradients have no limit"
            raise PluginError(f"send of {len(text)} bytes of plain values: {limit}")
        header = HEADER.pack(PLAIN, -1, 0, 0, peer.sent, 0, 0.0, sent_s, stop, -1, -1, len(text))
        return HEADER.size + len(text) if peer.put(header + text) else 0

    def _send_value(self, peer: Peer, value: Flat, sent_s: float, stop: bool) -> int:
        num_buffers = 0 if value.buffers is None else value.buffers.numel()
        room = peer.room(self.shape[0] + num_buffers, self.dtype)
        vector = room.vector
        if len(value.pieces) > 1 and has_queue(value.pieces[0].device):
            value.vector()  # in one copy: each one off the device makes the host wait
        offset = 0
        for piece in value.pieces if num_buffers == 0 else [*value.pieces, value.buffers]:
            vector[offset : offset + piece.numel()].copy_(piece.detach().reshape(-1))
            offset += piece.numel()
        loss = (0, 0.0) if value.loss is None else (1, float(value.loss))
        origin = getattr(value, "origin", (-1, -1))
        header = (VALUE, room.slot, value.version, value.num_samples, peer.sent, *loss, sent_s, stop, *origin)
        if not peer.put(HEADER.pack(*header, 0), room):
            return 0
        return HEADER.size + int(vector.numel()) * int(vector.element_size())

    def _send_encoded(self, peer: Peer, value: EncodedFlat, sent_s: float, stop: bool) -> int:
        packed, most = to_bytes(value), peer.capacity
        if most is not None and len(packed) > most:
            raise PluginError(
                f"send of an encoded value of {len(packed)} bytes with its description: more than the {most} that the "
                "value itself may take. Encode it into less, or send it as it is"
            )
        room = peer.room(len(packed), torch.uint8)
        room.vector.copy_(packed)
        header = HEADER.pack(ENCODED, room.slot, 0, 0, peer.sent, 0, 0.0, sent_s, stop, -1, -1, len(packed))
        if not peer.put(header, room):
            return 0
        return HEADER.size + len(packed)

    def leave(self) -> None:
        """Tell everybody that nothing more will come, and stay until all that was sent is in the pipes."""
        for peer in self.peers.values():
            peer.put(HEADER.pack(LEAVE, -1, 0, 0, 0, 0, 0.0, 0.0, 0, -1, -1, 0))
        while any(peer.unsent for peer in self.peers.values() if peer.address not in self.gone):
            self.pump(UNSENT_WAIT_S)

    # -- receiving -----------------------------------------------------------------------------------------------

    def pump(self, timeout: float | None) -> bool:
        """Move at most one message of every peer into the queue; return whether any came.

        One each, so that a fast sender does not starve the others.
        """
        present = [peer for peer in self.peers.values() if peer.address not in self.gone]
        near = {peer.connection: peer for peer in present if isinstance(peer, NearPeer)}
        far = [peer for peer in present if isinstance(peer, FarPeer)]
        if not present:
            return False
        bells = {peer.lines.fileno(): peer.lines for peer in far}
        ready = self._wait([*near, *bells], 0 if any(peer.has_mail for peer in far) else timeout)
        for connection in ready:
            if isinstance(connection, int):
                bells[connection].hush()
            else:
                self._take_one(near[connection])
        mail = [peer for peer in far if peer.has_mail]  # behind the hush: what comes from now on rings again
        for peer in mail:
            self._take_one(peer)
        return bool(ready or mail)

    def _wait(self, waited: list[Connection | int], timeout: float | None) -> list[Connection | int]:
        """Wait for a message; while own ones are kept back, look often whether there is room for them."""
        near = [peer for peer in self.peers.values() if isinstance(peer, NearPeer)]
        while True:
            for peer in near:
                peer.flush()
            kept = any(peer.unsent for peer in near)
            ready = wait(waited, UNSENT_WAIT_S if kept and timeout is None else timeout)
            if ready or not kept or timeout is not None:
                return ready  # type: ignore[return-value]

    def _take_one(self, peer: Peer) -> None:
        try:
            raw = peer.take()
        except (EOFError, OSError):
            self.lost.add(peer.address)
            parcel = Parcel(peer.address, None, 0.0, leaves=True)
        else:
            parcel = self._read(peer, raw)
        if parcel.leaves:
            self.gone.add(peer.address)
        self.queue.append(parcel)

    def _read(self, peer: Peer, raw: bytes | bytearray) -> Parcel:
        fields = HEADER.unpack_from(raw)
        kind, slot, version, samples, _, has_loss, loss, sent_s, stop, worker, step, length = fields
        value: Any = None
        if kind == PLAIN:
            value = json.loads(raw[HEADER.size :])
        elif kind == ENCODED:
            assert self.form is not None
            value = from_bytes(peer.value(slot, length, torch.uint8), self.form)
        elif kind == VALUE:
            value = self._value(peer, slot)
            value.version, value.num_samples, value.loss = version, samples, loss if has_loss else None
            value.origin = (worker, step)
        return Parcel(peer.address, value, sent_s, bool(stop), kind == LEAVE)

    def _value(self, peer: Peer, slot: int) -> Flat:
        parameters, buffers = self.shape
        copied = peer.value(slot, parameters + buffers, self.dtype)
        return Flat([copied[:parameters]], copied[parameters:] if buffers else None)

    def match(self, source: Address | None, leavers: bool) -> tuple[bool, Parcel | None]:
        """Return whether a receive is over, and with what; (True, None) when nobody is left to send."""
        for parcel in list(self.queue):
            if parcel.leaves and not leavers:
                self.queue.remove(parcel)
            elif source is ANY or parcel.source == source:
                self.queue.remove(parcel)
                if not parcel.leaves:
                    self.taken.append(parcel.source)
                return True, parcel
        senders: Sequence[Address] = list(self.peers) if source is ANY else [source]
        return all(sender in self.gone for sender in senders), None

    def poll(self) -> list[Parcel]:
        """Return what is here, notices of leaving left in place."""
        while self.pump(0):
            pass
        here = [p for p in self.queue if not p.leaves]
        self.queue = deque(p for p in self.queue if p.leaves)
        self.taken += [p.source for p in here]
        self.taken.append(None)
        return here
