"""The processes of a cell on this machine: started, connected with each other, looked after, ended."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engines.processes.forking import fork_server, sweep, temporary_folder
from harness.engines.processes.hearing import how_ended, reap, was_ended_for_memory
from harness.engines.processes.kernel_kills import kernel_kills
from harness.engines.processes.process import Job, run_process
from harness.engines.processes.slots import Descriptor, make_slot_file
from harness.engines.processes.stacks import ask, is_at_rest, is_stopped
from harness.engines.processes.standstill import tell_all, with_children
from harness.engines.processes.status import Reached, StatusBoard
from harness.engines.shared.waits import Waits

if TYPE_CHECKING:
    import psutil

    from harness.core.cell import Cell


@dataclass(frozen=True)
class Departure:
    """How a process ended that said nothing of it.

    Attributes:
        words: for people, behind its name.
        for_memory: whether the kernel ended it because memory ran out.
        killed_by: number of the signal that ended it; 0 where none did.
    """

    words: str
    for_memory: bool = False
    killed_by: int = 0


def endpoints_of(cell: Cell, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs that write to each other: workers of one device, and servers.

    One worker of several devices has nobody to write to.
    """
    return list(jobs) if cell.gpus == cell.workers else []


class Here:
    """What the supervisor holds of the processes on its own machine, and an agent of those on its node.

    Args:
        plugins: files that the cell's processes load.
        log: file that their output is appended to.
        lines: processes of the whole cell, those of other machines too.
        clock_offset_s: this machine's clock less that of the cell's first node.
    """

    lost = ""
    """Why the machine counts as gone; of other machines it may."""

    def __init__(self, cell: Cell, plugins: Sequence[str], log: str, lines: int, clock_offset_s: float = 0.0) -> None:
        self._cell, self._offset_s = cell, clock_offset_s
        self._context = fork_server(cell, plugins, log, with_data=True)
        self.folder: tempfile.TemporaryDirectory[str] = temporary_folder()
        self.board = StatusBoard(lines, clock_offset_s)
        self._lines = lines
        self._descriptors: list[int] = []
        self.processes: dict[int, BaseProcess] = {}
        self._still: list[psutil.Process] = []
        self._kernel_kills = kernel_kills()

    @property
    def note(self) -> str:
        """Why the user's files were not imported beforehand; empty where they were."""
        return self._context.note

    def pipe(self) -> tuple[Connection, Connection]:
        """Return the two ends of a pipe."""
        return self._context.Pipe()

    def connect(self, jobs: Sequence[Job]) -> None:
        """Give every pair of endpoints here a pipe, and each direction its slots."""
        near = endpoints_of(self._cell, jobs)
        for i, a in enumerate(near):
            for b in near[i + 1 :]:
                a.pipes[b.address], b.pipes[a.address] = self._context.Pipe()
                there, back = make_slot_file(), make_slot_file()
                self._descriptors += [there, back]
                a.slots[b.address] = (Descriptor(there), Descriptor(back))
                b.slots[a.address] = (Descriptor(back), Descriptor(there))

    def start(self, job: Job, control: Connection) -> BaseProcess:
        """Start a process.

        Args:
            control: its end of the connection to the supervisor; closed here.
        """
        job.lines, job.stack = self._lines, str(self.stack_of(job.line))
        job.status, job.clock_offset_s = Descriptor(self.board.descriptor), self._offset_s
        # A daemon may have no children, such as the processes that read data ahead; the kernel ends it with us anyway.
        daemon = not self._cell.workload.loading.workers
        process = self._context.Process(target=run_process, args=(job, control), daemon=daemon)
        process.start()
        control.close()  # with no copy of its end here, a dead child is the end of the pipe
        for connection in (*job.pipes.values(), *job.far.values()):
            connection.close()
        self.processes[job.line] = process
        return process

    def close_descriptors(self) -> None:
        """Close what every process has its copy of by now."""
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()

    # -- looking after them ------------------------------------------------------------------------------------------

    def waits(self, line: int) -> Waits | None:
        """Return what a process waits for, since when on the first node's clock; None while it runs."""
        found = self.board.read(line)
        return found and Waits(found.wait, found.source, found.since_s - self._offset_s)

    def reached(self, line: int) -> Reached:
        """Return how far a process is."""
        return self.board.reached(line)

    def is_at_rest(self, line: int) -> bool:
        """Whether a process sleeps until somebody wakes it, and nobody has stopped it."""
        return is_at_rest(self._pid(line))

    def is_stopped(self, line: int) -> bool:
        """Whether somebody has stopped a process."""
        return is_stopped(self._pid(line))

    def _pid(self, line: int) -> int:
        return self.processes[line].pid or 0

    def stacks(self, lines: Sequence[int]) -> list[str]:
        """Return the stacks of processes that are to be ended; empty where there is no answer."""
        return ask([(self._pid(line), self.stack_of(line)) for line in lines])

    def how_ended(self, line: int, patience_s: float) -> Departure:
        """Return how a process ended that has gone without a word.

        Args:
            patience_s: longest that its end is waited for.
        """
        process = self.processes[line]
        process.join(patience_s)
        words, for_memory = how_ended(process, self._kernel_kills), was_ended_for_memory(process, self._kernel_kills)
        return Departure(words, for_memory, max(0, -(process.exitcode or 0)))

    def stack_of(self, line: int) -> Path:
        """Return the file that a process writes its stack to."""
        return Path(self.folder.name) / f"stack-{line}"

    # -- standing still ----------------------------------------------------------------------------------------------

    def still(self) -> None:
        """Stop all processes here, and what they have started, while a process elsewhere evaluates."""
        self._still = self._still or with_children(self.board.processes())
        tell_all(self._still, signal.SIGSTOP)

    def go_on(self, stood_s: float) -> None:
        """Let them go on; none of their clocks has moved for so long."""
        self.board.stood(stood_s)
        tell_all(self._still, signal.SIGCONT)

    # -- the end -----------------------------------------------------------------------------------------------------

    def see_off(self, patience_s: float) -> None:
        """Wait until all have left by themselves; who has not is killed."""
        reap(self.processes.values(), patience_s)

    def clean_up(self) -> None:
        """End whatever still lives: terminate, wait, kill; then what they have left behind."""
        tell_all(self._still, signal.SIGCONT)  # a stopped one would not hear that it is to end
        for process in self.processes.values():
            if process.is_alive():
                process.terminate()
        reap(self.processes.values(), patience_s=1.0)
        sweep()
        self.close_descriptors()
        self.board.close()
        self.folder.cleanup()
