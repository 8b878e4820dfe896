"""From the word after --executor to what runs cells."""

from __future__ import annotations

from harness.api.host import Host
from harness.core.errors import InputError
from harness.executors.one_by_one import OneByOne
from harness.executors.protocol import CellExecutor

WRITTEN = "local, local:N"
"""What may be written after --executor."""


def executor_of(written: str, host: Host) -> CellExecutor:
    """Return the executor that a word names, not entered yet.

    Args:
        host: with the plugins of the run.

    Raises:
        InputError: it names none.
    """
    kind, _, rest = written.partition(":")
    if kind == "local" and (not rest or (rest.isdecimal() and int(rest) > 0)):
        return OneByOne(host)
    raise InputError([f"--executor {written}: not an executor; write one of {WRITTEN} (N: cells at once)"])
