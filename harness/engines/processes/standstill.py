"""A standstill: one process of a cell evaluates, all others are stopped where they are, and no clock goes on.

A server that only paused its own clock would give presents: workers would finish their gradients meanwhile, and
whoever reads ahead for them would fill its queues. Waiting until all of them rest would cost asynchronous workers up
to a gradient each.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Iterator

import psutil

from harness.engines.processes.status import StatusLine


class Standstill:
    """Stops and continues the other processes of a cell, and what they have started.

    Args:
        status: of the process that evaluates.
    """

    def __init__(self, status: StatusLine) -> None:
        self._status = status
        self._elsewhere: Callable[[str, float], None] | None = None
        self._processes: list[psutil.Process] = []

    def tell_elsewhere(self, tell: Callable[[str, float], None]) -> None:
        """Let processes of other machines stand still too.

        Args:
            tell: hears ("still", 0) and ("go on", seconds). They stop and go on as much later as the word takes to get
                there, so that they stand still for as long.
        """
        self._elsewhere = tell

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep all others still while the block runs."""
        self.find_others()
        began = time.monotonic()
        tell_all(self._processes, signal.SIGSTOP)
        if self._elsewhere is not None:
            self._elsewhere("still", 0.0)
        try:
            yield
        finally:
            # Written before anybody can read a clock again.
            stood_s = time.monotonic() - began
            self._status.stood(stood_s)
            if self._elsewhere is not None:
                self._elsewhere("go on", stood_s)
            tell_all(self._processes, signal.SIGCONT)

    def find_others(self) -> None:
        """Find all other processes, once: it takes milliseconds, and none is started during training."""
        if self._processes:
            return
        self._processes = with_children(self._status.other_processes())


def with_children(pids: Iterable[int]) -> list[psutil.Process]:
    """Return processes and all that they have started."""
    found = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            found += [process, *process.children(recursive=True)]
    return found


def tell_all(processes: Iterable[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to all of them that are still there."""
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
