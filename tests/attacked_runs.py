"""Runs of the harness that tests attack: each in a folder of its own, watched, ended, and judged by what is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from attacks import below

from harness.core.interrupts import NAMES

GONE_S = 2.0
"""In which all processes have gone after the harness has, as docs/reliability.md promises."""

PATIENCE_S = 900.0
"""Of the attack with what it attacks; chosen: far beyond what a loaded machine needs."""


@contextmanager
def _no_signal_ignored() -> Iterator[None]:
    """Start processes as a terminal does: what their parent ignores, as a background job does, they ignore too."""
    ignored = [number for number in (*NAMES, signal.SIGQUIT) if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    try:
        yield
    finally:
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)


@dataclass
class Attacked:
    """A run of the harness in a folder of its own, whose processes all carry a token.

    Attributes:
        token: stands in the environment of all of them, or among the arguments of those that hide.
    """

    folder: Path
    token: str
    process: subprocess.Popen[str]

    @classmethod
    def started(
        cls, folder: Path, scenario: str, *words: str, program: tuple[str, ...] = ("-m", "harness")
    ) -> Attacked:
        """Start a run as the leader of a group, as a shell does."""
        token = f"attack-{uuid4().hex}"
        (folder / "tmp").mkdir(parents=True, exist_ok=True)
        own = {"ATTACK": token, "TMPDIR": str(folder / "tmp"), "HARNESS_CACHE": str(folder / "cache")}
        with (folder / "said").open("w") as said, _no_signal_ignored():
            process = subprocess.Popen(
                [sys.executable, *program, "run", scenario, *words],
                cwd=folder,
                env=os.environ | own,
                stdout=said,
                stderr=subprocess.STDOUT,
                process_group=0,
                text=True,
            )
        return cls(folder, token, process)

    def ended(self, timeout_s: float = PATIENCE_S) -> int:
        """Return its exit code; where it does not end in time it is ended, and that is the test's failure."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"it has not ended within {timeout_s:g} s: {self.said()}, {self.left()}") from None

    def said(self) -> str:
        """Return what it has printed."""
        return (self.folder / "said").read_text()

    def marked(self) -> list[str]:
        """Return the processes that carry the token, with their commands."""
        found = []
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                known = self.token.encode() in command + Path(f"/proc/{pid}/environ").read_bytes()
            except OSError:  # it has gone, or is another user's
                continue
            if known:
                found.append(f"{pid} {command.replace(bytes(1), b' ')[:200].decode(errors='replace')}")
        return found

    def left(self) -> str:
        """Return which processes are there although the harness has gone long enough."""
        deadline = time.monotonic() + GONE_S
        while (found := self.marked()) and time.monotonic() < deadline:
            time.sleep(0.02)
        for line in found:
            os.kill(int(line.split()[0]), signal.SIGKILL)
        return f"{len(found)} processes left: {found}" if found else ""

    def until(self, condition: Callable[[], object], timeout_s: float = PATIENCE_S) -> bool:
        """Wait until a condition holds; say whether it came to that before the run ended."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True

    def lasts(self, seconds: float) -> None:
        """Wait so long, or until the run has ended."""
        until = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > until)

    def hears(self) -> bool:
        """Say whether it decides about signals by itself: Python does so about SIGINT alone, some time before."""
        try:
            lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        except OSError:
            return False
        caught = next((int(line.split()[1], 16) for line in lines if line.startswith("SigCgt")), 0)
        return bool(caught >> (signal.SIGALRM - 1) & 1)  # the last of those that are taken over

    def tell(self, number: signal.Signals, *, group: bool) -> None:
        """Send a signal to the harness, or as a terminal does to all of its group."""
        (os.killpg if group else os.kill)(self.process.pid, number)

    def litter(self) -> list[str]:
        """Return temporary files of ours, in the temporary folder and among the results."""
        ours = ("harness-", "pymp-")
        temporary = [path.name for path in (self.folder / "tmp").iterdir() if path.name.startswith(ours)]
        return [*temporary, *(path for path in below(self.folder / "results") if ".harness-" in path)]


Records = dict[str, tuple[bytes, dict[str, Any]]]


def records_of(folder: Path) -> tuple[Records, list[str]]:
    """Return every record that lies there, and what is torn: it, or one of its tables."""
    found, torn = {}, []
    for path in folder.glob("results/*/cells/*/record.json"):
        content = path.read_bytes()
        try:
            found[path.parent.name] = (content, json.loads(content))
        except ValueError:
            torn.append(str(path))
        if path.parent.joinpath("evals.csv").exists() and not path.parent.joinpath("evals.csv").read_text().endswith(
            "\n"
        ):
            torn.append(f"{path.parent}/evals.csv")
    return found, torn


def lost_between(before: Records, after: Records) -> list[str]:
    """Return what is wrong with records that were there before: gone, changed although final, fewer attempts."""
    wrong = []
    for cell, (content, record) in before.items():
        if cell not in after:
            wrong.append(f"{cell} has gone")
        elif record["status"] == "ok" and after[cell][0] != content:
            wrong.append(f"{cell} has changed")
        elif after[cell][1]["attempts"] < record["attempts"]:
            wrong.append(f"{cell}: {record['attempts']} attempts became {after[cell][1]['attempts']}")
    return wrong


def simulated_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rows of all simulated cells that came to their end: they depend on nothing but the scenario."""
    records = records_of(folder)[0]
    wanted = {cell: record for cell, (_, record) in records.items() if record["cell"]["engine"] == "virtual"}
    return {cell: record["row"] for cell, record in wanted.items() if record["status"] == "ok"}
