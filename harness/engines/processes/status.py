"""What each process of a cell is doing, for the supervisor to read: how a deadlock gets its words."""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

RECORD = struct.Struct("<?d40s")
RECORD_BYTES = 64


class Waits(NamedTuple):
    """A process that waits, for what, and since when on the host's clock."""

    word: str
    since_s: float


class Status:
    """One process's line in a file that the supervisor maps too."""

    def __init__(self, descriptor: int, line: int, lines: int) -> None:
        self._map = mmap.mmap(descriptor, max(lines * RECORD_BYTES, mmap.PAGESIZE))
        self._offset = line * RECORD_BYTES

    def waiting(self, word: str) -> None:
        """Say that this process waits from now on."""
        RECORD.pack_into(self._map, self._offset, True, time.monotonic(), word.encode()[:40])

    def running(self) -> None:
        """Say that it goes on."""
        self._map[self._offset] = 0


class StatusBoard:
    """The supervisor's view of all lines."""

    def __init__(self, lines: int) -> None:
        from harness.engines.processes.slots import make_slot_file

        self.descriptor = make_slot_file()
        self.lines = lines
        os.ftruncate(self.descriptor, max(lines * RECORD_BYTES, mmap.PAGESIZE))
        self._map = mmap.mmap(self.descriptor, max(lines * RECORD_BYTES, mmap.PAGESIZE))

    def read(self, line: int) -> Waits | None:
        """Return what a process waits for, or None while it runs."""
        waits, since, word = RECORD.unpack_from(self._map, line * RECORD_BYTES)
        return Waits(word.rstrip(b"\0").decode(errors="replace"), since) if waits else None

    def close(self) -> None:
        """Unmap and forget; the file has no name."""
        self._map.close()
        os.close(self.descriptor)
