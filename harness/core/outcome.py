"""What a run of a cell leaves behind, as plain data that travels between processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.core.budget import Budget, Decision, Evaluation, target_reached
from harness.core.endings import Status
from harness.core.not_known import NotKnown
from harness.core.records import Json
from harness.core.step_parts import PART_COLUMNS

TableColumns = dict[str, list[Any]]
"""A table: each column by its name."""

StepRow = dict[str, Any]
"""A row of a table, by the names of its columns."""

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


@dataclass(frozen=True)
class CountedDram:
    """Tensors on the device that holds most.

    Attributes:
        kinds: bytes of each kind at its own most; kinds that are there at different times add up to more than the peak.
        peak_bytes: most that tensors take at once; where a step cannot be replayed, what the kinds and the largest
            workspace add up to.
    """

    kinds: dict[str, int] = field(default_factory=dict)
    peak_bytes: int = 0


@dataclass
class Outcome:
    """One run of a cell.

    Attributes:
        decision: why training ended.
        samples, updates: behind the final weights.
        training_s: on the training clock (wall or simulated), evaluation left out.
        steps, updates_log: columns as in STEP_COLUMNS and UPDATE_COLUMNS.
        dram: counted on the device that holds most; why it is not known, where it is not.
        spans: what a trace shows, where one was asked for.
        deliveries: for each endpoint the sources of the messages it took, in order: what a replay needs.
    """

    decision: Decision = Decision.BUDGET
    samples: int = 0
    updates: int = 0
    training_s: float = 0.0
    setup_s: float = 0.0
    evaluation_s: float = 0.0
    evaluations: list[Evaluation] = field(default_factory=list)
    test: tuple[float, float] | None = None
    steps: TableColumns = field(default_factory=dict)
    updates_log: TableColumns = field(default_factory=dict)
    dram: CountedDram | NotKnown = field(default_factory=CountedDram)
    allocator: dict[str, int] = field(default_factory=dict)
    bytes_sent_per_step: float | None = None
    bubble_fraction: float | None = None
    notes: list[str] = field(default_factory=list)
    recorded: dict[str, float] = field(default_factory=dict)
    unawaited: dict[str, int] = field(default_factory=dict)
    deliveries: dict[int, list[int | None]] = field(default_factory=dict)
    facts: Json = field(default_factory=dict)
    spans: list[Any] = field(default_factory=list)
    weights: Any = None

    def status(self, budget: Budget) -> tuple[Status, str]:
        """Return the cell's status with its reason in words."""
        if self.decision is Decision.DIVERGED:
            return Status.DIVERGED, f"the loss became infinite or NaN within {self.samples} samples"
        if not budget.has_target:
            return Status.OK, "ran its full budget; no target was set"
        reached = target_reached(self.evaluations, budget)
        if reached is not None:
            return Status.OK, f"reached the target after {reached.samples} samples"
        return (
            Status.TARGET_MISSED,
            f"the target was not met in two consecutive evaluations within {self.samples} samples",
        )


def columns(rows: list[StepRow], names: tuple[str, ...]) -> TableColumns:
    """Turn rows into columns; what a row lacks is None."""
    return {name: [row.get(name) for row in rows] for name in names}
