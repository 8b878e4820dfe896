"""Waiting for another process, never for ever: its words are taken in as they come, and its end has a deadline."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import struct
import time
from collections.abc import Iterable
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from typing import Any

from harness.engines.processes.kernel_kills import kernel_kills

Said = Any
"""What one process tells another; whoever hears it knows what was asked."""

REAP_S = 5.0
"""Longest that killed processes are waited for; chosen: one that is stuck in a driver is left to the system."""

AT_ONCE = 2**20
"""Most bytes that are read in one go; chosen: several times what a pipe holds."""

_SHORT, _LONG = struct.Struct("!i"), struct.Struct("!Q")
"""A word's length as `multiprocessing.connection` writes it: four bytes, or -1 and eight more for 2 GiB and above."""


class Silent(Exception):
    """Nothing, or not all of a word, came in time."""


class Ear:
    """The receiving end of a pipe between processes.

    `Connection.recv` waits for the rest of a word that has begun, so that a process which is stopped in the middle of
    one holds its reader for ever. This end takes in what has come and keeps it.
    """

    def __init__(self, pipe: connection.Connection) -> None:
        self._pipe = pipe
        self._parts, self._missing = bytearray(), _SHORT.size
        self._length: struct.Struct | None = _SHORT

    def fileno(self) -> int:
        """Return the descriptor, so that several ears can be waited for at once."""
        return self._pipe.fileno()

    def words(self) -> list[Said]:
        """Return the words that are complete by now, without waiting for any.

        Raises:
            EOFError: the other end is closed, and no whole word was left.
            OSError: the pipe is broken, or what came is no word.
        """
        found: list[Said] = []
        try:
            while self._pipe.poll(0):
                if self._take():
                    found.append(self._word())
        except (EOFError, OSError):
            if not found:
                raise
        return found

    def word(self, seconds: float) -> Said:
        """Return the next word.

        Args:
            seconds: the longest to wait for all of it.

        Raises:
            Silent: it did not come in time.
            EOFError: the other end is closed.
            OSError: the pipe is broken, or what came is no word.
        """
        deadline = time.monotonic() + seconds
        while self._pipe.poll(max(0.0, deadline - time.monotonic())):
            if self._take():
                return self._word()
        raise Silent

    def _take(self) -> bool:
        """Read what is there, as far as it belongs to this word; return whether the word is whole."""
        part = os.read(self._pipe.fileno(), min(self._missing, AT_ONCE))
        if not part:
            raise EOFError
        self._parts += part
        self._missing -= len(part)
        if self._missing or self._length is None:
            return not self._missing
        (self._missing,) = self._length.unpack(self._parts)
        self._parts.clear()
        self._length = _LONG if self._missing < 0 else None
        if self._length is not None:
            self._missing = self._length.size
        return not self._missing

    def _word(self) -> Said:
        content, self._parts = self._parts, bytearray()
        self._missing, self._length = _SHORT.size, _SHORT
        try:
            return ForkingPickler.loads(content)
        except Exception as error:  # whoever holds the other end may write anything into it
            raise OSError(f"what came is no word: {type(error).__name__}") from error


def receive(pipe: connection.Connection, seconds: float) -> Said:
    """Return the next word of a pipe whose words are taken one by one.

    Args:
        seconds: the longest to wait for all of it.

    Raises:
        Silent: it did not come in time.
        EOFError: the other end is closed.
        OSError: the pipe is broken, or what came is no word.
    """
    return Ear(pipe).word(seconds)


def send(descriptor: int, content: bytes | memoryview, seconds: float) -> None:
    """Write everything into a pipe, whose end then does not block any more.

    Raises:
        Silent: whoever reads it did not take it all in time.
        OSError: nobody reads it.
    """
    os.set_blocking(descriptor, False)
    deadline, left = time.monotonic() + seconds, memoryview(content)
    while left:
        if not select.select([], [descriptor], [], max(0.0, deadline - time.monotonic()))[1]:
            raise Silent
        with contextlib.suppress(BlockingIOError):
            left = left[os.write(descriptor, left[:AT_ONCE]) :]


def how_ended(process: BaseProcess, kernel_kills_before: int | None = None) -> str:
    """Return in words how a process ended that said nothing of it.

    Args:
        kernel_kills_before: the count when it was started.
    """
    code = process.exitcode
    if code is None:
        return "closed its connection and lives on"
    if was_ended_for_memory(process, kernel_kills_before):
        return "was ended by the kernel because memory ran out"
    if code >= 0:
        return f"ended with exit code {code} without a word"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal has no name
        return f"was killed by signal {-code}"


def was_ended_for_memory(process: BaseProcess, kernel_kills_before: int | None) -> bool:
    """Whether the kernel, and not somebody, has killed a process: the control group's count has grown since."""
    now = kernel_kills()
    grown = kernel_kills_before is not None and now is not None and now > kernel_kills_before
    return grown and process.exitcode == -signal.SIGKILL


def reap(processes: Iterable[BaseProcess], patience_s: float) -> list[BaseProcess]:
    """See processes off: what has not left after a while is killed.

    Args:
        patience_s: time for all of them to leave by themselves.

    Returns:
        Those that a kill has not ended within `REAP_S`: they are stuck in the kernel, and left to it.
    """
    left = _left([process for process in processes if process.pid is not None], patience_s)
    for process in left:
        with contextlib.suppress(OSError):
            process.kill()
    return _left(left, REAP_S)


def _left(processes: list[BaseProcess], seconds: float) -> list[BaseProcess]:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    return [process for process in processes if process.exitcode is None]
