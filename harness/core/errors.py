"""Every error that the harness words itself; all are caught once, in cli.

A message says where (file and key path, plugin or cell), what was got, what is allowed, and what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from harness.core.endings import Cause

MOST_CHARACTERS = 20_000
"""Of one problem that is said, or of one text from outside that is kept; chosen: five pages of print."""


def words_of_error(error: BaseException) -> str:
    """Return an exception's text; of one that cannot tell it, which error that raised."""
    try:
        return str(error)
    except BaseException as broken:  # its class is anybody's
        return f"(its text cannot be had: {type(broken).__name__})"


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
        consequence: what follows for the command, such as "; nothing was run".
    """

    exit_code = 2

    def __init__(
        self, problems: Iterable[str], where: str = "", *, broken_plugin: bool = False, consequence: str = ""
    ) -> None:
        from harness.core.words import counted, shortened  # late: `--help` needs no words

        self.problems = tuple(shortened(problem, MOST_CHARACTERS) for problem in problems)
        self.where = where
        self.broken_plugin = broken_plugin
        count = counted(len(self.problems), "problem")
        found = f"{where} has {count}{consequence}" if where else count
        alone = len(self.problems) == 1 and not where
        super().__init__(self.problems[0] if alone else "\n".join([f"{found}:", *(f"  {p}" for p in self.problems)]))


class PluginError(HarnessError):
    """A plugin is broken, or did what a plugin must not do; the message carries its file and line."""


class Misfit(PluginError):
    """A model does not take its data, or its outputs do not fit their targets: no strategy will do."""


class Untrainable(PluginError):
    """Nothing of a model can be trained: no strategy will do."""

    cause = Cause.WORKLOAD


class Impossible(HarnessError):
    """A strategy cannot do it with this model on this many devices: that cell is not possible, all others run."""

    cause = Cause.IMPOSSIBLE


class NotForetold(HarnessError):
    """Nobody can say what a cell will take or need; it can run all the same."""


class MachineError(HarnessError):
    """This machine or installation cannot do what was asked."""

    exit_code = 3
    cause = Cause.MACHINE


class NothingDone(HarnessError):
    """The command was understood, and there was nothing to do or to compare."""

    exit_code = 5


MOST_NAMES = 9
"""Names that a message lists in full; chosen: a reader takes in a line of them. Of more it shows `FEW_NAMES`."""
FEW_NAMES = 4


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return "; did you mean X?" for the allowed name closest to `name`, or nothing where none is close."""
    meant = _meant(name, allowed)
    return f"; {meant}" if meant else ""


def _meant(name: str, allowed: Iterable[str]) -> str:
    import difflib  # late: only mistakes need it

    matches = difflib.get_close_matches(name.lower(), list(allowed), n=1, cutoff=0.6)
    return f"did you mean {matches[0]}?" if matches else ""


def unknown(problem: str, name: str, allowed: Iterable[str], then: str) -> str:
    """Return the problem with a name, the allowed one closest to it, and a sentence on what to do then."""
    return f"{problem}{nearest(name, allowed) or '.'} {then}"


def one_of(name: str, allowed: Iterable[str], lists_all: str = "", short: Iterable[str] = ()) -> str:
    """Word what is allowed instead of a name: the one that was meant, then all names or the few nearest.

    Args:
        name: what was written.
        allowed: the names.
        lists_all: the command that lists them; without one, many are written in full too.
        short: shorter forms that may be written for the allowed names, to suggest instead.
    """
    names = list(allowed)
    meant = _meant(name, list(short) or names)
    if len(names) <= MOST_NAMES or not lists_all:
        return f"{meant} Write one of {', '.join(names)}" if meant else f"one of {', '.join(names)}"
    return f"{meant or 'not a known name.'} {nearby(name, names, lists_all)}"


def nearby(name: str, allowed: Iterable[str], lists_all: str) -> str:
    """Return the few names that are nearest, and the command that lists all."""
    import difflib

    spelt = {known.lower(): known for known in allowed}
    few = difflib.get_close_matches(name.lower(), spelt, n=FEW_NAMES, cutoff=0.0)
    return f"Nearest: {', '.join(spelt[known] for known in few)} (`{lists_all}` lists all {len(spelt)})"
