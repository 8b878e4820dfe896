"""What a comparison of two sets of records is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.analysis.exact import Interval
from harness.analysis.points import Row
from harness.analysis.quantities import Quantity
from harness.core.endings import Status
from harness.core.text import NO_TEXT, Text


class ChangeKind(StrEnum):
    """What a change is, in the order in which they matter; undecided is what chance explains as well."""

    REGRESSION = "regression"
    IMPLAUSIBLE = "implausible"
    UNDECIDED = "undecided"
    IMPROVEMENT = "improvement"


@dataclass(frozen=True)
class MeasuredCell:
    """One cell of one side.

    Attributes:
        point: what it has in common with its other seeds on both sides.
        timed: whether a limit in seconds decides when it ends.
        steps: reads its raw step times, in seconds; where a run is judged by its steps.
    """

    point: str
    row: Row
    environment: Mapping[str, Any]
    timed: bool = False
    steps: Callable[[], Sequence[float]] = tuple

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.row["seed"])

    @property
    def ok(self) -> bool:
        """Whether it is as it should be."""
        return bool(self.row["status"] == Status.OK)

    @property
    def real(self) -> bool:
        """Whether it was measured."""
        return bool(self.row["engine"] != "virtual")


UPDATE_TIME = Quantity("step", "step time", "s")
TO_TARGET = Quantity("time_to_target_s", "time to target", "s")
ALLOCATED = Quantity("dram_allocated_peak_bytes", "allocated DRAM", "bytes")
STATUS = Quantity("status", "status")


@dataclass(frozen=True)
class Finding:
    """One thing that changed.

    Attributes:
        row: of a cell of the point, for its words.
        base, new: geometric means over seeds, medians of what is exact, or statuses.
        change: new over base; None for statuses.
        interval: of the change; None where the quantity is deterministic.
        runs: on either side.
        where: the part of the step that changed most, in words; empty where there is none.
        detail: which seeds, and what else there is to know.
        exact: whether it is of values that the same code must give again.
    """

    kind: ChangeKind
    row: Row
    quantity: Quantity
    base: Any
    new: Any
    change: float | None = None
    interval: Interval | None = None
    runs: tuple[int, int] = (1, 1)
    where: Text = NO_TEXT
    detail: Text = NO_TEXT
    exact: bool = False

    @property
    def severity(self) -> float:
        """How far it is from what it was, as the logarithm of a factor; a status, and nothing at all, are further."""
        return abs(math.log(self.change)) if self.change else math.inf


@dataclass(frozen=True)
class Change:
    """What became of one time of one point, found worse or not.

    Attributes:
        row: of a cell of the point, for its words.
        base, new: geometric means over seeds.
        ratio: new over base.
        interval: of the ratio, as wide as all comparisons together need it; None where it is known exactly.
        kind: None where the change is not both certain and large enough.
        runs: on either side.
        parts: seconds of an update by part of the step, before and after; empty where they were not measured or say
            nothing of the quantity.
        between_runs: whether the interval says how runs differ; else only how the steps within a run do.
    """

    row: Row
    quantity: Quantity
    base: float
    new: float
    ratio: float
    interval: Interval | None = None
    kind: ChangeKind | None = None
    runs: tuple[int, int] = (1, 1)
    parts: tuple[Mapping[str, float], Mapping[str, float]] = field(default=({}, {}))
    between_runs: bool = True


@dataclass(frozen=True)
class Detectable:
    """The smallest growth of a time that would have been found in four nights of five, as a factor."""

    row: Row
    quantity: Quantity
    factor: float


@dataclass(frozen=True)
class Comparison:
    """What became of BASE in NEW.

    Attributes:
        findings: those that matter most first, and of a kind the worst.
        changes: of all times that were compared, in the order of the points.
        min_effect: share that a time had to grow by.
        cells: that both sides have; copies: those of them that are the same measurement, not compared.
        only_new: cells that BASE does not have.
        exact: number of exact comparisons made.
        changed: what differs in the environment: (what, values before, values after).
        noisy: cells of either side that ran while other processes used the machine.
    """

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    min_effect: float
    detectable: tuple[Detectable, ...]
    cells: int
    copies: int
    only_new: int
    exact: int
    changed: tuple[tuple[str, str, str], ...]
    noisy: tuple[int, int]
    notes: tuple[Text, ...]

    @property
    def timed(self) -> int:
        """Number of times that were compared."""
        return len(self.changes)

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """What got worse."""
        return tuple(finding for finding in self.findings if finding.kind is ChangeKind.REGRESSION)


@dataclass(frozen=True)
class PointPair:
    """The seeds of a point that are ok on both sides, in the same order."""

    base: tuple[MeasuredCell, ...]
    new: tuple[MeasuredCell, ...]

    @property
    def row(self) -> Row:
        """A row of the point, for its words."""
        return self.new[0].row

    @property
    def real(self) -> bool:
        """Whether the point was measured."""
        return self.new[0].real
