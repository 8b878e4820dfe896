"""What a comparison of two sets of records is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from harness.analysis.exact import Interval
from harness.analysis.points import Row, number
from harness.analysis.quantities import Quantity
from harness.core.text import NO_TEXT, Text


class ChangeKind(StrEnum):
    """What a change is, in the order in which they matter.

    Suspect is a slower time of which nobody can say whether code or machine made it; undecided is what chance explains
    as well.
    """

    REGRESSION = "regression"
    SUSPECT = "suspect"
    IMPLAUSIBLE = "implausible"
    UNDECIDED = "undecided"
    IMPROVEMENT = "improvement"


SLOWER = (ChangeKind.REGRESSION, ChangeKind.SUSPECT)
"""Kinds of what got worse, whoever made it so."""

Changed = tuple[str, str, str]
"""A fact that is not the same on both sides: its name, its values before, its values after."""


class Verdict(StrEnum):
    """What a comparison ends with."""

    REGRESSION = "regression"
    REFUSED = "refused"
    NOTHING_COMPARED = "nothing-compared"
    SUSPECT = "suspect"
    NO_REGRESSION = "no-regression"

    @property
    def exit_code(self) -> int:
        """What `harness compare` ends with."""
        return {Verdict.REGRESSION: 1, Verdict.REFUSED: 2, Verdict.NOTHING_COMPARED: 5}.get(self, 0)


@dataclass(frozen=True)
class MeasuredCell:
    """One cell of one side.

    Attributes:
        point: what it has in common with its other seeds on both sides.
        environment: facts by name: of machine, versions and what the scenario says beside the point.
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
    def real(self) -> bool:
        """Whether it was measured."""
        return bool(self.row["engine"] != "virtual")


UPDATE_TIME = Quantity("step", "step time", "s")
TO_TARGET = Quantity("time_to_target_s", "time to target", "s")
ALLOCATED = Quantity("dram_allocated_peak_bytes", "allocated DRAM", "bytes")
STATUS = Quantity("status", "status")


def deterministic(quantity: Quantity, before: MeasuredCell, after: MeasuredCell) -> bool:
    """Say whether the same code must give the same number again.

    On the virtual engine everything but where simulated times decide, in which order updates arrive or when a run
    ends: there only if these times are the same. On real devices counted memory, and the bytes of synchronous
    strategies.
    """
    synchronous = before.row.get("synchrony") == "synchronous"
    if before.real:
        counted = quantity.column == "dram_tensors_peak_bytes"
        return counted or (quantity.column == "bytes_sent_per_step" and synchronous and not before.timed)
    times = [number(cell.row, "step_time_s") for cell in (before, after)]
    return (synchronous and not before.timed) or times[0] == times[1]


class UsualFrom(StrEnum):
    """What is known of how long a point usually takes."""

    HISTORY = "history"
    ONE_NIGHT = "one-night"


@dataclass(frozen=True)
class Gated:
    """A time beside the reference.

    Attributes:
        basis: what it was judged by; nights: how many of them there are.
        relative: factor over what is usual, the machine's own change taken out.
        limit: factor that it has to exceed to be slower; detectable: that is found in four nights of five.
        fresh: fresh runs that decided; 0 where the night itself did.
        suspect: whether fresh runs would be of use.
    """

    basis: UsualFrom
    nights: int
    relative: float
    limit: float
    detectable: float
    kind: ChangeKind | None
    fresh: int = 0
    suspect: bool = False


@dataclass(frozen=True)
class Together:
    """All points of a scenario that were judged by the same, as one."""

    scenario: str
    points: int
    gated: Gated


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
        gated: the time beside the reference; None where none ran, or it is no time.
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
    gated: Gated | None = None

    @property
    def severity(self) -> float:
        """How far it is from what it was, as the logarithm of a factor; a status, and nothing at all, are further."""
        return abs(math.log(self.change)) if self.change and self.change > 0 else math.inf


@dataclass(frozen=True)
class Change:
    """What became of one quantity of one point, found worse or not.

    Attributes:
        row: of a cell of the point, for its words.
        base, new: geometric means over seeds.
        ratio: new over base.
        interval: of the ratio, as wide as all comparisons together need it; None where it is known exactly, or judged
            beside the reference.
        kind: None where the change is not both certain and large enough.
        runs: on either side.
        parts: seconds of an update by part of the step, before and after; empty where they were not measured or say
            nothing of the quantity.
        between_runs: whether the interval says how runs differ; else only how the steps within a run do.
        gated: the time beside the reference; None where none ran, or it is no time.
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
    gated: Gated | None = None


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
        learnt: of all accuracies, losses and samples to the target that were.
        min_effect: share that a time had to grow by.
        cells: that both sides have; copies: those of them that are the same measurement, not compared.
        ended: cells that ran to the same end on both sides, whose values were compared as far as they can be.
        only_new: cells that BASE does not have.
        exact: number of exact comparisons made.
        changed: what differs in the environment.
        refused: devices and clusters that differ, for which only statuses were compared.
        noisy: compared cells of either side that something disturbed; disturbed_by: kinds of it, most often first.
        never_run: cells that NEW plans and neither side has a result of.
        together: all points of a scenario beside the reference, as one; empty where none ran.
        rerun: points whose suspicion fresh runs would decide, the worst first.
    """

    findings: tuple[Finding, ...]
    changes: tuple[Change, ...]
    learnt: tuple[Change, ...]
    min_effect: float
    detectable: tuple[Detectable, ...]
    cells: int
    copies: int
    ended: int
    only_new: int
    exact: int
    changed: tuple[Changed, ...]
    refused: tuple[Changed, ...]
    noisy: tuple[int, int]
    notes: tuple[Text, ...]
    never_run: int = 0
    disturbed_by: tuple[str, ...] = ()
    together: tuple[Together, ...] = ()
    rerun: tuple[str, ...] = ()

    @property
    def timed(self) -> int:
        """Number of times that were compared."""
        return len(self.changes)

    @property
    def verdict(self) -> Verdict:
        """What it comes to."""
        kinds = {one.gated.kind for one in self.together}
        if self.regressions or ChangeKind.REGRESSION in kinds:
            return Verdict.REGRESSION
        if self.refused:
            return Verdict.REFUSED
        if self.suspects or ChangeKind.SUSPECT in kinds:
            return Verdict.SUSPECT
        return Verdict.NO_REGRESSION if self.exact or self.timed or self.learnt else Verdict.NOTHING_COMPARED

    @property
    def worst(self) -> ChangeKind | None:
        """What matters most of what was found, all points together included; None where nothing was."""
        kinds = {finding.kind for finding in self.findings} | {one.gated.kind for one in self.together}
        return next((kind for kind in ChangeKind if kind in kinds), None)

    @property
    def regressions(self) -> tuple[Finding, ...]:
        """What got worse."""
        return self._of(ChangeKind.REGRESSION)

    @property
    def suspects(self) -> tuple[Finding, ...]:
        """What is slower, made so by code or machine."""
        return self._of(ChangeKind.SUSPECT)

    def _of(self, kind: ChangeKind) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.kind is kind)


@dataclass(frozen=True)
class PointPair:
    """The seeds of a point that ran to the same end on both sides, in the same order."""

    base: tuple[MeasuredCell, ...]
    new: tuple[MeasuredCell, ...]

    @property
    def row(self) -> Row:
        """A row of the point, for its words."""
        return self.new[0].row

    @property
    def point(self) -> str:
        """What its cells have in common."""
        return self.new[0].point

    @property
    def real(self) -> bool:
        """Whether the point was measured."""
        return self.new[0].real
