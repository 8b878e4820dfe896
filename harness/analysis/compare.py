"""Did it get worse? Two sets of records of the same cells, before and after a change.

What is deterministic is compared exactly. Times are compared by interval AND by a minimum effect: a difference that is
certain but small is no regression, and neither is a large one that noise explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import Any

from harness.analysis.compare_environment import changed_environment, other_machines
from harness.analysis.compare_gate import Beside, Gates, gates
from harness.analysis.compare_learnt import learnt, learnt_change, learnt_finding
from harness.analysis.compare_statuses import FALSE_ALARMS, seeds_in_words, statuses
from harness.analysis.compare_times import POOLED_DEGREES, Timing, change_of, detectable, finding_of, pooled, timings
from harness.analysis.compared import (
    UPDATE_TIME,
    ChangeKind,
    Comparison,
    Finding,
    MeasuredCell,
    PointPair,
    deterministic,
)
from harness.analysis.exact import MIN_SEEDS
from harness.analysis.points import number
from harness.analysis.quantities import Quantity
from harness.core.disturbances import kinds_of
from harness.core.endings import Status
from harness.core.text import Text
from harness.core.words import counted

__all__ = ["Comparison", "MeasuredCell", "compare"]

MIN_EFFECT = 0.05
"""Default share that a time must grow by: what a shared machine shows from day to day; chosen."""

SAME = 1e-9
"""Relative difference below which two deterministic numbers are the same: rounding of bytes over steps."""

EXACT = (
    Quantity("samples_to_target", "samples to target"),
    Quantity("updates_to_target", "updates to target"),
    Quantity("samples_seen", "samples trained on"),
    Quantity("steps", "updates"),
    Quantity("bytes_sent_per_step", "bytes sent per step", "bytes"),
    Quantity("dram_tensors_peak_bytes", "counted DRAM", "bytes"),
)


def compare(
    base: Sequence[MeasuredCell],
    new: Sequence[MeasuredCell],
    min_effect: float = MIN_EFFECT,
    copies: frozenset[tuple[str, int]] = frozenset(),
    *,
    allow_other: bool = False,
    trust_machine: bool = False,
    besides: Mapping[str, Beside] | None = None,
    never_run: int = 0,
    interleaved: bool = False,
) -> Comparison:
    """Compare what both sides have.

    Args:
        min_effect: share that a time must grow by to be a regression, above 0.
        copies: (point, seed) of cells that are one measurement stored twice.
        allow_other: compare more than statuses though the sides have other devices or clusters.
        trust_machine: the machine is known to be as fast as before. Else a slower measured time is suspect: machines
            drift by 3 % from night to night, and without a reference that ran beside the cells nobody can tell.
        besides: the references that did, by scenario as rows name it; not used of a machine that is trusted or another.
        never_run: cells that NEW plans and neither side has a result of.
        interleaved: whether each run took turns with the same of the other side: then no reference is needed.
    """
    before, after = ({(cell.point, cell.seed): cell for cell in side} for side in (base, new))
    common = [key for key in before if key in after]
    fresh = [key for key in common if key not in copies]
    sides = [before[key] for key in fresh], [after[key] for key in fresh]
    refused = () if allow_other else other_machines(*sides)
    pairs = [] if refused else _pairs(zip(*sides, strict=True))
    findings = statuses(before, after)
    exact = [found for pair in pairs for found in _exact(pair)]
    alone = trust_machine or interleaved or other_machines(*sides)
    gated = Gates() if alone else gates(pairs, besides or {}, min_effect)
    times = timings(pairs, gated.points, interleaved=interleaved)
    taught = learnt(pairs, min_effect)
    judged = sum(ratio.error > 0 for _, _, ratio in times) + sum(item.chance for item in taught)
    coverage = 1 - FALSE_ALARMS / max(1, judged)
    findings += [finding for finding in exact if finding is not None]
    changes = [
        change_of(
            *timing,
            min_effect,
            coverage,
            trust_machine=trust_machine or interleaved,
            gated=gated.points.get(timing[0].point),
        )
        for timing in times
    ]
    findings += [finding for change in changes if (finding := finding_of(change)) is not None]
    learnt_changes = [learnt_change(item, coverage) for item in taught]
    findings += [finding for change in learnt_changes if (finding := learnt_finding(change)) is not None]
    return Comparison(
        findings=tuple(sorted(findings, key=lambda f: (tuple(ChangeKind).index(f.kind), -f.severity))),
        changes=tuple(changes),
        learnt=tuple(learnt_changes),
        min_effect=min_effect,
        detectable=tuple(
            detectable(*timing, min_effect, coverage, change.gated)
            for timing, change in zip(times, changes, strict=True)
        ),
        cells=len(common),
        copies=len(common) - len(fresh),
        ended=sum(len(pair.new) for pair in pairs),
        only_new=len(after) - len(common),
        exact=len(exact),
        changed=changed_environment(*sides),
        refused=refused,
        noisy=(_noisy(sides[0]), _noisy(sides[1])),
        disturbed_by=kinds_of(cell.row for side in sides for cell in side),
        notes=tuple(_notes([pair for pair in pairs if pair.point not in gated.points], times)),
        never_run=never_run,
        together=gated.together,
        rerun=gated.suspects,
    )


def _pairs(cells: Iterable[tuple[MeasuredCell, MeasuredCell]]) -> list[PointPair]:
    """Return the seeds of each point that ran to the same end on both sides; both may have missed their target."""
    by_point: dict[str, list[tuple[MeasuredCell, MeasuredCell]]] = {}
    for pair in cells:
        if pair[0].row["status"] == pair[1].row["status"] and Status(pair[0].row["status"]).trained:
            by_point.setdefault(pair[0].point, []).append(pair)
    return [PointPair(*zip(*found, strict=True)) for found in by_point.values()]


# -- what is deterministic ---------------------------------------------------------------------------------------------


def _exact(pair: PointPair) -> Iterable[Finding | None]:
    """Yield a finding, or None, for every deterministic quantity that both sides have."""
    for quantity in EXACT:
        cells = [
            (before, after, *values)
            for before, after in zip(pair.base, pair.new, strict=True)
            if deterministic(quantity, before, after)
            and None not in (values := (number(before.row, quantity.column), number(after.row, quantity.column)))
        ]
        if cells:
            yield _exact_finding(pair, quantity, cells)


def _exact_finding(pair: PointPair, quantity: Quantity, cells: Sequence[tuple[Any, ...]]) -> Finding | None:
    differ = [(b, n, cell) for cell, _, b, n in cells if abs(n - b) > SAME * abs(b)]
    if not differ:
        return None
    more = sum(n > b for b, n, _ in differ)
    base, new = median(b for b, _, _ in differ), median(n for _, n, _ in differ)
    kind = ChangeKind.REGRESSION if more else ChangeKind.IMPROVEMENT
    if not more and quantity.column in ("samples_to_target", "updates_to_target"):
        # The same seeds on the same code need the same samples: something else is trained now.
        kind = ChangeKind.IMPLAUSIBLE
    some = f"only in {seeds_in_words(cell.seed for _, _, cell in differ)}"
    detail = Text("in every seed" if len(differ) == len(cells) else some)
    runs = (len(cells), len(cells))
    change = new / base if base else math.inf
    return Finding(kind, pair.row, quantity, base, new, change, runs=runs, detail=detail, exact=True)


# -- what surrounds it -------------------------------------------------------------------------------------------------


def _noisy(side: Sequence[MeasuredCell]) -> int:
    return sum(bool(cell.row.get("noisy")) for cell in side)


def _notes(pairs: Sequence[PointPair], times: Sequence[Timing]) -> Iterable[Text]:
    measured = [pair for pair in pairs if pair.real]
    judged = {id(found[0].row) for found in times if found[1] is UPDATE_TIME}
    silent = sum(id(pair.row) not in judged for pair in measured)
    if silent:
        few = f"{counted(silent, 'measured point')} {'has' if silent == 1 else 'have'} too few runs and steps"
        yield Text(f"{few} to compare times; set seeds = {MIN_SEEDS}")
    if any(len(pair.base) < MIN_SEEDS for pair in measured) and pooled(measured, UPDATE_TIME)[1] < POOLED_DEGREES:
        yield Text("with few runs, times are judged by the steps within a run; intervals leave out how runs differ")
