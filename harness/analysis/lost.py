"""Why one point loses to another: by seeds that failed, by what it learns from a sample, or by a part of its step.

Imports the standard library only; works on rows of cells.csv, None standing for what was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.point_names import devices_in_words, differs, label, unit
from harness.analysis.points import COMPUTING, EXCHANGING, Point, number, status_counts
from harness.analysis.ranking import Standing
from harness.core.words import duration, rate, three, times

LEAST_GAIN = 0.01
"""Chosen: splitting that saves less than this share of a step's computing is not told from noise."""

HARDLY = 0.5
"""Share of what more devices could gain below which they are hardly worth it: each does less than half its work;
chosen."""

_PART_WORDS = {
    "input_s": "input",
    "compute_s": "computing",
    "other_s": "other work of the loop",
    "communication_s": "communication",
    "idle_s": "waiting for others",
}


def because(split: Point, one: Point) -> str:
    """Say why several devices lost to one, and from how much more work per step on they would win.

    From the rows come, per update: c1, one device's computing (input, compute, other); cN, the same per device where
    the step is split; y, what the split exchanges (communication and idle). With k times the work per step computing
    grows k-fold and the exchange stays, so splitting pays when k c1 > k cN + y, that is from k = y / (c1 - cN) on.
    Both points must have the same global batch, or a step is not the same work.
    """
    found = _three_costs(split, one)
    if found is None:
        return ""
    c1, cn, y = found
    if one.row["global_batch_size"] != split.row["global_batch_size"] or cn + y <= c1:
        return more_samples(split, one)
    pays = "it would pay at no amount of work seen here"
    if c1 - cn > LEAST_GAIN * c1:
        pays = f"it would pay with {three(y / (c1 - cn))} times the work per step or more"
    return (
        f"{unit(split)} of {split.strategy} computes for {duration(cn)} and exchanges and waits for {duration(y)} "
        f"where one device computes for {duration(c1)}; {pays}"
    )


def pays_down_to(split: Point, one: Point) -> str:
    """Say down to how little work per step splitting pays, where it does; the algebra of `because`."""
    found = _three_costs(split, one)
    if found is None or one.row["global_batch_size"] != split.row["global_batch_size"]:
        return ""
    c1, cn, y = found
    if cn + y >= c1 or y <= 0:
        return ""
    share = three(y / (c1 - cn))
    return f"{split.strategy} wins down to {share} times the work per step; with less, {one.strategy} on one device"


def _three_costs(split: Point, one: Point) -> tuple[float, float, float] | None:
    c1, cn, y = one.per_update(COMPUTING), split.per_update(COMPUTING), split.per_update(EXCHANGING)
    return None if c1 is None or cn is None or y is None else (c1, cn, y)


def more_samples(point: Point, leader: Point) -> str:
    """Say how many more samples a point needs to the target; empty where it does not."""
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    if not mine or not best or mine <= best:
        return ""
    return (
        f"{point.strategy} needs {three(mine / best)} times the samples to the target ({mine:,.0f} against {best:,.0f})"
    )


def why(standing: Standing, leader: Standing) -> str:
    """Say what a strategy lost by: failed seeds, more samples to the target, or the part of a step that grew most."""
    point, best = standing.point, leader.point
    if not standing.sure:
        return failure(standing)
    slower, more = _time_per_sample(point, best), _sample_ratio(point, best)
    if more > max(slower, 1):
        return f"{label(point)} learns less from a sample: {more_samples(point, best)}."
    return _longer_step(point, best)


def failure(standing: Standing) -> str:
    """Say how many seeds got there, and what became of the others."""
    goal = "reached the target" if standing.point.by_target else "finished"
    missed = {key: count for key, count in status_counts(standing.point.rows).items() if key != "ok"}
    reasons = ", ".join(f"{count} {status}" for status, count in missed.items())
    head = f"{label(standing.point)}: {standing.reached} of {standing.seeds} seeds {goal}"
    return f"{head} ({reasons or 'no value'})."


def _sample_ratio(point: Point, leader: Point) -> float:
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    return mine / best if mine and best else 0.0


