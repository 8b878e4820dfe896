"""What Slurm's queue says of our jobs, by `squeue`: `sacct`, which submitit asks, fails where accounting is off."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass

ASKING_S = 60.0
"""Longest that Slurm may take to answer; chosen: a busy controller takes seconds, and one that restarts gives none."""


@dataclass(frozen=True)
class QueuedTask:
    """A task of an array that has not ended.

    Attributes:
        key: submitit's name for it: JOB_TASK, or JOB of a job that is no array.
        state: Slurm's word, such as PENDING or RUNNING.
        node: where it runs; empty where it waits.
        why: Slurm's word for why it waits, such as Resources or BeginTime.
    """

    key: str
    state: str
    node: str
    why: str


def queued() -> dict[str, QueuedTask] | None:
    """Return all tasks of this user's that have not ended, by their keys; None where Slurm gives no answer just now."""
    words = ["squeue", "--noheader", "--array", f"--user={os.getuid()}", "--format=%F|%K|%T|%N|%r"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=ASKING_S, stdin=subprocess.DEVNULL)
    except (subprocess.TimeoutExpired, OSError):
        return None
    if done.returncode:
        return None
    found = (_read(line) for line in done.stdout.splitlines())
    return {task.key: task for task in found if task is not None}


def _read(line: str) -> QueuedTask | None:
    parts = line.split("|")
    if len(parts) != 5:
        return None
    job, number, state, node, why = (part.strip() for part in parts)
    return QueuedTask(f"{job}_{number}" if number.isdecimal() else job, state, node, why)
