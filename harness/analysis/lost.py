"""Why one point loses to another: by seeds that failed, by what it learns from a sample, or by a part of its step.

Imports the standard library only; works on rows of cells.csv, None standing for what was not measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.analysis.point_names import devices_in_words, differs, label, on_devices, sentences, unit
from harness.analysis.points import COMPUTING, EXCHANGING, PART_NAMES, Point, in_stages, number, status_counts
from harness.analysis.ranking import Standing
from harness.core.endings import Status
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, duration, rate, three, times

LEAST_GAIN = 0.01
"""Chosen: splitting that saves less than this share of a step's computing cannot be separated from noise."""

HARDLY = 0.5
"""Share of what more devices could gain below which they are hardly worth it: each does less than half its work;
chosen."""


def because(split: Point, one: Point, same: bool = False) -> Text:
    """Say why several devices lost to one, and from how much more work per step on they would win.

    From the rows come, per update: c1, one device's computing (input, compute, other); cN, the same per device where
    the step is split; y, what the split exchanges (communication and idle). With k times the work per step computing
    grows k-fold and the exchange stays, so splitting pays when k c1 > k cN + y, that is from k = y / (c1 - cN) on.
    Stages of a pipeline wait in proportion to the work: their idle time grows with it, as computing does.
    Both points must have the same global batch, or a step is not the same work.

    Args:
        same: both train the same model, so that none learns less from a sample.
    """
    found = _three_costs(split, one)
    if found is None:
        return NO_TEXT
    c1, cn, y = found
    if one.row["global_batch_size"] != split.row["global_batch_size"] or cn + y <= c1:
        return NO_TEXT if same else more_samples(split, one)
    grows, stays = _growing(split, cn, y)
    pays = "Splitting does not shorten computing here, so more work per step would not help."
    if c1 - grows > LEAST_GAIN * c1:
        pays = f"Splitting pays off once a step has at least {times(stays / (c1 - grows))}x the work."
    elif grows > cn:
        pays = "More work per step would not help: stages wait in proportion to it. More micro-batches may."
    return sentences(
        f"Each {unit(split)} of {on_devices(split.row)} computes for {duration(cn)} and spends {duration(y)} on "
        f"exchange and waiting; on one device it computes for {duration(c1)}.",
        pays,
    )


def pays_down_to(split: Point, one: Point) -> Text:
    """Say down to how little work per step splitting pays, where it does; the algebra of `because`."""
    found = _three_costs(split, one)
    if found is None or one.row["global_batch_size"] != split.row["global_batch_size"]:
        return NO_TEXT
    c1, cn, y = found
    if cn + y >= c1 or y <= 0:
        return NO_TEXT
    grows, stays = _growing(split, cn, y)
    share = times(stays / (c1 - grows))
    if not stays:
        return NO_TEXT
    return Text(
        f"{split.strategy} stays ahead down to {share}x the work per step. Below that, {one.strategy} on one device is "
        "faster."
    )


def _three_costs(split: Point, one: Point) -> tuple[float, float, float] | None:
    c1, cn, y = one.per_update(COMPUTING), split.per_update(COMPUTING), split.per_update(EXCHANGING)
    return None if c1 is None or cn is None or y is None else (c1, cn, y)


def _growing(split: Point, cn: float, y: float) -> tuple[float, float]:
    """Return what of a step grows with its work, and what stays: of pipelines waiting grows."""
    idle = (split.per_update(("idle_s",)) or 0.0) if in_stages(split.row) else 0.0
    return cn + idle, y - idle


def more_samples(point: Point, leader: Point, name: str = "") -> Text:
    """Say how many more samples a point needs to the target; empty where it does not.

    Args:
        name: what the point is called, where its strategy is not enough.
    """
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    if not mine or not best or mine <= best:
        return NO_TEXT
    needs = f"needs {three(mine / best)} times the samples to reach the target ({mine:,.0f} against {best:,.0f})"
    return Text(f"{name or point.strategy} {needs}.")


def why(standing: Standing, leader: Standing, same: bool = False) -> Text:
    """Say what a strategy lost by: failed seeds, more samples to the target, or the part of a step that grew most.

    Args:
        same: both train the same model, so that none learns less from a sample.
    """
    point, best = standing.point, leader.point
    if not standing.sure:
        return failure(standing)
    slower, more = _time_per_sample(point, best), 0.0 if same else _sample_ratio(point, best)
    if more > max(slower, 1):
        return more_samples(point, best, label(point))
    return _longer_step(point, best)


