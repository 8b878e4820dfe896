"""Children of a cell's supervisor for tests: processes that ended as a test says, or any that it has started."""

from __future__ import annotations

from dataclasses import dataclass
from multiprocessing import Pipe
from types import SimpleNamespace
from typing import Any

from harness.engines.processes.hearing import how_ended
from harness.engines.processes.here import Departure
from harness.engines.processes.launch import _Child
from harness.engines.processes.stacks import is_at_rest, is_stopped
from harness.engines.processes.status import StatusBoard
from harness.engines.shared.waits import Waits


@dataclass(eq=False)
class Place:
    """Where one process runs, as the supervisor asks of it.

    Attributes:
        code: that the process ended with; None: it has not.
        pid: of a process that stands for it.
        board: that it writes to.
    """

    code: int | None = None
    pid: int = 0
    board: StatusBoard | None = None
    lost: str = ""

    def how_ended(self, line: int, patience_s: float) -> Departure:
        process: Any = SimpleNamespace(exitcode=self.code)
        return Departure(how_ended(process), killed_by=max(0, -(self.code or 0)))

    def waits(self, line: int) -> Waits | None:
        assert self.board is not None
        return self.board.read(line)

    def is_at_rest(self, line: int) -> bool:
        return is_at_rest(self.pid)

    def is_stopped(self, line: int) -> bool:
        return is_stopped(self.pid)


def child_of(label: str, place: Place | None = None, line: int = 0, code: int | None = None, **fields: Any) -> _Child:
    """Return a child; `fields` are what it has said and whether it is gone."""
    job: Any = SimpleNamespace(kind=label.split()[0], line=line)
    there: Any = place or Place(code)
    return _Child(job, there, Pipe()[0], label, **fields)
