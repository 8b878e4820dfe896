"""Times of two sets of records: which differences are both certain and large enough."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from statistics import fmean, median

import numpy as np

from harness.analysis.compared import (
    ALLOCATED,
    SLOWER,
    TO_TARGET,
    UPDATE_TIME,
    Change,
    ChangeKind,
    Detectable,
    Finding,
    Gated,
    MeasuredCell,
    PointPair,
)
from harness.analysis.exact import MIN_SEEDS, Interval
from harness.analysis.explain import update_parts
from harness.analysis.interleaved import ratios_of_pairs
from harness.analysis.intervals import LogCost, Ratio, cost_of_runs, cost_of_steps, quantile_of_t, ratio
from harness.analysis.points import PART_NAMES, mean_update_s, number
from harness.analysis.quantities import Quantity
from harness.core.text import NO_TEXT, Text

IMPLAUSIBLE = 1.5
"""An improvement by this factor overnight is more often work that is no longer done; chosen."""

POOLED_DEGREES = 4
"""Degrees of freedom above which the spread between runs of all points together stands in for that of a point with
fewer than five runs: as many as five runs of one point have; chosen."""

Timing = tuple[PointPair, Quantity, Ratio]


def timings(pairs: Sequence[PointPair], gated: Container[str] = (), *, interleaved: bool = False) -> list[Timing]:
    """Return what every point's times became, new over base, with how sure that is.

    Args:
        gated: points whose updates are judged beside the reference: runs alone do not say how sure it is.
        interleaved: whether each run took turns with the same of the other side.
    """
    found: list[Timing] = []
    in_turns = ratios_of_pairs({pair.point: _logs_of_pairs(pair) for pair in pairs if pair.real}) if interleaved else {}
    for quantity in (UPDATE_TIME, TO_TARGET, ALLOCATED):
        usable = [kept for pair in pairs if (kept := _measured(pair, quantity)) is not None]
        spread = pooled(usable, quantity)
        for pair in usable:
            known = _ratio_of_seeds(pair) if quantity is TO_TARGET else _ratio(pair, quantity, spread)
            if quantity is UPDATE_TIME and pair.point in gated:
                new, base = (fmean(map(math.log, update_times(side))) for side in (pair.new, pair.base))
                known = Ratio(math.exp(new - base), 0.0, math.inf)
            elif quantity is UPDATE_TIME:
                known = in_turns.get(pair.point, known)
            if known is not None:
                found.append((pair, quantity, known))
    return found


def _logs_of_pairs(pair: PointPair) -> list[float]:
    kept = _measured(pair, UPDATE_TIME)
    both = zip(update_times(kept.base), update_times(kept.new), strict=True) if kept else ()
    return [math.log(new / base) for base, new in both]


def _ratio_of_seeds(pair: PointPair) -> Ratio | None:
    """Return the ratio of times to target, seed by seed: a seed starts at the same weights on both sides.

    Seeds differ from each other by far more (14 % on lenet5, 12 seeds) than the same one on two nights.
    """
    both = zip(_values(pair.base, TO_TARGET), _values(pair.new, TO_TARGET), strict=True)
    found = cost_of_runs([new / base for base, new in both]) if len(pair.base) >= MIN_SEEDS else None
    return Ratio(found.value, found.error, found.degrees) if found else None


def _ratio(pair: PointPair, quantity: Quantity, spread: tuple[float, int]) -> Ratio | None:
    costs = [_cost(side, quantity, spread) for side in _sides(pair)]
    return None if costs[0] is None or costs[1] is None else ratio(costs[0], costs[1])


def _measured(pair: PointPair, quantity: Quantity) -> PointPair | None:
    """Return the seeds of a point that have the quantity on both sides; None without any, or where it is exact."""
    if quantity is not UPDATE_TIME and not pair.real:
        return None
    kept = [(b, n) for b, n in zip(pair.base, pair.new, strict=True) if _value(b, quantity) and _value(n, quantity)]
    return PointPair(*zip(*kept, strict=True)) if kept else None


def _value(cell: MeasuredCell, quantity: Quantity) -> float | None:
    """Return what a run cost; a step's time is the whole job's."""
    return mean_update_s(cell.row) if quantity is UPDATE_TIME else number(cell.row, quantity.column)


def _values(side: Iterable[MeasuredCell], quantity: Quantity) -> list[float]:
    return [value for cell in side if (value := _value(cell, quantity))]


def pooled(pairs: Sequence[PointPair], quantity: Quantity) -> tuple[float, int]:
    """Return the variance of a run's logarithm and its degrees of freedom, over all measured points of both sides."""
    logs = [np.log(_values(side, quantity)) for pair in pairs if pair.real for side in _sides(pair)]
    degrees = sum(len(values) - 1 for values in logs)
    squares = sum(float(((values - values.mean()) ** 2).sum()) for values in logs)
    return (squares / degrees if degrees else 0.0), degrees


def _sides(pair: PointPair) -> tuple[tuple[MeasuredCell, ...], tuple[MeasuredCell, ...]]:
    return pair.base, pair.new


