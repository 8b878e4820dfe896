"""The array jobs of a results folder: what each was to run, and which of their tasks have not ended."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.atomic_files import write_atomically
from harness.core.errors import MachineError
from harness.core.words import counted, listed
from harness.executors.slurm_queue import QueuedTask, queued
from harness.executors.slurm_task import Beginning, beginnings
from harness.results.beside_records import read_beside
from harness.results.store import Results


@dataclass
class ArrayJob:
    """An array that was submitted.

    Attributes:
        folder: its own, in the results folder.
        tasks: submitit's name of each task to the cells that it runs.
    """

    folder: Path
    tasks: dict[str, list[str]] = field(default_factory=dict)

    def write(self) -> None:
        """Keep it for whoever waits for it next."""
        write_atomically(self.folder / "tasks.json", json.dumps(self.tasks, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path, results: Results) -> ArrayJob | None:
        """Return what was kept, or None where nothing was submitted."""
        try:
            content = read_beside(folder / "tasks.json", results.folder)
        except (OSError, ValueError):
            return None
        lists = {key: cells for key, cells in content.items() if isinstance(cells, list)}
        return cls(folder, {key: [str(each) for each in cells] for key, cells in lists.items()})

    def log_of(self, key: str) -> Path:
        """Return where a task of it writes what it prints."""
        return self.folder / f"{key}_0_log.out"


def jobs_of(results: Results) -> list[ArrayJob]:
    """Return the arrays that were ever submitted for a results folder, the first one first."""
    folders = sorted((results.folder / "slurm").glob("*/"))
    return [job for folder in folders if (job := ArrayJob.read(folder, results)) is not None]


UnderWay = tuple[QueuedTask, list[str]]
"""A task that has not ended, with its cells."""


def tasks_under_way(results: Results) -> list[UnderWay] | None:
    """Return this folder's tasks that have not ended; None where Slurm gives no answer, or is not here."""
    jobs = jobs_of(results)
    there = queued() if jobs else {}
    if there is None:
        return None
    return [(there[key], cells) for job in jobs for key, cells in job.tasks.items() if key in there]


def cells_at_work(results: Results, under_way: Iterable[UnderWay]) -> dict[str, Beginning]:
    """Return the cells that tasks of Slurm's run now, with when and where each was begun."""
    running = {cell_id for task, cells in under_way for cell_id in cells if task.node}
    found = {}
    for job in jobs_of(results):
        for cell_id in running & {cell_id for cells in job.tasks.values() for cell_id in cells}:
            begun = beginnings(job.folder, cell_id)
            if begun and not begun[-1].came_of:
                found[cell_id] = begun[-1]
    return found


def refuse_under_way(results: Results) -> None:
    """Refuse to run cells otherwise while jobs of Slurm's may write to the folder.

    Where there is no Slurm, nobody can tell: there its jobs are taken to have ended.

    Raises:
        MachineError: tasks have not ended, or Slurm does not say.
    """
    if not jobs_of(results) or shutil.which("squeue") is None:
        return
    under_way = tasks_under_way(results)
    if under_way is None:
        raise MachineError(
            f"{results.folder}: jobs of Slurm's were submitted from here, and squeue does not say whether they have "
            "ended; wait until it answers, or use another folder (--results)"
        )
    if under_way:
        jobs = sorted({task.key.partition("_")[0] for task, _ in under_way}, key=int)
        raise MachineError(
            f"{results.folder}: {counted(len(under_way), 'task')} of Slurm's ({listed(jobs)}) still run cells here; "
            f"wait for them with --executor slurm, or end them: scancel {' '.join(jobs)}"
        )
