"""What each process of a cell waits for and how far it is, for the supervisor to read: how a deadlock is found."""

from __future__ import annotations

import mmap
import os
import struct
import time
from typing import NamedTuple

from harness.core.addresses import Address
from harness.engines.processes.slots import make_slot_file
from harness.engines.shared.waits import Wait, Waits

RECORD = struct.Struct("<B?qd")
"""which wait, whether it is for one source only, that source, since when"""

STEPS, EVALUATED = struct.Struct("<q"), struct.Struct("<qd")
"""how many steps, whether there was an evaluation, and its loss: behind the record, each field on eight bytes"""

STEPS_AT, EVALUATED_AT = 32, 40

PROCESS, PROCESS_AT = struct.Struct("<q"), 56
"""which process writes this line"""

RECORD_BYTES = 64
"""Of a process's line: one cache line, so that nobody's writing slows another's."""


BEHIND = struct.Struct("<dd")
"""Behind the lines of the processes: how long the cell has stood still, clock's offset included, and that offset."""


def _board_bytes(lines: int) -> int:
    return max((lines + 1) * RECORD_BYTES, mmap.PAGESIZE)


class Reached(NamedTuple):
    """How far a process is: its steps, and the loss on the validation split where it evaluated."""

    steps: int
    loss: float | None


class StatusLine:
    """One process's line in a file that the supervisor maps too."""

    def __init__(self, descriptor: int, line: int, lines: int) -> None:
        self._map = mmap.mmap(descriptor, _board_bytes(lines))
        self._offset, self._lines = line * RECORD_BYTES, lines
        # How long the cell has stood still stands on a line behind those of the processes. Every stamp reads it, some
        # twenty times a step: by index, 0.10 us instead of 0.23.
        self._numbers, self._stood_at = memoryview(self._map).cast("d"), lines * RECORD_BYTES // 8
        PROCESS.pack_into(self._map, self._offset + PROCESS_AT, os.getpid())

    def clock(self) -> float:
        """Return the host's clock less the time that the cell has stood still."""
        numbers, at = self._numbers, self._stood_at
        while True:
            stood_s = numbers[at]
            now = time.monotonic()
            if stood_s == numbers[at]:  # else a standstill lay between the two readings
                return now - stood_s

    def host_clock(self) -> float:
        """Return the first node's clock, standstills included: this host's where there is but one."""
        return time.monotonic() - self._numbers[self._stood_at + 1]

    def stood(self, seconds: float) -> None:
        """Say that the cell has stood still for so long; one process at a time may."""
        self._numbers[self._stood_at] += seconds

    def stood_s(self) -> float:
        """Return how long the cell has stood still in all."""
        return self._numbers[self._stood_at]

    def other_processes(self) -> list[int]:
        """Return the other processes of the cell."""
        starts = (line * RECORD_BYTES for line in range(self._lines))
        found = [PROCESS.unpack_from(self._map, at + PROCESS_AT)[0] for at in starts if at != self._offset]
        return [process for process in found if process]  # one that has not begun is 0: to a signal, all of us

    def waiting(self, wait: Wait, source: Address | None = None) -> None:
        """Say that this process waits from now on."""
        RECORD.pack_into(self._map, self._offset, wait, source is not None, source or 0, time.monotonic())

    def running(self) -> None:
        """Say that it goes on."""
        self._map[self._offset] = Wait.NONE

    def stepped(self, steps: int) -> None:
        """Say how many steps this process has taken."""
        STEPS.pack_into(self._map, self._offset + STEPS_AT, steps)

    def evaluated(self, loss: float) -> None:
        """Say what an evaluation found."""
        EVALUATED.pack_into(self._map, self._offset + EVALUATED_AT, 1, loss)


class StatusBoard:
    """The supervisor's view of all lines of its machine.

    Args:
        offset_s: this machine's clock less that of the cell's first node.
    """

    def __init__(self, lines: int, offset_s: float = 0.0) -> None:
        self.descriptor = make_slot_file()
        self.lines = lines
        os.ftruncate(self.descriptor, _board_bytes(lines))
        self._map = mmap.mmap(self.descriptor, _board_bytes(lines))
        # A clock that is ahead is one that has stood still: so every process reads the first node's time at no cost.
        BEHIND.pack_into(self._map, lines * RECORD_BYTES, offset_s, offset_s)

    def read(self, line: int) -> Waits | None:
        """Return what a process waits for, or None while it runs."""
        wait, of_one, source, since_s = RECORD.unpack_from(self._map, line * RECORD_BYTES)
        return Waits(Wait(wait), source if of_one else None, since_s) if wait else None

    def reached(self, line: int) -> Reached:
        """Return how far a process is."""
        (steps,) = STEPS.unpack_from(self._map, line * RECORD_BYTES + STEPS_AT)
        evaluated, loss = EVALUATED.unpack_from(self._map, line * RECORD_BYTES + EVALUATED_AT)
        return Reached(steps, loss if evaluated else None)

    def stood(self, seconds: float) -> None:
        """Say that all processes here have stood still for so long; while they do."""
        stood_s, offset_s = BEHIND.unpack_from(self._map, self.lines * RECORD_BYTES)
        BEHIND.pack_into(self._map, self.lines * RECORD_BYTES, stood_s + seconds, offset_s)

    def processes(self) -> list[int]:
        """Return the processes that write here."""
        found = (PROCESS.unpack_from(self._map, line * RECORD_BYTES + PROCESS_AT)[0] for line in range(self.lines))
        return [process for process in found if process]

    def close(self) -> None:
        """Unmap and forget; the file has no name."""
        self._map.close()
        os.close(self.descriptor)