def _cost(side: Sequence[MeasuredCell], quantity: Quantity, spread: tuple[float, int]) -> LogCost | None:
    """Return what one side's runs cost, by whatever says most about their spread; None where nothing does."""
    values = _values(side, quantity)
    if not side[0].real:
        return _simulated(values)
    if len(values) >= MIN_SEEDS:
        return cost_of_runs(values)
    variance, degrees = spread
    middle = fmean(math.log(value) for value in values)
    if degrees >= POOLED_DEGREES:
        return LogCost(middle, math.sqrt(variance / len(values)), degrees, len(values), between_runs=True)
    if quantity is not UPDATE_TIME or side[0].row.get("synchrony") == "asynchronous":
        return None
    steps = cost_of_steps([cell.steps() for cell in side])
    return replace(steps, log=middle) if steps else None


def _simulated(values: Sequence[float]) -> LogCost:
    """Return a simulated cost: seeds are the same on both sides, so what differs is the change itself."""
    return LogCost(fmean(math.log(value) for value in values), 0.0, math.inf, len(values), between_runs=True)


def change_of(
    pair: PointPair,
    quantity: Quantity,
    found: Ratio,
    min_effect: float,
    coverage: float,
    *,
    trust_machine: bool = False,
    gated: Gated | None = None,
) -> Change:
    """Return what became of a time, judged: a finding is both certain and large enough, either way.

    Args:
        trust_machine: the machine is known to be as fast as before; a slower time is then the code's.
        gated: what the point's updates came to beside the reference, which then decides.
    """
    interval = found.interval(coverage)
    codes = not _of_machine(pair, quantity) or (trust_machine and len(pair.new) > 1 and found.between_runs)
    worse = ChangeKind.REGRESSION if codes else ChangeKind.SUSPECT
    # Geometric means: their quotient is the ratio that is judged.
    base, new = (math.exp(fmean(map(math.log, _values(side, quantity)))) for side in _sides(pair))
    before, after = (_median_parts(side) if quantity is not ALLOCATED else {} for side in _sides(pair))
    kind = _kind(found.value, interval, 1 + min_effect, worse)
    if gated is not None and _of_machine(pair, quantity):
        kind = _beside(kind, found.value, quantity, gated)
    return Change(
        row=pair.row,
        quantity=quantity,
        base=base,
        new=new,
        ratio=found.value,
        interval=interval if found.error else None,
        kind=kind,
        runs=(len(pair.base), len(pair.new)),
        parts=(before, after),
        between_runs=found.between_runs,
        gated=gated if quantity is UPDATE_TIME else None,
    )


def _beside(kind: ChangeKind | None, ratio: float, quantity: Quantity, gated: Gated) -> ChangeKind | None:
    """Return what a time is that was judged beside the reference.

    The time to the target follows from updates, which are judged by themselves, and from samples, which are too.
    """
    if quantity is not UPDATE_TIME:
        return None if kind in SLOWER else kind
    return ChangeKind.IMPLAUSIBLE if gated.kind is ChangeKind.IMPROVEMENT and ratio <= 1 / IMPLAUSIBLE else gated.kind


def update_times(side: Sequence[MeasuredCell]) -> list[float]:
    """Return the mean seconds of an update of each run that has one."""
    return _values(side, UPDATE_TIME)


def _of_machine(pair: PointPair, quantity: Quantity) -> bool:
    """Say whether a machine that is slower than last night would show in the quantity."""
    return pair.real and quantity.timed


def _kind(ratio: float, interval: Interval, limit: float, worse: ChangeKind) -> ChangeKind | None:
    if ratio >= limit and interval.low > 1:
        return worse
    if ratio <= 1 / limit and interval.high < 1:
        return ChangeKind.IMPLAUSIBLE if ratio <= 1 / IMPLAUSIBLE else ChangeKind.IMPROVEMENT
    return None


def finding_of(change: Change) -> Finding | None:
    """Return a change as a finding; None where it is none."""
    if change.kind is None:
        return None
    return Finding(
        kind=change.kind,
        row=change.row,
        quantity=change.quantity,
        base=change.base,
        new=change.new,
        change=change.ratio,
        interval=change.interval,
        runs=change.runs,
        where=part_that_changed(change),
        gated=change.gated,
    )


def detectable(
    pair: PointPair, quantity: Quantity, found: Ratio, min_effect: float, coverage: float, gated: Gated | None = None
) -> Detectable:
    """Return the smallest growth that is found certain and large enough in four cases of five."""
    if gated is not None:
        return Detectable(pair.row, quantity, gated.detectable)
    large = (1 + min_effect) * math.exp(quantile_of_t(0.8, found.degrees) * found.error)
    return Detectable(pair.row, quantity, max(large, found.detectable(coverage)))


def part_that_changed(change: Change) -> Text:
    """Return the part of a step that grew (or shrank) most, in words; empty where parts were not measured."""
    before, after = change.parts
    part = changed_part(change)
    if not part:
        return NO_TEXT
    return Text(f"{PART_NAMES[part]} ({1e3 * before[part]:.3g} ms per update before, {1e3 * after[part]:.3g} ms now)")


def changed_part(change: Change) -> str:
    """Return the column of the part that grew most, or shrank where the time did; "" where none is known to."""
    before, after = change.parts
    changes = {part: after[part] - before[part] for part in before if part in after}
    sign = 1 if change.ratio > 1 else -1
    part = max(changes, key=lambda part: sign * changes[part], default="")
    return part if part and sign * changes[part] > 0 else ""


def _median_parts(side: Sequence[MeasuredCell]) -> dict[str, float]:
    known = [update_parts(cell.row) for cell in side]
    return {part: median(p[part] for p in known) for part in PART_NAMES if known and all(part in p for p in known)}