def failure(standing: Standing) -> Text:
    """Say how many seeds got there, and what became of the others."""
    goal = "reached the target" if standing.point.by_target else "finished"
    missed = {key: count for key, count in status_counts(standing.point.rows).items() if key != Status.OK}
    reasons = ", ".join(f"{count} {status}" for status, count in missed.items())
    got = f"{standing.reached} of {counted(standing.seeds, 'seed')}"
    return Text(f"{label(standing.point)} {goal} with {got} ({reasons or 'no value'}).")


def _sample_ratio(point: Point, leader: Point) -> float:
    mine, best = (p.median_of(lambda row: number(row, "samples_to_target")) for p in (point, leader))
    return mine / best if mine and best else 0.0


def _time_per_sample(point: Point, leader: Point) -> float:
    mine, best = (p.per_update((*COMPUTING, *EXCHANGING)) for p in (point, leader))
    return mine / best / _work_ratio(point, leader) if mine and best else 0.0


def _work_ratio(point: Point, leader: Point) -> float:
    """Samples behind one update of `point` for each one behind an update of `leader`."""
    return float(point.row["global_batch_size"] / leader.row["global_batch_size"])


def _longer_step(point: Point, leader: Point) -> Text:
    scale = _work_ratio(point, leader)
    grown = {part: _pair(point, leader, (part,), scale) for part in (*COMPUTING, *EXCHANGING)}
    part = max(grown, key=lambda part: grown[part][0] - grown[part][1])
    mine, best = _pair(point, leader, (*COMPUTING, *EXCHANGING), scale)
    if mine <= best or grown[part][0] <= grown[part][1]:
        return NO_TEXT
    same = "" if scale == 1 else " for the same number of samples"
    more, less = (duration(seconds) for seconds in grown[part])
    whole = f"{duration(mine)} per {unit(point)}{same}; {differs(leader, point)} takes {duration(best)}"
    return sentences(
        f"{label(point)} takes {whole}.",
        f"Most of the difference is {PART_NAMES[part]} ({more} against {less}).",
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
        return same and point.varied == leader.point.varied and other.sure and point.gpus < leader.point.gpus

    return min(filter(alike, found), key=lambda standing: standing.point.gpus, default=None)


def hardly_faster(many: Standing, few: Standing) -> bool:
    """Say whether the devices that were added do less than half the work that they could."""
    return _gain(many, few) / (many.point.gpus / few.point.gpus) < HARDLY


def _gain(many: Standing, few: Standing) -> float:
    return few.seconds / many.seconds if many.seconds > 0 else float("inf")


def scaling_in_words(many: Standing, few: Standing, basis: str) -> tuple[Text, ...]:
    """Say how fast many devices are beside few, and why; the last sentence is what that costs.

    Args:
        basis: what the figures rest on.
    """
    gain, devices = _gain(many, few), many.point.gpus / few.point.gpus
    if many.point.by_target:
        at = f"They reach the target in {duration(many.seconds)}; {few.point.gpus} need {duration(few.seconds)}"
    else:
        at = f"They train {rate(1 / many.seconds)}; {few.point.gpus} train {rate(1 / few.seconds)}"
    what = "Reaching the target" if many.point.by_target else "A sample"
    cost = f"{what} costs {times(devices / gain)}x the device time."
    found = (f"{at} ({basis}).", _exchange_share(many.point), _parts_in_words(many.point, few.point), cost)
    return tuple(Text(line) for line in found if line)


def _exchange_share(many: Point) -> str:
    computing, exchanging = (many.per_update(parts) for parts in (COMPUTING, EXCHANGING))
    if computing is None or not exchanging:
        return ""
    return f"Exchange and waiting take {100 * exchanging / (computing + exchanging):.0f} % of each {unit(many)}."


def _parts_in_words(many: Point, few: Point) -> str:
    c1, y1 = few.per_update(COMPUTING), few.per_update(EXCHANGING)
    cn, yn = many.per_update(COMPUTING), many.per_update(EXCHANGING)
    if c1 is None or cn is None or y1 is None or yn is None:
        return ""
    return (
        f"From {few.gpus} to {many.gpus} devices, computing goes from {duration(c1)} to {duration(cn)} per "
        f"{unit(many)}, exchange and waiting from {duration(y1)} to {duration(yn)}."
    )


def hardly(many: Standing, few: Standing) -> Text:
    """Return the answer to "why are many no faster than few?"."""
    gain, devices = _gain(many, few), devices_in_words(many.point.row)
    fast = f"only {times(gain)}x as fast as {few.point.gpus}" if gain >= 1 else f"slower than {few.point.gpus}"
    return Text(f"{devices} are {fast} with {many.point.strategy}.")
