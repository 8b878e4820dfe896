"""What a run of a cell leaves behind, as plain data that travels between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from harness.core.budget import Budget, Evaluation, target_reached
from harness.core.text import Text

# -- how a cell ends ---------------------------------------------------------------------------------------------------


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
        MACHINE: the installation or its environment; the cell was not tried.
        MEMORY: a device or the host had too little.
        HARNESS: a bug of ours.
        PEER: a process lost its connection to another one.
        TIMEOUT: limits.cell_timeout passed.
        DEADLOCK: everybody waited for somebody who waits.
        KILLED: a process ended without a word.
        FAULT: a death that the scenario plans.
        IMPOSSIBLE: the layout makes no sense on so many devices; the cell was not tried.
        INTERRUPT: Ctrl-C.
    """

    USER = "user"
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


_ENDS_AS = {
    Cause.MEMORY: Status.OUT_OF_MEMORY,
    Cause.TIMEOUT: Status.TIMEOUT,
    Cause.IMPOSSIBLE: Status.NOT_POSSIBLE,
    Cause.INTERRUPT: Status.INTERRUPTED,
}


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


# -- what a step consists of -------------------------------------------------------------------------------------------


class Part(StrEnum):
    """What a device's time goes into.

    Attributes:
        column: of the tables of steps and cells, in seconds.
        OTHER: of a run as a whole only: what lies between the steps.
    """

    column: str

    INPUT = "input"
    COMPUTE = "compute"
    COMMUNICATION = "communication"
    IDLE = "idle"
    OTHER = "other"

    def __new__(cls, value: str) -> Part:
        """Make a part that knows its column."""
        part = str.__new__(cls, value)
        part._value_ = value
        part.column = f"{value}_s"  # asked for with every word of a program: not put together each time
        return part


STEP_PARTS = (Part.INPUT, Part.COMPUTE, Part.COMMUNICATION, Part.IDLE)
"""Parts of a step on a device: they add up to the step."""

PART_COLUMNS = tuple(part.column for part in STEP_PARTS)

STEP_COLUMNS = (
    "worker",
    "device",
    "step",
    "start_s",
    *PART_COLUMNS,
    "samples",
    "loss",
    "base_version",
    "staleness",
)
UPDATE_COLUMNS = (
    "update",
    "worker",
    "step",
    "base_version",
    "staleness",
    "samples",
    "time_s",
    "parts",
    "small_square",
    "big_square",
)
"""The last three are of the gradients averaged, before clipping, momentum and weight decay: how many there were, the
mean of their squared lengths, and the squared length of their mean. None where they cannot be compared, or were not
known one by one."""


@dataclass
class Outcome:
    """One run of a cell.

    Attributes:
        decision: "budget", "target", "seconds" or "diverged": why training ended.
        samples, updates: behind the final weights.
        training_s: on the training clock (wall or simulated), evaluation left out.
        steps, updates_log: columns as in STEP_COLUMNS and UPDATE_COLUMNS.
        dram: counted bytes by kind on the device that holds most.
        spans: what a trace shows, where one was asked for.
        deliveries: for each endpoint the sources of the messages it took, in order: what a replay needs.
    """

    decision: str = "budget"
    samples: int = 0
    updates: int = 0
    training_s: float = 0.0
    setup_s: float = 0.0
    evaluation_s: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    test: tuple[float, float] | None = None
    steps: dict[str, list[Any]] = field(default_factory=dict)
    updates_log: dict[str, list[Any]] = field(default_factory=dict)
    dram: dict[str, int] = field(default_factory=dict)
    allocator: dict[str, int] = field(default_factory=dict)
    bytes_sent_per_step: float | None = None
    bubble_fraction: float | None = None
    notes: list[str] = field(default_factory=list)
    recorded: dict[str, float] = field(default_factory=dict)
    unawaited: dict[str, int] = field(default_factory=dict)
    deliveries: dict[int, list[int | None]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    spans: list[Any] = field(default_factory=list)
    weights: Any = None

    def status(self, budget: Budget) -> tuple[Status, str]:
        """Return the cell's status with its reason in words."""
        if self.decision == "diverged":
            return Status.DIVERGED, f"a loss was not a finite number after {self.samples} samples"
        if not budget.has_target:
            return Status.OK, "ran its budget; no target was asked for"
        reached = target_reached(self.evaluations, budget)
        if reached is not None:
            return Status.OK, f"reached the target after {reached.samples} samples"
        return Status.TARGET_MISSED, f"the target was not met by two consecutive evaluations in {self.samples} samples"


def columns(rows: list[dict[str, Any]], names: tuple[str, ...]) -> dict[str, list[Any]]:
    """Turn rows into columns; what a row lacks is None."""
    return {name: [row.get(name) for row in rows] for name in names}
