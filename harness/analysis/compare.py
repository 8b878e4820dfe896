"""Did it get worse? Two sets of records of the same cells, before and after a change.

What is deterministic is compared exactly. Times are compared by interval AND by a minimum effect: a difference that is
certain but small is no regression, and neither is a large one that noise explains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from harness.analysis.compare_times import POOLED_DEGREES, Timing, change_of, detectable, finding_of, pooled, timings
from harness.analysis.compared import STATUS, UPDATE_TIME, ChangeKind, Comparison, Finding, MeasuredCell, PointPair
from harness.analysis.exact import MIN_SEEDS
from harness.analysis.points import number
from harness.analysis.quantities import Quantity
from harness.core.endings import Status
from harness.core.text import Text
from harness.core.words import counted, listed

__all__ = ["Comparison", "MeasuredCell", "changed_environment", "compare", "other_devices"]

MIN_EFFECT = 0.05
"""Default share that a time must grow by: what a shared machine shows from day to day; chosen."""

FALSE_ALARMS = 0.05
"""Probability that a night without any change raises one alarm or more, shared out over all comparisons of times.

Source: C. E. Bonferroni 1936; chosen because it holds however the comparisons depend on each other.
"""

MISSING = "missing"
"""Stands for the status of a cell that the other side lacks."""

LEARNT_TOO_LITTLE = frozenset({Status.TARGET_MISSED, Status.DIVERGED})
"""Statuses that say how training went, not whether it ran."""

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
) -> Comparison:
    """Compare what both sides have.

    Args:
        min_effect: share that a time must grow by to be a regression, above 0.
        copies: (point, seed) of cells that are one measurement stored twice.
    """
    before, after = ({(cell.point, cell.seed): cell for cell in side} for side in (base, new))
    common = [key for key in before if key in after]
    fresh = [key for key in common if key not in copies]
    pairs = _pairs([(before[key], after[key]) for key in fresh])
    findings = _statuses(before, after, copies)
    exact = [found for pair in pairs for found in _exact(pair)]
    times = timings(pairs)
    coverage = 1 - FALSE_ALARMS / max(1, sum(ratio.error > 0 for _, _, ratio in times))
    findings += [finding for finding in exact if finding is not None]
    changes = [change_of(*timing, min_effect, coverage) for timing in times]
    findings += [finding for change in changes if (finding := finding_of(change)) is not None]
    sides = [before[key] for key in fresh], [after[key] for key in fresh]
    return Comparison(
        findings=tuple(sorted(findings, key=lambda f: (tuple(ChangeKind).index(f.kind), -f.severity))),
        changes=tuple(changes),
        min_effect=min_effect,
        detectable=tuple(detectable(*timing, min_effect, coverage) for timing in times),
        cells=len(common),
        copies=len(common) - len(fresh),
        only_new=len(after) - len(common),
        exact=len(exact),
        changed=changed_environment(*sides),
        noisy=(_noisy(sides[0]), _noisy(sides[1])),
        notes=tuple(_notes(pairs, times)),
    )


def _pairs(cells: Iterable[tuple[MeasuredCell, MeasuredCell]]) -> list[PointPair]:
    by_point: dict[str, list[tuple[MeasuredCell, MeasuredCell]]] = {}
    for pair in cells:
        if pair[0].ok and pair[1].ok:
            by_point.setdefault(pair[0].point, []).append(pair)
    return [PointPair(*zip(*found, strict=True)) for found in by_point.values()]


# -- statuses ----------------------------------------------------------------------------------------------------------


def _statuses(
    before: Mapping[tuple[str, int], MeasuredCell],
    after: Mapping[tuple[str, int], MeasuredCell],
    copies: frozenset[tuple[str, int]],
) -> list[Finding]:
    """Return the points that were ok and are not, or the other way round; seeds together.

    Where luck has a part in who reaches a target, one more seed that misses it is no regression: the seeds of the point
    have to tell it from chance.
    """
    groups: dict[tuple[str, str, str], list[MeasuredCell]] = {}
    for key, cell in before.items():
        now = str(after[key].row["status"]) if key in after else MISSING
        was = str(cell.row["status"])
        if key not in copies and now != was and Status.OK in (was, now):
            groups.setdefault((cell.point, was, now), []).append(after.get(key, cell))
    findings = [_status_finding(was, now, cells) for (_, was, now), cells in groups.items()]
    return [_by_chance(f, point, before, after) for f, (point, _, _) in zip(findings, groups, strict=True)]


def _by_chance(
    finding: Finding,
    point: str,
    before: Mapping[tuple[str, int], MeasuredCell],
    after: Mapping[tuple[str, int], MeasuredCell],
) -> Finding:
    """Return the finding, undecided where it may be luck: learning on a clock, and too few seeds."""
    if not {finding.base, finding.new} & LEARNT_TOO_LITTLE:
        return finding
    both = [(cell, after[key]) for key, cell in before.items() if key[0] == point and key in after]
    if all(not one.real and deterministic(STATUS, one, other) for one, other in both):
        return finding
    fewer, more = sorted(sum(cell.ok for cell in side) for side in zip(*both, strict=True))
    chance = probability_of_drop(more, fewer, len(both))
    if chance <= FALSE_ALARMS:
        return finding
    detail = Text(f"{finding.detail}; with {counted(len(both), 'seed')} this may be chance")
    return replace(finding, kind=ChangeKind.UNDECIDED, detail=detail)


def probability_of_drop(more: int, fewer: int, seeds: int) -> float:
    """Return how probably so many fewer of as many seeds would succeed if nothing had changed.

    Source: R. A. Fisher 1935, The design of experiments, section 21 (the exact test, one-sided).
    """
    total = more + fewer
    ways = sum(math.comb(seeds, k) * math.comb(seeds, total - k) for k in range(max(0, total - seeds), fewer + 1))
    return ways / math.comb(2 * seeds, total)


def _status_finding(was: str, now: str, cells: Sequence[MeasuredCell]) -> Finding:
    reason = "" if now in (Status.OK, MISSING) else f": {cells[0].row.get('reason') or 'no reason recorded'}"
    detail = Text(f"{_seeds(cell.seed for cell in cells)}{reason}")
    kind = ChangeKind.REGRESSION if was == Status.OK else ChangeKind.IMPROVEMENT
    return Finding(kind, cells[0].row, STATUS, was, now, runs=(len(cells), len(cells)), detail=detail)


def _seeds(seeds: Iterable[int]) -> str:
    numbers = [*map(str, seeds)]
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {listed(numbers)}"


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
    some = f"only in {_seeds(cell.seed for _, _, cell in differ)}"
    detail = Text("in every seed" if len(differ) == len(cells) else some)
    runs = (len(cells), len(cells))
    change = new / base if base else math.inf
    return Finding(kind, pair.row, quantity, base, new, change, runs=runs, detail=detail, exact=True)


# -- what surrounds it -------------------------------------------------------------------------------------------------


def changed_environment(base: Iterable[MeasuredCell], new: Iterable[MeasuredCell]) -> tuple[tuple[str, str, str], ...]:
    """Return (what, before, after) of every fact about machine and versions that is not the same on both sides."""
    before, after = _facts(base), _facts(new)
    keys = [key for key in dict.fromkeys([*before, *after]) if key != "id"]
    return tuple(
        (key, _listed(before.get(key)), _listed(after.get(key))) for key in keys if before.get(key) != after.get(key)
    )


def _listed(values: set[str] | None) -> str:
    return ", ".join(sorted(values or {"none"}))


def _facts(side: Iterable[MeasuredCell]) -> dict[str, set[str]]:
    facts: dict[str, set[str]] = {}
    for cell in side:
        for key, value in cell.environment.items():
            facts.setdefault(key, set()).add(str(value) if value not in ("", None) else "none")
    return facts


def other_devices(base: Sequence[MeasuredCell], new: Sequence[MeasuredCell]) -> tuple[str, str] | None:
    """Return the models of the devices that measured cells ran on, where the sides differ; else None."""
    before, after = (
        {str(cell.environment.get("cpu" if cell.row["device"] == "cpu" else "gpu")) for cell in side if cell.real}
        for side in (base, new)
    )
    if not before or not after or before == after:
        return None
    return _listed(before), _listed(after)


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
