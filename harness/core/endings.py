"""How a cell ends, and why: what commands, records and answers decide by. The command line starts with this file."""

from __future__ import annotations

from enum import StrEnum


class Status(StrEnum):
    """What a cell may end as, in the order in which statuses are counted."""

    OK = "ok"
    TARGET_MISSED = "target-missed"
    DIVERGED = "diverged"
    OUT_OF_MEMORY = "out-of-memory"
    TIMEOUT = "timeout"
    CRASHED = "crashed"
    NOT_POSSIBLE = "not-possible"
    INTERRUPTED = "interrupted"

    @property
    def trained(self) -> bool:
        """Whether training came to the end of its budget or to its target: a missed target is no failure."""
        return self in (Status.OK, Status.TARGET_MISSED)

    @property
    def result(self) -> bool:
        """Whether the cell was tried, and what it ended as would come out again."""
        return self.trained or self in (Status.DIVERGED, Status.OUT_OF_MEMORY)

    @property
    def failed(self) -> bool:
        """Whether the cell broke off: that may come out otherwise another time."""
        return self in (Status.CRASHED, Status.TIMEOUT)

    @property
    def tried(self) -> bool:
        """Whether the cell ran to an end of its own, good or bad."""
        return self.result or self.failed

    @property
    def final(self) -> bool:
        """Whether a second run keeps it. Anything else is tried once more."""
        return self.result or self is Status.NOT_POSSIBLE


class Cause(StrEnum):
    """What ended a cell before its training did.

    Attributes:
        USER: code of a plugin or of a workload's file.
        WORKLOAD: nothing of the user's model can be trained, by whatever strategy.
        MACHINE: the installation or its environment; the cell was not tried.
        MEMORY: a device or the host had too little.
        HARNESS: a bug of ours.
        PEER: a process lost its connection to another one.
        TIMEOUT: limits.cell_timeout passed.
        DEADLOCK: everybody waited for somebody who waits.
        KILLED: a process ended without a word.
        FAULT: a death that the scenario plans.
        IMPOSSIBLE: the strategy cannot do it with this model on so many devices.
        INTERRUPT: Ctrl-C, SIGTERM or SIGHUP.
    """

    USER = "user"
    WORKLOAD = "workload"
    MACHINE = "machine"
    MEMORY = "memory"
    HARNESS = "harness"
    PEER = "peer"
    TIMEOUT = "timeout"
    DEADLOCK = "deadlock"
    KILLED = "killed"
    FAULT = "fault"
    IMPOSSIBLE = "impossible"
    INTERRUPT = "interrupt"

    @property
    def status(self) -> Status:
        """The status of a cell that it ended."""
        return _ENDS_AS.get(self, Status.CRASHED)

    @property
    def of_whole_cell(self) -> bool:
        """Whether it says something of the cell, and not of the process that happened to say it first."""
        return self in (Cause.IMPOSSIBLE, Cause.WORKLOAD, Cause.MACHINE)


_ENDS_AS = {
    Cause.MEMORY: Status.OUT_OF_MEMORY,
    Cause.TIMEOUT: Status.TIMEOUT,
    Cause.IMPOSSIBLE: Status.NOT_POSSIBLE,
    Cause.INTERRUPT: Status.INTERRUPTED,
}
