"""Sections one after another, each in a process of its own and within its time; whatever they found is kept.

Imports the standard library only: it has to run, and to say what is missing, on a machine that has nothing else.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import IO

GRACE_S = 8.0
"""Between asking a section to stop and ending it: `harness run` stores what is done when it is asked. Chosen."""

LEAST_S = 5.0
"""A section with less time than this is not begun: starting torch takes as long. Chosen."""

POLL_S = 0.1


class Verdict(StrEnum):
    """How a finding ended."""

    OK = "ok"
    MISSED = "MISSED"
    SEEN = "seen"
    NOT_RUN = "not run here"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Finding:
    """One figure, or one thing that was not run or went wrong.

    Attributes:
        what: in words, with the cell that it is of.
        aim: what it was judged by; empty where it was only looked at.
        why: what the reader must know beside the figure; a traceback where the section failed.
        confirms: ids of the rows of docs/gpu.md that it bears out.
    """

    section: str
    what: str
    verdict: Verdict
    value: float | None = None
    unit: str = ""
    aim: str = ""
    why: str = ""
    confirms: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for the terminal."""
        figure = "" if self.value is None else f" {figure_in_words(self.value, self.unit)}"
        aim = f" (aim {self.aim})" if self.aim else ""
        first = self.why.strip().splitlines()[-1] if self.why else ""
        return f"  {self.section}  {self.what}:{figure}{aim} {self.verdict}" + (f", {first}" if first else "")


def figure_in_words(value: float, unit: str) -> str:
    """Write a number with its unit; shares as percent."""
    if unit == "%":
        return f"{100 * value:.1f} %"
    whole = abs(value) >= 1e5 or (value == round(value) and abs(value) >= 1e3)
    return (f"{value:,.0f} {unit}" if whole else f"{value:.4g} {unit}").rstrip()


@dataclass
class Notebook:
    """Where a section writes what it finds, line by line: what is written stays, however the section ends.

    Attributes:
        confirms: whether what is found here bears out what is assumed of GPUs.
    """

    path: Path
    section: str
    confirms: bool = True

    def add(self, what: str, verdict: Verdict, value: float | None = None, **more: object) -> Finding:
        """Write a finding; further fields as of `Finding`."""
        found = Finding(self.section, what, verdict, value, **more)  # type: ignore[arg-type]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(found)) + "\n")
        return found

    def seen(self, what: str, value: float, unit: str = "", why: str = "") -> None:
        """Write a figure that has no aim."""
        self.add(what, Verdict.SEEN, value, unit=unit, why=why)

    def at_least(self, what: str, value: float, aim: float, unit: str = "", confirms: Sequence[str] = ()) -> None:
        """Write a figure that has to reach its aim."""
        self._judge(what, value, value >= aim, unit=unit, aim=f">= {figure_in_words(aim, unit)}", confirms=confirms)

    def within(
        self, what: str, value: float, true: float, share: float, unit: str = "", confirms: Sequence[str] = ()
    ) -> None:
        """Write a figure that has to be as large as another one, but for a share of that."""
        aim = f"{figure_in_words(true, unit)} +- {100 * share:g} %"
        self._judge(what, value, abs(value - true) <= share * abs(true), unit=unit, aim=aim, confirms=confirms)

    def holds(self, what: str, true: bool, why: str = "", confirms: Sequence[str] = ()) -> None:
        """Write whether something holds."""
        self._judge(what, None, true, why=why, confirms=confirms)

    def not_run(self, what: str, why: str) -> None:
        """Write what cannot be run here."""
        self.add(what, Verdict.NOT_RUN, why=why)

    def failed(self, what: str, why: str) -> None:
        """Write what went wrong."""
        self.add(what, Verdict.FAILED, why=why)

    def _judge(self, what: str, value: float | None, good: bool, confirms: Sequence[str] = (), **more: object) -> None:
        verdict = Verdict.OK if good else Verdict.MISSED
        self.add(what, verdict, value, confirms=tuple(confirms) if good and self.confirms else (), **more)


