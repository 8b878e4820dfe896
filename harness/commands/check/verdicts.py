"""What a line of the check found: it passed, it failed, or it does not apply to this strategy."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NoReturn

from harness.core.text import NO_TEXT, Text


class Line(StrEnum):
    """One thing that a strategy is checked for, in the order in which they run: those that others build upon first."""

    LOADS = "loads"
    DOCUMENTED = "documented"
    OPTIONS = "options"
    TRAINS = "trains"
    ALONE = "alone"
    EQUAL = "equal"
    REPEATS = "repeats"
    REPLAYS = "replays"
    ENGINES = "engines"
    STALENESS = "staleness"
    LEAVES = "leaves"
    SLOW = "slow"
    TARGET = "target"
    TIME = "time"
    BUDGET = "budget"
    MEMORY = "memory"
    TIMING = "timing"

    @property
    def promise(self) -> str:
        """What it says in the table."""
        return _TITLES[self]


_TITLES = {
    Line.LOADS: "it loads, by the rules for strategies",
    Line.DOCUMENTED: "its docstring says what it does, with a source",
    Line.OPTIONS: "options are described, and wrong ones are refused",
    Line.TRAINS: "it trains on both engines",
    Line.ALONE: "one worker equals plain training, bit for bit",
    Line.EQUAL: "it trains what it promises to",
    Line.REPEATS: "the same seed gives the same weights",
    Line.REPLAYS: "a real log replays to the same weights",
    Line.ENGINES: "both engines agree on bytes, steps and messages",
    Line.STALENESS: "staleness is accounted for",
    Line.LEAVES: "a worker dies",
    Line.SLOW: "a worker is slow",
    Line.TARGET: "it stops at a target",
    Line.TIME: "it stops at a time",
    Line.BUDGET: "it stops at a budget",
    Line.MEMORY: "memory stays flat",
    Line.TIMING: "it is timed without numbers",
}


class Grade(StrEnum):
    """What became of a line."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_APPLICABLE = "does-not-apply"


@dataclass(frozen=True)
class LineVerdict:
    """What a line found.

    Attributes:
        found: what was seen; of a line that does not apply, why.
        where: of a failure: the file and line, or the run that showed it.
        cause: of a failure: what most often lies behind it, and what to do.
        seconds: that the line took.
    """

    line: Line
    grade: Grade
    found: Text
    where: Text = NO_TEXT
    cause: Text = NO_TEXT
    seconds: float = 0.0


class Broken(Exception):  # it is raised by lines as a finding
    """A line found something wrong."""

    def __init__(self, found: str, where: str, cause: str) -> None:
        super().__init__(found)
        self.found, self.where, self.cause = Text(found), Text(where), Text(cause)


class DoesNotApply(Exception):  # it is raised by lines as a finding
    """A line has nothing to look at in this strategy."""


def broken(found: str, where: str, cause: str) -> NoReturn:
    """End a line with a failure: what was seen, where, and what most likely lies behind it.

    Raises:
        Broken: always.
    """
    raise Broken(found, where, cause)
