"""Where a process stands: each writes its stack to a file of its own when it is asked, whatever it is doing."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import signal
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO

from harness.core.failure import SourceLine

ASKING = signal.SIGUSR2
"""Asks a process for its stack; chosen: nothing that torch or we start uses it."""

ANSWERING_S = 2.0
"""Longest that stacks are waited for; chosen: they are written by a signal handler in C, in milliseconds."""

MOST_OF_A_STACK = 64 * 1024
"""Of one process's stacks that are read; chosen: a hundred frames of ten threads."""

_FRAME = re.compile(r'^  File "(?P<file>.*)", line (?P<number>\d+) in (?P<function>.*)$')
"""A line of `faulthandler`: Python/traceback.c, dump_frame."""


def answer_when_asked(path: str) -> IO[bytes]:
    """Let this process write all its threads' stacks to a file when it gets the signal; return the file, to be kept."""
    file = open(path, "ab")  # noqa: SIM115  # open as long as the process is
    faulthandler.register(ASKING, file, all_threads=True)
    return file


def ask(asked: Sequence[tuple[int, Path]]) -> list[str]:
    """Return the stacks of processes; empty for one that does not answer.

    A stopped process answers as soon as it goes on, and only then: it is continued. Ask only who is to be ended.

    Args:
        asked: (pid, its file) of each.
    """
    for pid, _ in asked:
        with contextlib.suppress(OSError):
            _ask_main_thread(pid)
            os.kill(pid, signal.SIGCONT)
    deadline, before = time.monotonic() + ANSWERING_S, [0] * len(asked)
    while time.monotonic() < deadline:
        time.sleep(0.05)
        sizes = [_size(path) for _, path in asked]
        if all(sizes) and sizes == before:
            break
        before = sizes
    return [_read(path) for _, path in asked]


def _ask_main_thread(pid: int) -> None:
    """Send the signal to a process's main thread, where the system can.

    Of a process that was stopped any thread could take it otherwise, and the main one would go on meanwhile: its stack
    would no longer be the one in which it was stopped.

    Raises:
        OSError: it has gone.
    """
    import ctypes  # late: it is asked for where something is wrong

    tgkill = getattr(ctypes.CDLL(None), "tgkill", None)  # glibc 2.30
    if tgkill is None:
        os.kill(pid, ASKING)
    else:
        tgkill(pid, pid, int(ASKING))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MOST_OF_A_STACK).decode(errors="replace")
    except OSError:
        return ""


def line_in(stack: str, own: Collection[str]) -> tuple[SourceLine, str] | None:
    """Return the line that a process's main thread is in, and the function: the innermost of the user's, if any.

    Args:
        stack: what the process wrote; of several threads the main one is the last, being the oldest.
        own: the user's files.
    """
    last = stack.rstrip().rpartition("\n\n")[2]
    frames = [found for line in last.splitlines() if (found := _FRAME.match(line))]
    in_files = [frame for frame in frames if not frame["file"].startswith("<")] or frames
    chosen = next((frame for frame in frames if frame["file"] in own), in_files[0] if in_files else None)
    return None if chosen is None else (SourceLine(chosen["file"], int(chosen["number"])), chosen["function"])


def is_stopped(pid: int) -> bool:
    """Whether somebody has stopped a process, such as by SIGSTOP."""
    import psutil  # late: it is asked for where something is wrong

    return _status(pid) in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)


def is_at_rest(pid: int) -> bool:
    """Whether a process is neither stopped nor has anything to do: it sleeps until somebody wakes it."""
    import psutil

    status = _status(pid)
    if status is None or status in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP):
        return False
    return sys.platform != "linux" or status == str(psutil.STATUS_SLEEPING)


def _status(pid: int) -> str | None:
    import psutil

    try:
        return str(psutil.Process(pid).status())
    except psutil.Error:
        return None
