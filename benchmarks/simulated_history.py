"""Histories with a known truth, drawn many times and given to the product's own trends; `statistics.py` runs them.

A machine drifts (a random walk of 0.6 % a night and a sine of 3 %), the reference and every point drift with it, and
one night in fifty is up to some 10 % too long. At night 23 one point, all points or the machine become slower.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
from simulated_sweeps import Line

from harness.analysis.change_points import FIRST_NIGHTS
from harness.analysis.nights import CellNight
from harness.analysis.trends import ChangedBy, Shift, Trends, trends_of

NIGHTS, AT = 40, 22
"""Nights of a history, and the index of the first one that is slower."""

LONG = 200
"""Nights of the histories that are watched for false alarms only."""

NEAR = 3
"""Nights that a change is off its true place at most, to be counted as found; chosen."""


@dataclass(frozen=True)
class Machine:
    """What nights are drawn from, in standard deviations of logarithms.

    Attributes:
        cell, reference: what a night adds to the times of each.
        step: by which the first point, all of them (`everywhere`) or the machine (`machine_step`) become slower.
        walk: of the drift from night to night; wave: height of the drift's sine.
        beside: whether a reference runs beside the cells.
    """

    cell: float = 0.01
    reference: float = 0.007
    points: int = 8
    step: float = 0.07
    everywhere: float = 0.0
    machine_step: float = 0.0
    walk: float = 0.006
    wave: float = 0.03
    outliers: float = 0.02
    beside: bool = True
    nights: int = NIGHTS


def draw(world: Machine, random: np.random.Generator) -> list[CellNight]:
    """Return the rows of one history."""
    drift = np.cumsum(random.standard_normal(world.nights) * world.walk)
    drift += world.wave * np.sin(2 * math.pi * np.arange(world.nights) / 30 + random.uniform(0, 2 * math.pi))
    drift[AT:] += math.log1p(world.machine_step)
    reference = drift + random.standard_normal(world.nights) * world.reference
    rows = []
    for point in range(world.points):
        log = drift + random.standard_normal(world.nights) * world.cell
        log += (random.random(world.nights) < world.outliers) * random.exponential(0.1, world.nights)
        log[AT:] += math.log1p(world.everywhere if point else max(world.step, world.everywhere))
        pairs = zip(np.exp(log), np.exp(reference), strict=True)
        rows += [_row(night, point, *pair, world.beside) for night, pair in enumerate(pairs)]
    return rows


def _row(night: int, point: int, seconds: float, reference: float, beside: bool) -> CellNight:
    stamp = _stamp(night)
    return CellNight(
        night=stamp, scenario="simulated", machine="", point=str(point), cell_id=f"{point}-{night}",
        record=f"{point}-{night}", started=stamp, strategy="sync-ddp", options="{}", swept=json.dumps({"x": point}),
        model="mlp", dataset="digits", engine="real", device="cuda", gpus=2, batch_size=16, micro_batch_size=16,
        global_batch_size=32, learning_rate=0.1, seed=0, status="ok", update_s=seconds, time_to_target_s=None,
        samples_to_target=None, validation_accuracy=None, validation_loss=None, train_loss=None, test_accuracy=None,
        metric=None, noisy=False, commit=f"{night:040x}", dirty=False, harness="", python="", torch="", driver="",
        hardware="", cluster="", facts="{}", reference_kind="loop" if beside else "",
        reference_s=reference if beside else None,
    )  # fmt: skip


def _stamp(night: int) -> str:
    return f"{datetime(2031, 1, 1, tzinfo=UTC) + timedelta(days=night):%Y-%m-%dT%H:%M:%SZ}"


# -- what is counted ---------------------------------------------------------------------------------------------------


def trends(rows: list[CellNight], nights: int) -> Trends:
    """Return what the product says after so many nights."""
    (found,) = trends_of([row for row in rows if row.night < _stamp(nights)])
    return found


def is_true(shift: Shift, found: Trends, key: str = "0") -> bool:
    """Say whether a change is the one that was made: at that point, slower, about there."""
    return key in shift.points and shift.factor > 1 and abs(found.nights.index(shift.after) - AT) <= NEAR


def alarms(found: Trends, world: Machine) -> int:
    """Return the changes that nobody made, the machine's left out."""
    changed = world.step or world.everywhere
    shifts = [shift for shift in found.shifts if shift.by is not ChangedBy.MACHINE]
    return sum(not (changed and is_true(shift, found)) for shift in shifts)


@dataclass(frozen=True)
class Watched:
    """What became of many histories, in percent.

    Attributes:
        found: by the nights with the change after which it was.
        near: of those found, the night named is one off at most; inside: the nights named hold the true one.
        false: changes that nobody made, in 100 nights of each series in which any can be found; machine: those of the
            machine, in 100 nights.
    """

    found: dict[int, float]
    near: float
    inside: float
    false: float
    machine: float


