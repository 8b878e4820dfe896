"""Cells as tasks of array jobs, submitted through submitit; records come by way of the shared results folder.

A job outlives whoever submitted it. What it is to do lies in `results/SCENARIO/slurm/`, a folder for each array: the
same command, given again, finds there what is under way, waits for that, and submits only what is not.
"""

from __future__ import annotations

import os
import pickle
import shutil
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from harness.core.errors import InputError, MachineError
from harness.core.interrupts import Interruptible
from harness.core.machine import detect_machine
from harness.core.outside_text import visible
from harness.core.slurm_options import SlurmOptions
from harness.core.words import counted, listed
from harness.executors.extras import require_extra
from harness.executors.protocol import CellTask, Ended, Watcher, Whereabouts
from harness.executors.run_one import run_one
from harness.executors.slurm_jobs import ArrayJob, jobs_of
from harness.executors.slurm_queue import queued
from harness.executors.slurm_task import Beginning, CellGroups, attempts_lost, beginnings, has_ended
from harness.executors.travel import packed
from harness.results.store import Results

if TYPE_CHECKING:
    from harness.api.host import Host

T = TypeVar("T")

RECORDS_S = 1.0
"""Between two looks at the results folder; chosen: a look is one `stat` for each cell under way."""

QUEUE_S = 5.0
"""Between two looks at the queue; chosen: sites ask not to call `squeue` in a loop."""

LEFT_S = 15.0
"""How long a task must have left the queue before what it has not written is given up; chosen: a network file system
shows a new file within its attribute cache's time, 3 to 60 s by default on NFS, and at once when a folder is listed."""

REQUEUES = 100
"""How often a task may reach its limit of time and go on; chosen: no limit of ours."""

MOST_TASKS = 1000
"""Of an array. Source: slurm.conf(5), MaxArraySize: by default 1001, which its largest index has to stay below."""

LOG_LINES = 10
"""Of a task's log that are shown where it ended without a record; chosen."""


@dataclass(frozen=True)
class TaskShare:
    """What a task of an array asks for.

    Attributes:
        cpus, gpus: on one node.
        alone: whether it measures the node.
    """

    cpus: int
    gpus: int
    alone: bool

    @classmethod
    def of(cls, task: CellTask, cores: int) -> TaskShare:
        """Return what a cell needs; never more CPUs than the machine has that the plan was made for."""
        cell = task.cell
        if not task.alone:
            return cls(1, 0, False)
        if cell.device != "cpu":
            return cls(cell.cores_per_node + 1, cell.gpus, True)
        return cls(min(cores, cell.cores_per_node), 0, True)


@dataclass
class _Open:
    """A cell that has no record yet.

    Attributes:
        key: of the task that runs it.
        begun: how often the watcher was told so.
        gone_s: when its task was first seen to have left the queue.
    """

    task: CellTask
    job: ArrayJob
    key: str
    begun: int = 0
    gone_s: float | None = None


