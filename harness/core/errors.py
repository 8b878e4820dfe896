"""Every error that the harness words itself; all are caught once, in cli.

A message says where (file and key path, plugin or cell), what was got, what is allowed, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

from harness.core.endings import Cause
from harness.core.words import counted


class HarnessError(Exception):
    """Root of every error with a message for the user.

    Attributes:
        exit_code: what the command ends with.
        cause: of a cell that it ends; None where `__cause__` tells.
    """

    exit_code = 1
    cause: ClassVar[Cause | None] = Cause.USER


class InputError(HarnessError):
    """The scenario or the command line was refused.

    Args:
        problems: one line each, complete: key path, what was got, what is allowed, nearest name, line number.
        where: the file or the command that was read.
        broken_plugin: whether what was read is well, and a plugin that it names is not.
    """

    exit_code = 2

    def __init__(self, problems: Iterable[str], where: str = "", *, broken_plugin: bool = False) -> None:
        self.problems = tuple(problems)
        self.where = where
        self.broken_plugin = broken_plugin
        count = counted(len(self.problems), "problem")
        found = f"{where} has {count}; nothing was run" if where else count
        alone = len(self.problems) == 1 and not where
        super().__init__(self.problems[0] if alone else "\n".join([f"{found}:", *(f"  {p}" for p in self.problems)]))


class PluginError(HarnessError):
    """A plugin is broken, or did what a plugin must not do; the message carries its file and line."""


class Impossible(HarnessError):
    """A layout makes no sense on this many devices; raised by `Strategy.layout`, listed by plan."""


class MachineError(HarnessError):
    """This machine or installation cannot do what was asked."""

    exit_code = 3
    cause = Cause.MACHINE


class NothingDone(HarnessError):
    """The command was understood, and there was nothing to do or to compare."""

    exit_code = 5


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean X?" for the allowed name closest to `name`, or nothing where none is close."""
    matches = difflib.get_close_matches(name.lower(), list(allowed), n=1, cutoff=0.6)
    return f"; did you mean {matches[0]}?" if matches else ""