AFTER = (2, 3, 5)


def watch(world: Machine, draws: int, after: Sequence[int] = AFTER) -> Watched:
    """Draw histories, and count what is said of them."""
    random, found, near, inside, false, machine = np.random.default_rng(3), Counter[int](), 0, 0, 0, 0
    count = 0
    for _ in range(draws):
        rows = draw(world, random)
        for nights in after:
            then = trends(rows, AT + nights)
            found[nights] += any(is_true(shift, then) for shift in then.shifts)
        whole = trends(rows, world.nights)
        false += alarms(whole, world)
        machine += sum(shift.by is ChangedBy.MACHINE for shift in whole.shifts)
        mine = next((shift for shift in whole.shifts if is_true(shift, whole)), None)
        if mine is not None:
            count += 1
            near += abs(whole.nights.index(mine.after) - AT) <= 1
            inside += mine.earliest.night <= _stamp(AT) <= mine.latest.night
    hundreds = draws * (world.nights - FIRST_NIGHTS + 1) / 100
    return Watched(
        found={nights: 100 * found[nights] / draws for nights in after},
        near=100 * near / max(1, count),
        inside=100 * inside / max(1, count),
        false=false / hundreds / (world.points + 1),
        machine=machine / hundreds,
    )


NOISES = (("1 % together", 0.00714, 0.007, 95), ("1 and 0.7 %", 0.01, 0.007, 88), ("2 % together", 0.0187, 0.007, 0))
"""Of a night of cell and reference, and how often the step has to be found with two nights."""


def history(draws: int) -> Iterator[Line]:
    """Yield how often a step of 7 % at night 23 of 40 is found, and how often one is found that nobody made."""
    few = max(20, draws // 10)
    for words, cell, reference, least in NOISES:
        seen = watch(Machine(cell, reference), few)
        for nights, share in seen.found.items():
            text = f"7 % at one of 8 points, a night's noise {words}: found with {nights} nights"
            yield Line(text, share, least=least if nights == AFTER[0] else 0)
        yield Line("  its night is named, one off at most", seen.near)
        yield Line("  the nights that are named hold it", seen.inside, least=90 if least else 0)
        for drifts, world in (("drift", Machine()), ("no drift", Machine(walk=0.0, wave=0.0))):
            seen = watch(replace(world, cell=cell, reference=reference, step=0.0), few, ())
            yield Line(f"  no step, {drifts}: false alarms in 100 nights and series", seen.false, most=0.3, digits=3)
            yield Line(f"  no step, {drifts}: changes of the machine in 100 nights", seen.machine, digits=3)
    for words, cell, reference, _ in NOISES:
        long = watch(Machine(cell, reference, step=0.0, nights=LONG), few // 8, ())
        yield Line(f"no step, drift, {words}, {LONG} nights: false alarms in 100", long.false, most=0.3, digits=3)
    without = watch(Machine(step=0.0, beside=False), few, ())
    yield Line("no step, drift, no reference (1 %): false alarms in 100 nights and series", without.false)
    many = watch(Machine(points=30), few // 4, AFTER[:2])
    yield Line("7 % at one of 30 points, 1 and 0.7 %: found with 2 nights", many.found[2])
    yield Line("  false alarms in 100 nights and series", many.false, most=0.3, digits=3)
    everywhere = watch(Machine(step=0.0, everywhere=0.05), few)
    yield Line("5 % at all points, 1 and 0.7 %: found with 2 nights", everywhere.found[2])
    large = watch(Machine(0.0187, 0.007, step=0.15), few)
    yield Line("15 % at one of 8 points, 2 % together: found with 2 nights", large.found[2])
    yield from other_machine(few)


def other_machine(draws: int) -> Iterator[Line]:
    """Yield how often a machine that becomes slower is told, and how often a point is blamed for it."""
    for step, least in ((0.1, 0), (0.15, 0), (0.3, 95)):
        world = Machine(step=0.0, machine_step=step)
        random, told, blamed = np.random.default_rng(6), 0, 0
        for _ in range(draws):
            found = trends(draw(world, random), world.nights)
            at = [shift for shift in found.shifts if abs(found.nights.index(shift.after) - AT) <= 1]
            told += any(shift.by is ChangedBy.MACHINE for shift in at)
            blamed += any(shift.by is not ChangedBy.MACHINE for shift in at)
        text = f"the machine becomes {100 * step:.0f} % slower, drift"
        yield Line(f"{text}: said to be the machine's", 100 * told / draws, least=least)
        yield Line(f"{text}: said to be a point's", 100 * blamed / draws, most=5)
