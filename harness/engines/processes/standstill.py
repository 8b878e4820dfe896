"""A standstill: one process of a cell evaluates, all others are stopped where they are, and no clock goes on.

A server that only paused its own clock would give presents: workers would finish their gradients meanwhile, and
whoever reads ahead for them would fill its queues. Waiting until all of them rest would cost asynchronous workers up
to a gradient each.
"""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator

import psutil

from harness.engines.processes.status import StatusLine


class Standstill:
    """Stops and continues the other processes of a cell, and what they have started.

    Args:
        status: of the process that evaluates.
    """

    def __init__(self, status: StatusLine) -> None:
        self._status = status
        self._processes: list[psutil.Process] = []

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep all others still while the block runs."""
        self.find_others()
        began = time.monotonic()
        _tell(self._processes, signal.SIGSTOP)
        try:
            yield
        finally:
            # Written before anybody can read a clock again.
            self._status.stood(time.monotonic() - began)
            _tell(self._processes, signal.SIGCONT)

    def find_others(self) -> None:
        """Find all other processes, once: it takes milliseconds, and none is started during training."""
        if self._processes:
            return
        for pid in self._status.other_processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process = psutil.Process(pid)
                self._processes += [process, *process.children(recursive=True)]


def _tell(processes: list[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(number)
