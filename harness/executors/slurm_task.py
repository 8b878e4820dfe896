"""One task of an array job: runs a group of cells, and writes each record to the shared folder as soon as it is there.

Whatever ends a task, what has a record stays: a task that is started again, on any node, goes on with what has none.
It is started again after a node's death, a preemption and `scontrol requeue` by Slurm, and at its limit of time by
itself, through submitit, which hears of that limit 90 s before.
"""

from __future__ import annotations

import os
import pickle
import re
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from harness.core.endings import Cause, Status
from harness.core.interrupts import Catching, Uninterrupted, exit_code, take_over, what_came
from harness.core.outside_files import read_outside
from harness.executors.protocol import CellTask
from harness.executors.store_ended import store_ended
from harness.executors.travel import TaskParcel, run_parcel
from harness.results.beside_records import leads_out
from harness.results.store import Results

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission


_PROCESS = re.compile("[0-9]{1,18}", re.ASCII)

STOPPED, ENDED = "stopped", "ended"
"""What came of a beginning: a signal ended it in order, as Ctrl-C does elsewhere; or it has its record."""


@dataclass(frozen=True)
class Beginning:
    """That a cell was begun by a task of an array.

    Attributes:
        when: ISO 8601, in UTC.
        came_of: `STOPPED`, `ENDED`, or empty: it runs still, or went with its node.
    """

    host: str
    process: int
    when: str
    came_of: str = ""


def beginnings(folder: Path, cell_id: str) -> list[Beginning]:
    """Return when a cell was begun by a job; a line that is not whole, or not ours, is not counted.

    Args:
        folder: of the job, `results/SCENARIO/slurm/...`.
    """
    path = folder / "begun" / cell_id
    try:
        content = b"" if leads_out(path, folder) else read_outside(path)
    except OSError:
        return []
    lines = content.decode(errors="replace").splitlines(keepends=True)
    found: list[Beginning] = []
    for parts in (line.split() for line in lines if line.endswith("\n")):
        if len(parts) == 1 and found:
            found[-1] = replace(found[-1], came_of=parts[0])
        elif len(parts) == 3 and _PROCESS.fullmatch(parts[1]):
            found.append(Beginning(parts[0], int(parts[1]), parts[2]))
    return found


def attempts_lost(folder: Path, cell_id: str) -> int:
    """Return how often a cell was begun by a job that nothing came of; while it runs, that counts too."""
    return sum(not each.came_of for each in beginnings(folder, cell_id))


def _note(folder: Path, cell_id: str, *words: str) -> None:
    path = folder / "begun" / cell_id
    path.parent.mkdir(exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")


def _note_begun(folder: Path, cell_id: str) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    _note(folder, cell_id, socket.gethostname(), str(os.getpid()), now)


def has_ended(results: Results, task: CellTask) -> bool:
    """Whether the record that a task is for lies in the folder: one of more attempts than it was given."""
    record = results.record(task.cell_id)
    return record is not None and record.status is not Status.INTERRUPTED and record.attempts > task.attempts


@dataclass(frozen=True)
class CellGroups:
    """Called by submitit in each task of an array with its number.

    Attributes:
        folder: of the job; `parcels.pkl` in it holds the groups.
        results: the scenario's folder.
    """

    folder: str
    results: str

    def __call__(self, number: int) -> int:
        """Run what is left of a group, and return how many cells that were."""
        groups: list[list[TaskParcel]] = pickle.loads((Path(self.folder) / "parcels.pkl").read_bytes())
        take_over()  # submitit ignores SIGTERM, by which Slurm says that it requeues, preempts or cancels
        announced = _end_as_sigterm_does()
        try:
            with Catching(), Uninterrupted():
                return run_group(groups[number], Results(Path(self.results)), Path(self.folder))
        except KeyboardInterrupt:
            for requeue in announced:
                requeue()
            print(f"stopped by {what_came()}: what has no record yet runs when this task is started again", flush=True)
            sys.exit(exit_code())

    def checkpoint(self, number: int) -> DelayedSubmission:
        """Return what goes on after the limit of time: the same, which leaves out what has its record."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, number)


def _end_as_sigterm_does() -> list[Callable[[], object]]:
    """Let the signal that announces the limit of time stop a cell in order, as SIGTERM does.

    Returns:
        What submitit would have done at once, wherever the cell was: filled when the signal comes.
    """
    announced: list[Callable[[], object]] = []
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        own = signal.getsignal(number)
        if not callable(own):
            continue

        def hear(number: int, frame: FrameType | None, own: Callable[[int, FrameType | None], object] = own) -> None:
            announced.append(lambda: own(number, frame))
            os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(number, hear)
    return announced


def run_group(parcels: Sequence[TaskParcel], results: Results, folder: Path) -> int:
    """Run cells that have no record yet, one after another.

    Raises:
        KeyboardInterrupt: a signal came; what has ended is stored.
    """
    ran = 0
    for parcel in parcels:
        if has_ended(results, parcel.task):
            continue
        earlier = attempts_lost(folder, parcel.task.cell_id)
        _note_begun(folder, parcel.task.cell_id)
        print(f"{parcel.task.cell_id}: begun" + (f", after {earlier} that did not end" if earlier else ""), flush=True)
        attempts = parcel.task.attempts + earlier
        try:
            ended = run_parcel(replace(parcel, task=replace(parcel.task, attempts=attempts)))
        except (KeyboardInterrupt, SystemExit):
            _note(folder, parcel.task.cell_id, STOPPED)
            raise
        ran += 1
        if ended.record.cause is Cause.MACHINE:  # it was not tried; the run that waits for it says why
            print(f"{parcel.task.cell_id}: {ended.record.reason}", file=sys.stderr, flush=True)
            _note(folder, parcel.task.cell_id, STOPPED)
            continue
        store_ended(ended, results)
        _note(folder, parcel.task.cell_id, ENDED)
        print(f"{parcel.task.cell_id}: {ended.record.status}", flush=True)
    return ran