def read_findings(path: Path) -> list[Finding]:
    """Return what was written; a last line that was cut off is left out."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            found.append(_finding(line))
    return found


def _finding(line: str) -> Finding:
    content = json.loads(line)
    return Finding(**content | {"verdict": Verdict(content["verdict"]), "confirms": tuple(content["confirms"])})


@dataclass(frozen=True)
class Section:
    """A part of the hour.

    Attributes:
        budget_s: its time where all of `FULL_S` is given.
        run: what its process does.
    """

    key: str
    title: str
    budget_s: float
    run: Callable[..., None] = field(compare=False)


@dataclass
class Hour:
    """Runs sections until they are done or their time is over.

    What a section leaves of its time goes to those after it.

    Args:
        folder: of everything that is written.
        limit_s: of all sections together.
        command: starts one of them, given its key and its seconds.
        environment: of its process.
        say: shows a line.
    """

    folder: Path
    limit_s: float
    command: Callable[[str, float], Sequence[str]]
    environment: dict[str, str] | None = None
    say: Callable[[str], None] = print
    grace_s: float = GRACE_S
    least_s: float = LEAST_S
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def findings(self) -> Path:
        """Where all sections write."""
        return self.folder / "findings.jsonl"

    def run(self, sections: Sequence[Section]) -> None:
        """Run them in their order; one that fails or runs out of time does not keep the others from running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.findings.unlink(missing_ok=True)
        self.findings.touch()
        began, saved = time.monotonic(), 0.0
        scale = self.limit_s / sum(section.budget_s for section in sections)
        for section in sections:
            budget = section.budget_s * scale
            left = self.limit_s - (time.monotonic() - began)
            allowed = min(budget + saved, left - self.grace_s)
            self.say(f"{section.key}. {section.title}: at most {max(0.0, allowed):.0f} s")
            if allowed < self.least_s:
                why = f"{max(0.0, left):.0f} s were left of {self.limit_s:.0f}"
                self.say(Notebook(self.findings, section.key).add(section.title, Verdict.NOT_RUN, why=why).text)
                continue
            took = self._one(section, allowed)
            self.seconds[section.key] = took
            saved = max(0.0, budget + saved - took)

    def _one(self, section: Section, allowed: float) -> float:
        """Run one section and return its seconds."""
        began = time.monotonic()
        log = self.folder / "logs" / f"{section.key}.txt"
        log.parent.mkdir(exist_ok=True)
        notes = Notebook(self.findings, section.key)
        with log.open("w", encoding="utf-8") as output, self.findings.open(encoding="utf-8") as lines:
            lines.seek(0, os.SEEK_END)
            process = subprocess.Popen(
                self.command(section.key, allowed),
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,  # so that it can be ended with all that it has started
            )
            try:
                stopped = self._watch(process, began + allowed, lines)
            except KeyboardInterrupt:
                self._end(process)
                raise
            if stopped:
                notes.add(section.title, Verdict.FAILED, why=f"stopped at its limit of {allowed:.0f} s")
            elif process.returncode:
                notes.add(section.title, Verdict.FAILED, why=how_it_ended(process.returncode, log))
            self._tell(lines)
        return time.monotonic() - began

    def _watch(self, process: subprocess.Popen[bytes], until: float, lines: IO[str]) -> bool:
        """Wait for a section, showing what it finds; say whether it had to be stopped."""
        while process.poll() is None:
            self._tell(lines)
            if time.monotonic() >= until:
                self._end(process)
                return True
            time.sleep(POLL_S)
        _signal(process, signal.SIGKILL)  # whatever it left behind must not disturb the next one
        return False

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        _signal(process, signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(self.grace_s)
        _signal(process, signal.SIGKILL)
        process.wait()

    def _tell(self, lines: IO[str]) -> None:
        for found in _complete(lines):
            self.say(found.text)


def _complete(lines: IO[str]) -> Iterator[Finding]:
    while True:
        place, line = lines.tell(), lines.readline()
        if not line.endswith("\n"):
            lines.seek(place)
            return
        yield _finding(line)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    """Signal a process and all that it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


LAST_LINES = 30


def how_it_ended(code: int, log: Path) -> str:
    """Return the end of what a process printed, and how it ended."""
    how = f"signal {-code}" if code < 0 else f"exit code {code}"
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
    return "\n".join([*lines, f"ended with {how}; logs/{log.name} has more"])