def _time_per_sample(point: Point, leader: Point) -> float:
    mine, best = (p.per_update((*COMPUTING, *EXCHANGING)) for p in (point, leader))
    return mine / best / _work_ratio(point, leader) if mine and best else 0.0


def _work_ratio(point: Point, leader: Point) -> float:
    """Samples behind one update of `point` for each one behind an update of `leader`."""
    return float(point.row["global_batch_size"] / leader.row["global_batch_size"])


def _longer_step(point: Point, leader: Point) -> str:
    scale = _work_ratio(point, leader)
    grown = {part: _pair(point, leader, (part,), scale) for part in (*COMPUTING, *EXCHANGING)}
    part = max(grown, key=lambda part: grown[part][0] - grown[part][1])
    mine, best = _pair(point, leader, (*COMPUTING, *EXCHANGING), scale)
    if mine <= best or grown[part][0] <= grown[part][1]:
        return ""
    same = "" if scale == 1 else " for as many samples"
    more, less = (duration(seconds) for seconds in grown[part])
    whole = f"takes {duration(mine)} where {differs(leader, point)} takes {duration(best)}{same}"
    return (
        f"{label(point)}: {unit(point)} {whole}; most of the difference is {_PART_WORDS[part]} ({more} against {less})."
    )


def _pair(point: Point, leader: Point, parts: Sequence[str], scale: float) -> tuple[float, float]:
    return point.per_update(parts) or 0.0, (leader.per_update(parts) or 0.0) * scale


# -- more devices ------------------------------------------------------------------------------------------------------


def fewer(leader: Standing, found: Sequence[Standing]) -> Standing | None:
    """Return the same strategy on the fewest devices, all else equal; None where it ran on no fewer."""
    row = leader.point.row

    def alike(other: Standing) -> bool:
        point = other.point
        same = all(point.row[key] == row[key] for key in ("strategy", "engine", "global_batch_size", "learning_rate"))
        return same and point.details == leader.point.details and other.sure and point.gpus < leader.point.gpus

    return min(filter(alike, found), key=lambda standing: standing.point.gpus, default=None)


def hardly_faster(many: Standing, few: Standing) -> bool:
    """Say whether the devices that were added do less than half the work that they could."""
    return _gain(many, few) / (many.point.gpus / few.point.gpus) < HARDLY


def _gain(many: Standing, few: Standing) -> float:
    return few.seconds / many.seconds if many.seconds > 0 else float("inf")


def scaling_in_words(many: Standing, few: Standing) -> str:
    """Say how much faster many devices are than few, what a sample costs on them, and why."""
    gain, devices = _gain(many, few), many.point.gpus / few.point.gpus
    at = f"{rate(1 / many.seconds)} against {rate(1 / few.seconds)}"
    if many.point.by_target:
        at = f"the target in {duration(many.seconds)} against {duration(few.seconds)}"
    head = (
        f"{times(gain)} times as fast ({at}) on {times(devices)} times the devices, so that "
        f"{'the way there' if many.point.by_target else 'a sample'} costs {times(devices / gain)} times the device time"
    )
    parts = _parts_in_words(many.point, few.point)
    return f"{head}; {parts}" if parts else head


def _parts_in_words(many: Point, few: Point) -> str:
    c1, y1 = few.per_update(COMPUTING), few.per_update(EXCHANGING)
    cn, yn = many.per_update(COMPUTING), many.per_update(EXCHANGING)
    if c1 is None or cn is None or y1 is None or yn is None:
        return ""
    return (
        f"{unit(many)} computes for {duration(cn)} instead of {duration(c1)} "
        f"but exchanges and waits for {duration(yn)} instead of {duration(y1)}"
    )


def hardly(many: Standing, few: Standing) -> str:
    """Return the answer to "why are many no faster than few?"."""
    on, since = devices_in_words(many.point.row), ""
    computing, exchanging = (many.point.per_update(parts) for parts in (COMPUTING, EXCHANGING))
    if computing is not None and exchanging:
        share = 100 * exchanging / (computing + exchanging)
        since = f", since exchange and waiting take {share:.0f} % of a step"
    head = f"{on} are hardly faster than {few.point.gpus} for {many.point.strategy}{since}"
    return f"{head}: {scaling_in_words(many, few)}"
