"""What a cell that broke off leaves to be told: why, and where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from harness.core.endings import Cause
from harness.core.text import Text


class SourceLine(NamedTuple):
    """A line of a file."""

    file: str
    number: int


@dataclass(frozen=True)
class Hang:
    """A process that had not come to its end when its time was up.

    Attributes:
        process: what messages call it.
        stopped: whether somebody has stopped it, such as by SIGSTOP.
        waits: the word that it waited in for others, as a program writes it; empty where it waited in none.
        line: that its main thread was in, the innermost of the user's where there is one; None: it did not answer.
        function: that the line belongs to.
    """

    process: str
    stopped: bool = False
    waits: str = ""
    line: SourceLine | None = None
    function: str = ""


@dataclass(frozen=True)
class Failure:
    """Why a cell ended early.

    Attributes:
        reason: for people.
        process: number of the cell's process that failed first.
        raised_at: the innermost line of the user's own files that the error passed; None where it passed none.
        at_s: when it was raised, on the monotonic clock that all processes of a machine share.
        follows: whether the process had lost another one without a word before: then that one's end is the cause.
        hangs: the processes that did not end in time.
    """

    cause: Cause
    reason: Text
    process: int = 0
    raised_at: SourceLine | None = None
    at_s: float = 0.0
    follows: bool = False
    hangs: tuple[Hang, ...] = ()
