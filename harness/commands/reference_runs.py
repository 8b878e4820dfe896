"""`harness run --reference`: a plain PyTorch loop beside the cells, to tell the machine from the code."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from harness.core.cell import Cell
from harness.core.parents import run_guarded
from harness.core.words import counted, three
from harness.results.reference import REFERENCE_FILE, Reference, ReferenceRun, read_reference, write_reference
from harness.results.store import Results

LOOP = "plain-loop-1"
"""Names model, data and steps of `plain_loop.py`: change it with any of them."""

SCRIPT = Path(__file__).parents[1] / "engines" / "real" / "plain_loop.py"

LONGEST_S = 120.0
"""Longest that one run may take, the import of torch included; chosen: far beyond what any machine needs."""


def runs_due(done: int, of: int, runs: int) -> int:
    """Return how many of the reference's runs are due when so many cells have ended: first, last, evenly between."""
    return min(runs, 1 + done * (runs - 1) // of) if done < of else runs


class ReferenceRuns:
    """The reference of one night: run where it is due, stored at once, completed by whoever resumes.

    A run that fails is said and left out: it never ends the night.
    """

    def __init__(
        self, results: Results, cells: Sequence[Cell], runs: int, say: Callable[[str], None], chosen: int | None = None
    ) -> None:
        """Find what is there already.

        Args:
            cells: those of the plan; the devices of the measured ones decide where the loop runs.
            runs: wanted in all.
            chosen: how many of the cells this run is about, finished or not; all by default.
        """
        measured = [cell for cell in cells if cell.engine != "virtual"]
        self.results, self.say = results, say
        self.chosen = len(cells) if chosen is None else chosen
        self.device = "cuda" if any(cell.device == "cuda" for cell in measured) else "cpu"
        self.threads = max((cell.threads_per_device for cell in measured), default=1)
        self.kind = f"{LOOP}-{self.device}-{self.threads}"
        self.stored = read_reference(results.folder) or Reference(self.kind, ())
        if self.stored.kind != self.kind:
            set_aside(results, REFERENCE_FILE)
            self.stored = Reference(self.kind, ())
        self.missing, self.tried = max(0, runs - len(self.stored.runs)), 0
        if self.missing and not measured:
            self._do_without("no cell is measured, and simulated times do not depend on this machine")

    def due(self, done: int, of: int) -> None:
        """Run what is due when so many of the session's cells have ended."""
        if self.missing and not of and not self.stored.runs:
            self._do_without("no cell is left to run, so it would run beside none; --fresh runs them again")
        while self.tried < runs_due(done, of, self.missing):
            self.tried += 1
            self.run_once(self.chosen - of + done)

    def _do_without(self, why: str) -> None:
        self.missing = 0
        self.say(f"  reference: not run: {why}")

    def run_once(self, after_cells: int) -> float | None:
        """Run the loop and store its time; None where it failed, which is said."""
        started = datetime.now(UTC)
        found = plain_seconds(self.device, self.threads)
        if isinstance(found, str):
            self.say(f"  reference: a run failed, and the cells go on without it: {found}")
            return None
        self.stored = replace(self.stored, runs=(*self.stored.runs, ReferenceRun(started, after_cells, found)))
        write_reference(self.results.folder, self.stored)
        return found


def plain_seconds(device: str, threads: int) -> float | str:
    """Run the loop in a process of its own; return its seconds, or why there are none."""
    command = [sys.executable, "-P", str(SCRIPT), device, str(threads)]
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    try:
        done = run_guarded(command, LONGEST_S, environment)
    except subprocess.TimeoutExpired:
        return f"it took longer than {LONGEST_S:g} s"
    text = done.stdout if done.returncode == 0 else done.stderr
    last = text.strip().splitlines()[-1] if text.strip() else ""
    if done.returncode:
        return last or f"exit code {done.returncode}"
    try:
        seconds = float(last)
    except ValueError:
        seconds = math.nan
    return seconds if 0 < seconds < math.inf else f"it printed {last or 'nothing'!r} instead of seconds"


def set_aside(results: Results, name: str) -> None:
    """Move a file or folder of the night away: it is of other cells than those that follow.

    Raises:
        MachineError: a link leads out of the results.
    """
    path = results.folder / name
    if path.exists():
        aside = results.folder / "aside" / f"{path.stem}-{time.time_ns()}{path.suffix}"
        results.refuse_links(aside.parent)
        aside.parent.mkdir(parents=True, exist_ok=True)
        path.rename(aside)


def reference_in_words(reference: Reference) -> str:
    """Return how many runs there are, how long they took, and how far they lie apart."""
    seconds = sorted(run.seconds for run in reference.runs)
    apart = f", {three(seconds[0])} to {three(seconds[-1])} s" if len(seconds) > 1 else ""
    return f"{counted(len(seconds), 'run')} of a plain PyTorch loop, median {three(median(seconds))} s{apart}"