class SlurmExecutor:
    """Runs cells as array jobs of a Slurm cluster, whose nodes share the results folder and this Python.

    Args:
        host: with the run's plugins.
        results: where records are written, on a file system that all nodes share.
        options: of the scenario.

    Raises:
        MachineError: submitit or Slurm's commands are not installed.
        InputError: the path of the results has control characters.
    """

    at_once = 2  # more than one: what is measured has tasks of its own

    def __init__(self, host: Host, results: Results, options: SlurmOptions) -> None:
        require_extra("submitit", "slurm", "--executor slurm")
        for program in ("sbatch", "squeue"):
            if shutil.which(program) is None:
                raise MachineError(
                    f"--executor slurm: there is no {program} here; run this on a node that submits jobs"
                )
        if not (where := str(results.folder.resolve())).isprintable():  # the next line of a script would be run
            raise InputError([f"--executor slurm: {visible(where)}: a path in a job's script stands on one line"])
        self.host, self.results, self.options = host, results, options
        self.folder = results.folder / "slurm"
        self.open: dict[str, _Open] = {}
        self.looked_s = 0.0

    def __enter__(self) -> Self:
        """Nothing is to be got ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the jobs alone: they go on without this process."""

    @property
    def goes_on(self) -> str:
        """Say what goes on when this run is interrupted, and how to end it; empty where nothing does."""
        jobs = sorted({each.key.partition("_")[0] for each in self.open.values()}, key=int)
        if not jobs:
            return ""
        return (
            f"Slurm's {'jobs' if len(jobs) > 1 else 'job'} {listed(jobs)} {'go' if len(jobs) > 1 else 'goes'} on, and "
            f"the same command waits for {counted(len(self.open), 'cell')} again; to end them: scancel {' '.join(jobs)}"
        )

    # -- running -------------------------------------------------------------------------------------------------------

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        """Submit what no job has under way, and yield each cell when its record lies in the folder.

        Raises:
            KeyboardInterrupt: a signal came while it waited; the jobs go on.
            MachineError: Slurm refuses the job, or tasks ended without a record.
        """
        every = list(tasks)
        for task in every:
            if task.cell.not_possible:
                watcher.started(task, Whereabouts(os.uname().nodename, os.getpid()))
                yield run_one(task, self.host)
        wanted = {task.cell_id: task for task in every if not task.cell.not_possible}
        self._join(wanted)
        self._submit([task for cell_id, task in wanted.items() if cell_id not in self.open])
        while self.open:
            yield from self._ended(watcher)
            if self.open:
                self._look_at_queue()
                with Interruptible():
                    time.sleep(RECORDS_S)

    def _ended(self, watcher: Watcher) -> Generator[Ended]:
        for cell_id, each in list(self.open.items()):
            begun = beginnings(each.job.folder, cell_id)
            ended = has_ended(self.results, each.task)
            if (begun or ended) and not each.begun:
                each.begun = 1
                watcher.started(each.task, _place(begun))
            if not ended:
                continue
            del self.open[cell_id]
            record = self.results.record(cell_id)
            assert record is not None
            yield Ended(each.task, record, {}, stored=True)

    def _look_at_queue(self) -> None:
        """See whether tasks have left the queue and not written what they were to write.

        Raises:
            MachineError: all that is left has.
        """
        now = time.monotonic()
        if now - self.looked_s < QUEUE_S:
            return
        self.looked_s = now
        there = queued()
        if there is None:
            return  # a controller that restarts gives no answer, and its jobs go on
        for each in self.open.values():
            each.gone_s = None if each.key in there else (each.gone_s or now)
        if all(each.gone_s is not None and now - each.gone_s >= LEFT_S for each in self.open.values()):
            raise MachineError(self._words_of_gone())

    def _words_of_gone(self) -> str:
        """Say which tasks have ended without the records that they were for, and what one of them said last."""
        tasks = sorted({each.key for each in self.open.values()})
        first = next(iter(self.open.values()))
        lines = [
            f"{counted(len(self.open), 'cell')} have no record, and the tasks of Slurm's that were to run them have "
            f"ended: {listed(tasks[:8])}{', ...' if len(tasks) > 8 else ''}. What is finished is kept; the same "
            "command submits the others again",
            f"the last lines of {first.job.log_of(first.key)}:",
        ]
        try:
            said = first.job.log_of(first.key).read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            said = [f"(it cannot be read: {error.strerror}; is {self.folder} on a file system that all nodes share?)"]
        return "\n".join([*lines, *(f"  {line}" for line in said[-LOG_LINES:])])

    # -- jobs ----------------------------------------------------------------------------------------------------------

    def _join(self, wanted: dict[str, CellTask]) -> None:
        """Wait for what jobs of an earlier run have under way."""
        earlier = jobs_of(self.results)
        there = queued() if earlier else {}
        while there is None:
            with Interruptible():
                time.sleep(QUEUE_S)
            there = queued()
        for job in earlier:
            for key, cells in job.tasks.items():
                for cell_id in cells:
                    if key in there and cell_id in wanted:
                        self.open[cell_id] = _Open(wanted[cell_id], job, key)

    def _submit(self, tasks: Sequence[CellTask]) -> None:
        """Submit an array for each kind of share, the cells of a task in the order of the plan."""
        cores = detect_machine().cores
        earlier = [job.folder for job in jobs_of(self.results)]
        shares: dict[TaskShare, list[CellTask]] = {}
        for task in tasks:
            lost = sum(attempts_lost(folder, task.cell_id) for folder in earlier)
            shares.setdefault(TaskShare.of(task, cores), []).append(replace(task, attempts=task.attempts + lost))
        for share, of_share in shares.items():
            groups = list(_batches(of_share, self.options.cells_per_task))
            for of_array in _batches(groups, MOST_TASKS):
                job = self._submitted(share, of_array)
                for key, group in zip(job.tasks, of_array, strict=True):
                    for task in group:
                        self.open[task.cell_id] = _Open(task, job, key)

    def _submitted(self, share: TaskShare, groups: Sequence[Sequence[CellTask]]) -> ArrayJob:
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        folder = self.folder / f"{time.time_ns():x}"
        self.results.refuse_links(folder)
        folder.mkdir(parents=True, mode=0o700)
        parcels = [[packed(task) for task in group] for group in groups]
        (folder / "parcels.pkl").write_bytes(pickle.dumps(parcels))
        executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=REQUEUES)
        try:
            executor.update_parameters(**asked_for(self.options, share, self.results.folder.name))
            called = CellGroups(str(folder.resolve()), str(self.results.folder.resolve()))
            jobs = executor.map_array(called, range(len(groups)))  # not interruptible: it would be nobody's job
        except (FailedJobError, FailedSubmissionError) as error:
            shutil.rmtree(folder)
            raise InputError([f"[slurm]: Slurm refuses the job: {str(error).strip()}"]) from None
        keys = [str(each.job_id) for each in jobs]
        job = ArrayJob(folder, {key: [task.cell_id for task in of] for key, of in zip(keys, groups, strict=True)})
        job.write()
        return job


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[k : k + size] for k in range(0, len(items), size))


def asked_for(options: SlurmOptions, share: TaskShare, name: str) -> dict[str, object]:
    """Return submitit's parameters of an array.

    Args:
        name: of the scenario.
    """
    named = {key: getattr(options, key) for key in ("partition", "account", "qos", "constraint")}
    given: dict[str, object] = {key: value for key, value in named.items() if value}
    if options.memory_bytes is not None:
        given["mem"] = f"{max(1, options.memory_bytes // 2**20)}M"
    if share.gpus:
        given |= {"gres": f"{options.gres}:{share.gpus}"} if options.gres else {"gpus_per_node": share.gpus}
    if share.alone and options.exclusive:
        given["exclusive"] = True
    if options.setup:
        given["setup"] = list(options.setup)
    return given | {
        "job_name": f"harness-{name}",
        "time": max(1, round(options.time_s / 60)),
        "cpus_per_task": share.cpus,
        "array_parallelism": options.at_once or 10_000,
        "stderr_to_stdout": True,
        # From Slurm 22.05 on a step does not inherit the CPUs of its job. Source: its release notes.
        "srun_args": [f"--cpus-per-task={share.cpus}"],
        "additional_parameters": {"requeue": True, **options.options},
    }


def _place(begun: Sequence[Beginning]) -> Whereabouts:
    return Whereabouts(begun[-1].host, begun[-1].process) if begun else Whereabouts("a node of Slurm's")
