"""The plainest executor: this process runs one cell after another."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Iterable
from types import TracebackType
from typing import Self

from harness.api.host import Host
from harness.executors.protocol import CellTask, Ended, Watcher, Whereabouts
from harness.executors.run_one import run_one


class OneByOne:
    """Runs cells in the order in which they come, each alone on the machine."""

    at_once = 1
    goes_on = ""

    def __init__(self, host: Host) -> None:
        self.host, self.place = host, Whereabouts(socket.gethostname(), os.getpid())

    def __enter__(self) -> Self:
        """Nothing is to be got ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left: whatever ends a cell has ended its processes."""

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        """Run tasks in this process.

        Raises:
            KeyboardInterrupt: a signal came.
        """
        for task in tasks:
            watcher.started(task, self.place)
            yield run_one(task, self.host, lambda reached, task=task: watcher.reached(task, reached))  # type: ignore[misc]
