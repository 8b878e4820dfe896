"""A process that supervises simulated cells, one after another: what runs in it, and the end that its starter holds.

A cell's processes need a supervisor that hears them, ends them when their time is up, and finds out why they failed. It
waits in Python's main thread, where signals and alarms arrive. So every cell that runs beside others gets a supervising
process of its own instead of a thread. All of them are forked from the server that has imported everything, and have
their cells forked from the same servers.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection

from harness.core.errors import HarnessError, MachineError
from harness.core.interrupts import Interruptible
from harness.core.outcome import TableColumns
from harness.core.records import Json
from harness.engines.processes.forking import Lent, borrow, fork_server, give_back, lend
from harness.engines.processes.hearing import Ear, how_ended, reap
from harness.engines.processes.kernel_kills import kernel_kills
from harness.engines.processes.status import Reached
from harness.executors.protocol import CellTask, Ended, Whereabouts
from harness.executors.run_one import run_elsewhere
from harness.results.store import Record

LEAVING_S = 2.0
"""Time for an idle supervisor to leave by itself before it is ended; chosen."""

SLACK_S = 900.0
"""Beyond the two limits of a cell (until it is ready, until it has finished), the longest that its supervisor may keep
silent; chosen: imports of the user's files, tracing of the model and a server that starts anew together."""


@dataclass(frozen=True)
class _CameOfIt:
    """What comes home of a task; the task itself is where it came from."""

    record: Record
    tables: dict[str, TableColumns]
    log: bytes
    trace: Json | None


@dataclass(frozen=True)
class _Broke:
    """Why there is no record: an error of the machine's, in words, or a bug of ours with its traceback."""

    words: str
    bug: bool


class SupervisorLost(Exception):
    """A supervising process has gone, or keeps silent; its text says how."""


class Supervisor:
    """This process's end of a supervising process, which is started at once."""

    def __init__(self, host: str) -> None:
        context = fork_server()
        self.task: CellTask | None = None
        self._until_s = 0.0
        self._kills = kernel_kills()
        self._control, theirs = context.Pipe()
        # Not a daemon: its cells may have children, such as the processes that read data ahead.
        self._process = context.Process(target=supervise, args=(theirs, dict(os.environ)), name="supervisor")
        try:
            with Interruptible():  # the first one waits until torch is imported
                self._process.start()
        finally:
            theirs.close()  # with no copy of its end here, a dead supervisor is the end of the pipe
        self._ear = Ear(self._control)
        self.place = Whereabouts(host, self._process.pid or 0)

    def fileno(self) -> int:
        """Return the descriptor that can be read when it has something to say."""
        return self._ear.fileno()

    def give(self, task: CellTask) -> None:
        """Have it run a task.

        Raises:
            MachineError: the servers that its processes are forked from cannot be started.
            SupervisorLost: it has gone.
        """
        with Interruptible():  # the first task with files of the user's waits until they are imported
            self._lent = lend(task.cell, task.plugins, task.log)
        self.task, self._until_s = task, time.monotonic() + 2 * task.cell.cell_timeout_s + SLACK_S
        try:
            self._control.send((task, self._lent))
        except OSError:
            raise SupervisorLost(self._words()) from None

    def heard(self, ready: bool) -> Iterator[Reached | Ended]:
        """Yield what it has said by now; with what ended, it is free for the next task.

        Args:
            ready: whether its descriptor can be read.

        Raises:
            SupervisorLost: it has gone, or has kept silent for too long.
            MachineError: it could not run the task, for no fault of the cell's.
        """
        if not ready:
            if self.task is not None and time.monotonic() > self._until_s:
                raise SupervisorLost(f"the process that supervised {self.task.cell_id} gave no answer")
            return
        try:
            words = self._ear.words()
        except (EOFError, OSError):
            raise SupervisorLost(self._words()) from None
        for word in words:
            if isinstance(word, _Broke):
                raise _error_of(word)
            if isinstance(word, _CameOfIt):
                assert self.task is not None
                task, self.task = self.task, None
                give_back(self._lent)
                yield Ended(task, word.record, word.tables, word.log, word.trace)
            else:
                yield word

    def leave(self) -> None:
        """Let it end; it has nothing to do."""
        self._control.close()

    def reap(self) -> None:
        """See it off."""
        self.leave()
        reap([self._process], LEAVING_S)

    def _words(self) -> str:
        self._process.join(LEAVING_S)
        of = f" of {self.task.cell_id}" if self.task else ""
        return f"the supervising process{of} {how_ended(self._process, self._kills)}"


def _error_of(broke: _Broke) -> Exception:
    return RuntimeError(broke.words) if broke.bug else MachineError(broke.words)


def supervise(control: Connection, environment: dict[str, str]) -> None:
    """Run tasks as they come, until whoever gives them is gone."""
    gc.freeze()  # what came from the server is shared memory: a collection that walks it would copy it
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; whoever started this ends it
    _say_nothing()
    while True:
        try:
            task, lent = control.recv()
        except (EOFError, OSError):
            return
        answer = _answer(task, lent, control)
        with contextlib.suppress(OSError):
            control.send(answer)


def _answer(task: CellTask, lent: Lent, control: Connection) -> _CameOfIt | _Broke:
    def tell(reached: Reached) -> None:
        with contextlib.suppress(OSError):
            control.send(reached)

    try:
        borrow(lent)
        ended = run_elsewhere(task, tell)
    except (HarnessError, OSError) as error:
        return _Broke(str(error), bug=False)
    except Exception:
        return _Broke(f"{task.cell_id}: {traceback.format_exc()}", bug=True)
    return _CameOfIt(ended.record, ended.tables, ended.log, ended.trace)


def _say_nothing() -> None:
    """Let what plugins print while they are loaded go nowhere: the run that started this has printed it already."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)
