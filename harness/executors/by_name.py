"""From the word after --executor to what runs cells."""

from __future__ import annotations

from harness.api.host import Host
from harness.core.cell import Plan
from harness.core.errors import InputError
from harness.core.machine import detect_machine
from harness.core.words import shortened
from harness.executors.local import Local
from harness.executors.one_by_one import OneByOne
from harness.executors.protocol import CellExecutor
from harness.results.store import Results

MOST_OF_A_CORE = 8
"""Cells at once for each core; chosen: beyond one they win nothing, and each takes a process's memory."""

WRITTEN = "local, local:N (N: cells at once), ray, ray://HOST:PORT, slurm"
"""What may be written after --executor."""


def executor_of(written: str, host: Host, plan: Plan, results: Results) -> CellExecutor:
    """Return the executor that a word names, not entered yet.

    Args:
        host: with the plugins of the run.
        plan: says what is asked of Slurm.
        results: the scenario's folder, which tasks of Slurm's write to.

    Raises:
        InputError: it names none.
        MachineError: what it needs is not installed.
    """
    kind, colon, rest = written.partition(":")
    if kind == "local" and (not colon or (rest.isdecimal() and rest.strip("0"))):
        cores = detect_machine().cores
        most = MOST_OF_A_CORE * cores
        if len(rest) > len(str(most)) or int(rest or 0) > most:
            raise InputError([f"--executor {shortened(written, 100)}: at most local:{most} on these {cores} cores"])
        at_once = int(rest) if colon else cores
        return Local(host, at_once) if at_once > 1 else OneByOne(host)
    if written == "ray" or _is_address(rest, of=kind):
        from harness.executors.ray_executor import RayExecutor

        return RayExecutor(host, rest.removeprefix("//"))
    if written == "slurm":
        from harness.executors.slurm_executor import SlurmExecutor

        return SlurmExecutor(host, results, plan.slurm)
    raise InputError([f"--executor {written}: not an executor; write one of {WRITTEN}"])


def runs_elsewhere(written: str) -> bool:
    """Whether cells do not run on the machine that the command is given on."""
    return written.partition(":")[0] != "local"


def _is_address(rest: str, of: str) -> bool:
    host, _, port = rest.removeprefix("//").rpartition(":")
    return of == "ray" and rest[:2] == "//" and bool(host) and port.isdecimal()
