"""The seam between a run and whatever runs its cells.

A run (`commands/rounds.py`) knows which cells are missing, what their records mean and where they go. An executor knows
machines. Between them pass two plain values, both of which can be pickled:

- `CellTask` describes one cell to run. `run_elsewhere(task)` (`executors/run_one.py`) runs it to its end on whatever
  machine it is called, without the shared results folder.
- `Ended` is what came of it: the record, its tables, its log and its trace. The run writes them.

An executor is a context manager, entered once for a command. `run`, which may be called several times, takes tasks from
an iterator and yields what ended, in the order of ending:

    with executor:
        with contextlib.closing(executor.run(tasks, watcher)) as ending:
            for ended in ending:
                ...

Rules that both sides keep:

- **Take a task when there is room for it, not before.** Each `next(tasks)` makes the cell's place in the results ready,
  and may find that the budget is used up. Whoever queues elsewhere (an array job) may take all at once.
- **Tasks come round by round**, one seed of all points after another. An executor starts them in this order.
- **A task that is `alone` measures its machine**: nothing else runs there until it has ended.
- **Say when a task starts and where** (`watcher.started`), once and before anything else is said of it.
- **Every task taken is yielded once**, whatever happened to it, unless the executor raises. A cell whose machine was
  lost is run again by the executor, elsewhere, and not yielded before.
- **Wait inside `with Interruptible():`** and nowhere else: the run holds signals back while it writes.
  `KeyboardInterrupt` comes out of `run`; closing the iterator, or leaving the context, ends everything that still runs.
  The run writes the records of what was interrupted.
- **What no cell can be blamed for is raised**, as a `MachineError` in words.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from harness.core.cell import Cell
from harness.core.outcome import TableColumns
from harness.core.records import Json
from harness.engines.processes.status import Reached
from harness.results.store import Record


@dataclass(frozen=True)
class CellTask:
    """One cell to run: all that another process, on another machine too, needs to know.

    Attributes:
        attempts: how often it was tried before.
        plugins: files to load besides the built-in ones, as the command was given them.
        trace: steps to write a trace of, after the warm-up; None: no trace.
        environment: facts of machine and versions that its record states; None: those of the machine that runs it.
        sources: the user's files as they are held by the run, by path: what was hashed is what runs.
        log: file that the cell's processes write to; empty: a temporary one, whose content comes home in `Ended.log`.
    """

    cell: Cell
    attempts: int = 0
    plugins: tuple[str, ...] = ()
    trace: int | None = None
    environment: Json | None = None
    sources: dict[str, bytes] = field(default_factory=dict)
    log: str = ""

    @property
    def cell_id(self) -> str:
        """Return the cell's id."""
        return self.cell.cell_id

    @property
    def alone(self) -> bool:
        """Whether it measures the machine that it runs on, so that nothing else may run there."""
        return self.cell.engine != "virtual"


@dataclass(frozen=True)
class Ended:
    """What came of a task.

    Attributes:
        record: with its status; of a cell that the machine could not try (`Cause.MACHINE`) it is not to be written.
        tables: that belong beside the record, by file name.
        log: what the cell's processes wrote, where the task named no file.
        trace: document of `trace.json`, where one was asked for.
        stored: whether all this lies in the results folder already, because whoever ran the cell wrote it there.
    """

    task: CellTask
    record: Record
    tables: dict[str, TableColumns]
    log: bytes = b""
    trace: Json | None = None
    stored: bool = False


@dataclass(frozen=True)
class Whereabouts:
    """Where a cell runs.

    Attributes:
        host: the machine's name.
        process: of the process that supervises the cell there; 0 where the executor cannot tell.
    """

    host: str
    process: int = 0


class Watcher(Protocol):
    """Whom an executor tells what goes on."""

    def started(self, task: CellTask, place: Whereabouts) -> None:
        """The task is about to run."""

    def reached(self, task: CellTask, reached: Reached) -> None:
        """The task is so far; said twice a second at most, or never."""


class CellExecutor(Protocol):
    """What runs cells.

    Attributes:
        at_once: how many tasks that are not `alone` it can run at one time, as far as it knows now.
        goes_on: what goes on where the run is interrupted, and how to end it, in words; empty where nothing does. The
            run then writes no record of what was interrupted.
    """

    at_once: int

    @property
    def goes_on(self) -> str:
        """Say what goes on after an interruption."""

    def __enter__(self) -> Self:
        """Get ready: connect, start what is needed."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End everything that still runs."""

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        """Run tasks, and yield each when it has ended.

        Raises:
            KeyboardInterrupt: a signal came while it waited.
            MachineError: it cannot go on.
        """
