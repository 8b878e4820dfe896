"""Lines to endpoints of other machines: a header and its value's bytes, sent and taken in by a thread of the process.

A sender never waits for a receiver, and a receiver that computes holds up nobody: what shared memory does on one
machine, this thread does between two. It holds Python's lock only between system calls.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import socket
import struct
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from harness.core.addresses import Address

FRAME = struct.Struct("!IQ")
"""Bytes of a header and of the value behind it."""

CALL_BYTES = 2**20
"""Bytes that one system call moves; chosen: several times what a socket's buffer takes on most systems."""

Came = tuple[bytearray, bytearray] | None
"""A header and its value's bytes; None: the other side is gone."""


@dataclass(eq=False)
class FarLine:
    """The line to one endpoint.

    Attributes:
        inbox: what has come and nobody has taken yet.
        gone: whether the other side is, or the network between.
    """

    address: Address
    socket: socket.socket
    inbox: deque[Came] = field(default_factory=deque)
    gone: bool = False
    outgoing: deque[memoryview] = field(default_factory=deque)
    writing: bool = False
    part: memoryview = field(default_factory=lambda: memoryview(bytearray(FRAME.size)))
    filled: int = 0
    parts: list[bytearray] = field(default_factory=list)

    @property
    def unsent(self) -> bool:
        """Whether anything is still on its way into the network."""
        return bool(self.outgoing) and not self.gone


class FarLines:
    """All lines of one process, and the thread that serves them.

    Args:
        connections: to each endpoint on another machine; they are this object's from now on.
    """

    def __init__(self, connections: Mapping[Address, Connection]) -> None:
        self._lock = threading.Lock()
        self._selector = selectors.DefaultSelector()
        self._rung, self._ring = os.pipe()
        self._asked, self._ask = os.pipe()
        for end in (self._rung, self._ring, self._asked, self._ask):
            os.set_blocking(end, False)
        self.lines: dict[Address, FarLine] = {}
        for address, connection in connections.items():
            taken = socket.socket(fileno=os.dup(connection.fileno()))
            connection.close()
            taken.setblocking(False)
            self.lines[address] = line = FarLine(address, taken)
            self._selector.register(taken, selectors.EVENT_READ, line)
        self._selector.register(self._asked, selectors.EVENT_READ, None)
        threading.Thread(target=self._serve, name="lines", daemon=True).start()

    def fileno(self) -> int:
        """Return a descriptor that can be read from when something has come."""
        return self._rung

    def hush(self) -> None:
        """Take note that something has come: before the inboxes are looked at, so that nothing is missed."""
        with contextlib.suppress(BlockingIOError):
            os.read(self._rung, 65536)

    def send(self, address: Address, header: bytes, content: memoryview) -> bool:
        """Send a header and a value's bytes, and return at once; say whether anybody is there to get them.

        Args:
            content: not to be changed by anybody from now on.
        """
        line = self.lines[address]
        if line.gone:
            return False
        parts = [memoryview(FRAME.pack(len(header), content.nbytes) + header), content]
        with self._lock:
            line.outgoing.extend(part for part in parts if part.nbytes)
        with contextlib.suppress(BlockingIOError):  # it has been asked already
            os.write(self._ask, b"s")
        return True

    # -- the thread ----------------------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            for key, events in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._asked, 65536)
                    self._watch_for_room()
                    continue
                line: FarLine = key.data
                try:
                    if events & selectors.EVENT_WRITE:
                        self._write(line)
                    if events & selectors.EVENT_READ:
                        self._read(line)
                except OSError:
                    self._lose(line)

    def _watch_for_room(self) -> None:
        """Wait for room in the network of every line that has something to send."""
        for line in self.lines.values():
            if line.outgoing and not line.writing and not line.gone:
                line.writing = True
                self._selector.modify(line.socket, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def _write(self, line: FarLine) -> None:
        while line.outgoing:
            part = line.outgoing[0]
            try:
                sent = line.socket.send(part[:CALL_BYTES])
            except BlockingIOError:
                return
            with self._lock:
                if sent == part.nbytes:
                    line.outgoing.popleft()
                else:
                    line.outgoing[0] = part[sent:]
        line.writing = False
        self._selector.modify(line.socket, selectors.EVENT_READ, line)
        self._watch_for_room()  # something may have come to be sent since the last look

    def _read(self, line: FarLine) -> None:
        """Take in what has come; frame, header and value are filled one after the other.

        Raises:
            OSError: the line is broken, or the other side has closed it.
        """
        while True:
            try:
                count = line.socket.recv_into(line.part[line.filled : line.filled + CALL_BYTES])
            except BlockingIOError:
                return
            if not count:
                raise ConnectionError
            line.filled += count
            while line.filled == line.part.nbytes:
                self._filled(line)

    def _filled(self, line: FarLine) -> None:
        """Go on to the next part: behind the frame its two parts, behind both the next frame."""
        whole, line.filled = line.part.obj, 0
        assert isinstance(whole, bytearray)
        if not line.parts:
            line.parts = [bytearray(size) for size in FRAME.unpack(whole)]
            line.part = memoryview(line.parts[0])
            return
        header, content = line.parts
        if whole is header and content:
            line.part = memoryview(content)
            return
        line.parts, line.part = [], memoryview(bytearray(FRAME.size))
        line.inbox.append((header, content))
        self._tell()

    def _lose(self, line: FarLine) -> None:
        self._selector.unregister(line.socket)
        line.socket.close()
        line.gone = True
        with self._lock:
            line.outgoing.clear()
        line.inbox.append(None)
        self._tell()

    def _tell(self) -> None:
        with contextlib.suppress(BlockingIOError):  # it rings already
            os.write(self._ring, b"r")
