"""Profiles of workloads: what cells need and this machine has not measured yet is measured, and kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.environment import describe_environment
from harness.core.errors import MachineError
from harness.core.machine import Machine, detect_machine
from harness.core.words import counted
from harness.costs.cells import keep_step, load_profile, missing_sizes, neighbours_of, profile_key
from harness.costs.profiles import Profile
from harness.engines.calibration import single_times as single
from harness.engines.processes.tasks import hear, started
from harness.workloads.entries import EAGER

if TYPE_CHECKING:
    from harness.core.cell import Cell

STARTING_S = 2.0
"""Least time to load a workload and warm it up, in words to the user only; measured (2 EPYC cores, 2026-11-20)."""

PATIENCE_S = 1800.0
"""Longest time that one workload may take to measure; chosen: an hour-long step is no workload for this machine."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Job:
    """One workload with busy neighbours, and the sizes of it that are missing.

    Attributes:
        cell: any of those that need it.
        sizes: samples to measure.
    """

    cell: Cell
    sizes: tuple[int, ...]

    @property
    def least_s(self) -> float:
        """Least seconds that measuring takes."""
        return STARTING_S + single.ROUNDS * len(self.sizes) * single.BLOCK_S


def missing_jobs(cells: Iterable[Cell], machine: Machine) -> list[Job]:
    """Return what has to be measured before these cells can be simulated; nothing twice."""
    found: dict[str, tuple[Cell, set[int]]] = {}
    for cell in cells:
        for size in missing_sizes(cell, machine):
            key = {**profile_key(cell, machine, size), "size": 0}
            found.setdefault(repr(sorted(key.items())), (cell, set()))[1].add(size)
    return [Job(cell, tuple(sorted(sizes))) for cell, sizes in found.values()]


def ensure_profiles(
    cells: Iterable[Cell], plugins: Sequence[str], say: Say, machine: Machine | None = None, *, goes_on: bool = False
) -> list[Profile]:
    """Measure what these cells need and was never measured here; say first how much that is.

    Args:
        cells: virtual cells without a device of the scenario's own.
        plugins: files to load besides the built-in ones.
        say: shows a line to the user.
        machine: what to measure on; default: this one.
        goes_on: say what could not be measured, and measure the others; running such a cell tells why.

    Raises:
        MachineError: a workload could not be measured.
    """
    cells, machine = list(cells), machine or detect_machine()
    jobs = missing_jobs(cells, machine)
    if jobs:
        names = ", ".join(dict.fromkeys(job.cell.workload.model.name for job in jobs))
        seconds = sum(job.least_s for job in jobs)
        say(f"measuring {counted(len(jobs), 'compute profile')} ({names}), at least {seconds:.0f} s")
    for job in jobs:
        began = time.monotonic()
        try:
            measure_job(job, plugins, machine)
        except MachineError as error:
            if not goes_on:
                raise
            say(f"  {error}")
            continue
        sizes = " and ".join(map(str, job.sizes))
        say(f"  {job.cell.workload.model.name} over {sizes} samples: {time.monotonic() - began:.1f} s")
    return [profile for cell in cells if (profile := load_profile(cell, machine)) is not None]


def measure_job(job: Job, plugins: Sequence[str], machine: Machine) -> None:
    """Measure one workload in a process of its own, beside as many busy ones as its cell has devices, and keep it.

    Raises:
        MachineError: it could not be measured.
    """
    cell, files = job.cell, [str(path) for path in plugins]
    count, what = neighbours_of(cell, machine), f"measuring {cell.workload.model.name}"
    until = time.monotonic() + PATIENCE_S
    with ExitStack() as stack:
        tasks = [(single.keep_busy, (cell, files, max(job.sizes)))] * count
        neighbours = stack.enter_context(started(tasks, cell.threads_per_device, cell))
        for neighbour in neighbours:
            hear(neighbour, what, until - time.monotonic(), kind="ready")
        task = (single.measure, (cell, files, job.sizes, count, device_in_words(cell, machine)))
        (measuring,) = stack.enter_context(started([task], cell.threads_per_device, cell))
        for size, step in hear(measuring, what, until - time.monotonic()).items():
            keep_step(cell, machine, size, step)


def measure_profile(cell: Cell, plugins: Sequence[str] = (), machine: Machine | None = None) -> Profile:
    """Return the profile of a cell's workload, measured here if it never was.

    Raises:
        MachineError: it could not be measured.
    """
    return ensure_profiles([cell], plugins, lambda _: None, machine)[0]


def device_in_words(cell: Cell, machine: Machine) -> str:
    """Return what was measured on, and how steps were executed where they were not eager."""
    how = "" if cell.workload.step == EAGER else f", {cell.workload.step} steps"
    if cell.device == "cuda":
        return f"{machine.gpu_name}{how}"
    threads = counted(cell.threads_per_device, "thread")
    return f"{threads} of {describe_environment(machine)['cpu']}, {machine.cores} cores{how}"
