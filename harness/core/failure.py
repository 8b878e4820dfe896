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
class Failure:
    """Why a cell ended early.

    Attributes:
        reason: for people.
        process: number of the cell's process that failed first.
        raised_at: the innermost line of the user's own files that the error passed; None where it passed none.
    """

    cause: Cause
    reason: Text
    process: int = 0
    raised_at: SourceLine | None = None
