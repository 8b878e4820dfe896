"""What a history of nights says: how each point's time moved, where it changed, and whether the machine did.

A point's time is read beside the reference's of the same night: what slows both down is the machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median

from harness.analysis.change_points import FIRST_NIGHTS, ChangePoint, change_points, machine_steps, threshold
from harness.analysis.compare_environment import changed_facts
from harness.analysis.compared import Changed
from harness.analysis.nights import CellNight, Night, middle_log, nights_of
from harness.analysis.points import Row

FEWEST_TOGETHER = 3
"""Points from which on there is a series of all of them: the median of two is moved by one; chosen."""

ONE_CHANGE = 2
"""Nights that two changes are apart at most if they are one; chosen: a place is off by one night in fifty."""

EXACT_LEAST = math.log(1.001)
"""Change of a simulated time that counts: it repeats exactly, and less does nobody any harm; chosen."""

CODE_FACT = "code of "
"""Starts the facts that name the code of strategy, model and data set: what changes them is a commit."""


class ChangedBy(StrEnum):
    """Who made a time change, as far as the nights tell.

    Environment: versions, hardware or the scenario changed in the same night; unknown: there is no reference that would
    tell code from machine, or both sides ran the same commit.
    """

    MACHINE = "machine"
    ENVIRONMENT = "environment"
    CODE = "code"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Shift:
    """A change point, with what surrounds it.

    Attributes:
        points: keys of the points that changed; none where the reference itself did.
        together: whether the points changed as one.
        factor: of the time, new over old.
        before: the last night at the old level; after: the first at the new one; seen: when it could be told.
        usual: the last night that surely was at the old level.
        earliest, latest: between which nights the first one at the new level may lie.
        changed: facts that are not the same before and after.
        reference: factor by which the reference moved in the same nights; None without one.
    """

    by: ChangedBy
    points: tuple[str, ...]
    together: bool
    factor: float
    usual: Night
    before: Night
    after: Night
    seen: Night
    earliest: Night
    latest: Night
    changed: tuple[Changed, ...]
    reference: float | None = None


@dataclass(frozen=True)
class Level:
    """Nights between two changes.

    Attributes:
        first, last: indices of nights.
        seconds: of an update, the median.
    """

    first: int
    last: int
    seconds: float


@dataclass(frozen=True)
class PointTrend:
    """One point over the nights.

    Attributes:
        key: what pairs its cells.
        last: index of the last night that it ran in.
        nights: indices of the nights that it has a time in.
        measured_s: seconds of an update, each night's middle run; adjusted_s: at the machine's usual speed.
        runs: in each of those nights.
        shifts: places and sizes of its change points; places are indices of nights.
        statuses: how its cells ended in the last night that it ran in, by status.
        run_spread: standard deviation of the logarithm between runs of a night; None where none has two.
    """

    key: str
    row: Row
    simulated: bool
    last: int
    nights: tuple[int, ...]
    measured_s: tuple[float, ...]
    adjusted_s: tuple[float, ...]
    runs: tuple[int, ...]
    shifts: tuple[ChangePoint, ...]
    levels: tuple[Level, ...]
    statuses: Mapping[str, int]
    run_spread: float | None

    @property
    def night_spread(self) -> float | None:
        """Standard deviation of a night about its level, as a logarithm; None for fewer than two nights."""
        within = {n: math.log(level.seconds) for level in self.levels for n in range(level.first, level.last + 1)}
        away = [math.log(s) - within[n] for n, s in zip(self.nights, self.adjusted_s, strict=True)]
        return math.sqrt(fmean(a * a for a in away)) if len(away) > 1 else None


@dataclass(frozen=True)
class Trends:
    """One scenario on one machine.

    Attributes:
        nights: the oldest first; left_out: those without a reference, though others have one.
        points: in the order in which they were first seen.
        shifts: what changed, the newest first.
        anew: indices of nights at which all series start again, as reference or machine is another one.
    """

    scenario: str
    machine: str
    nights: tuple[Night, ...]
    left_out: tuple[Night, ...]
    points: tuple[PointTrend, ...]
    shifts: tuple[Shift, ...]
    anew: tuple[int, ...]

    @property
    def referenced(self) -> bool:
        """Whether the newest nights have a reference."""
        return bool(self.nights) and self.nights[-1].reference is not None

    @cached_property
    def drift(self) -> tuple[float, ...]:
        """The newest reference night by night, over its median since the machine changed last; empty without one."""
        if not self.referenced:
            return ()
        first = max(_other_reference(self.nights), default=0)
        logs = [night.reference or 0.0 for night in self.nights[first:]]
        usual = median(logs[max(self.anew, default=0) - first :])
        return tuple(math.exp(log - usual) for log in logs)

    @property
    def current(self) -> list[PointTrend]:
        """The points that ran in one of the last two nights: a sweep that was changed leaves others behind."""
        return [point for point in self.points if point.last >= len(self.nights) - 2]

    @property
    def nights_needed(self) -> int:
        """Nights that are missing before a change can be found; 0 where none are."""
        since = max(self.anew, default=0)
        return max(0, FIRST_NIGHTS - (len(self.nights) - since))


def trends_of(rows: Sequence[CellNight]) -> list[Trends]:
    """Return what a history says, for each scenario on each machine."""
    groups: dict[tuple[str, str], list[CellNight]] = {}
    for row in rows:
        groups.setdefault((row.scenario, row.machine), []).append(row)
    return [_trends(*names, nights_of(found)) for names, found in sorted(groups.items())]


def _trends(scenario: str, machine: str, known: Sequence[Night]) -> Trends:
    nights = _usable(known)
    steps = _steps_of_machine(nights)
    anew = sorted({*_other_reference(nights), *(step.place for step in steps)})
    speeds = _machine_speed(nights, anew)
    points = [_Series.of(key, nights, speeds) for key in _keys(nights)]
    score = threshold(sum(not point.simulated for point in points) + 1)
    trends = [point.trend(anew, score) for point in points]
    shifts = [_machine_shift(step, nights) for step in steps]
    shifts += _joined(trends, _together(points, anew, score), nights)
    return Trends(
        scenario=scenario,
        machine=machine,
        nights=tuple(nights),
        left_out=tuple(night for night in known if night not in nights),
        points=tuple(trends),
        shifts=tuple(sorted(shifts, key=lambda s: (s.after.night, abs(math.log(s.factor))), reverse=True)),
        anew=tuple(anew),
    )


def _keys(nights: Sequence[Night]) -> list[str]:
    return list(dict.fromkeys(row.point for night in nights for row in night.rows))


# -- the reference -----------------------------------------------------------------------------------------------------


def _usable(known: Sequence[Night]) -> list[Night]:
    """Return the nights that can be put beside each other: from the first with a reference on only those with one."""
    first = next((place for place, night in enumerate(known) if night.reference is not None), len(known))
    return [night for place, night in enumerate(known) if place < first or night.reference is not None]


def _other_reference(nights: Sequence[Night]) -> list[int]:
    """Return where the reference is another loop than the night before, or the first at all."""
    kinds = [night.reference_kind for night in nights]
    return [place for place in range(1, len(nights)) if kinds[place] != kinds[place - 1]]


def _spans(starts: Sequence[int], count: int) -> list[range]:
    """Return the stretches of so many nights that begin at the first one and at these."""
    return [range(first, end) for first, end in pairwise([0, *starts, count])]


def _steps_of_machine(nights: Sequence[Night]) -> list[ChangePoint]:
    found = []
    for span in _spans(_other_reference(nights), len(nights)):
        known = [nights[place].reference for place in span]
        logs = [log for log in known if log is not None]
        found += [step.at(span) for step in machine_steps(logs)]
    return found


def _machine_speed(nights: Sequence[Night], anew: Sequence[int]) -> list[float]:
    """Return how much slower the machine was than usual in each night, as a logarithm; 0 without a reference.

    What is usual is read anew whenever the machine is another one.
    """
    speeds = []
    for span in _spans(anew, len(nights)):
        logs = [nights[place].reference or 0.0 for place in span]
        speeds += [log - median(logs) for log in logs]
    return speeds


# -- series ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Series:
    """A point's nights.

    Attributes:
        runs: of each night, those that have a time.
        measured, adjusted: logarithms of seconds, one a night that has a time.
    """

    key: str
    newest: tuple[CellNight, ...]
    last: int
    places: tuple[int, ...]
    runs: tuple[tuple[CellNight, ...], ...]
    measured: tuple[float, ...]
    adjusted: tuple[float, ...]

    @classmethod
    def of(cls, key: str, nights: Sequence[Night], speeds: Sequence[float]) -> _Series:
        all_runs = [tuple(row for row in night.rows if row.point == key) for night in nights]
        timed = [tuple(row for row in runs if row.timed) for runs in all_runs]
        places = tuple(place for place, runs in enumerate(timed) if runs)
        last = max(place for place, runs in enumerate(all_runs) if runs)
        simulated = all_runs[last][0].engine == "virtual"
        measured = tuple(middle_log(row.update_s or 0.0 for row in timed[place]) for place in places)
        adjusted = [log - (0.0 if simulated else speeds[place]) for log, place in zip(measured, places, strict=True)]
        return cls(
            key=key,
            newest=all_runs[last],
            last=last,
            places=places,
            runs=tuple(timed[place] for place in places),
            measured=measured,
            adjusted=tuple(adjusted),
        )

    @property
    def simulated(self) -> bool:
        return self.newest[0].engine == "virtual"

    def trend(self, anew: Sequence[int], score: float) -> PointTrend:
        mine = [] if self.simulated else [self._from(place) for place in anew]
        found = self._exact_steps() if self.simulated else change_points(self.adjusted, score, mine)
        starts = sorted({0, *mine, *(step.place for step in found)} - {len(self.places)})
        statuses = [row.status for row in self.newest]
        return PointTrend(
            key=self.key,
            row=self.newest[0].row,
            simulated=self.simulated,
            last=self.last,
            nights=self.places,
            measured_s=tuple(map(math.exp, self.measured)),
            adjusted_s=tuple(map(math.exp, self.adjusted)),
            runs=tuple(map(len, self.runs)),
            shifts=tuple(step.at(self.places) for step in found),
            levels=tuple(self._levels(starts)),
            statuses={status: statuses.count(status) for status in dict.fromkeys(statuses)},
            run_spread=_run_spread(self.runs),
        )

    def _from(self, night: int) -> int:
        """Return the index of the first of its nights from this one on."""
        return sum(place < night for place in self.places)

    def _levels(self, starts: Sequence[int]) -> list[Level]:
        ends = [*starts[1:], len(self.places)]
        return [
            Level(self.places[first], self.places[end - 1], math.exp(median(self.adjusted[first:end])))
            for first, end in zip(starts, ends, strict=False)
            if first < end
        ]

    def _exact_steps(self) -> list[ChangePoint]:
        """Return every change of a simulated time, seed by seed: the same code gives the same again."""
        found = []
        for place in range(1, len(self.places)):
            before, after = ({run.seed: run.update_s or 0.0 for run in self.runs[p]} for p in (place - 1, place))
            moves = [math.log(after[seed] / before[seed]) for seed in before if seed in after]
            if moves and abs(change := fmean(moves)) > EXACT_LEAST:
                found.append(ChangePoint(place, place, place, place, change))
        return found


def _run_spread(nights: Sequence[Sequence[CellNight]]) -> float | None:
    squares, degrees = 0.0, 0
    for runs in nights:
        logs = [math.log(run.update_s or 0.0) for run in runs]
        squares += sum((log - fmean(logs)) ** 2 for log in logs)
        degrees += len(logs) - 1
    return math.sqrt(squares / degrees) if degrees else None


def _together(points: Sequence[_Series], anew: Sequence[int], score: float) -> list[ChangePoint]:
    """Return the change points of all measured points together: of the middle one, which no single point moves."""
    measured = [point for point in points if not point.simulated and point.places]
    if len(measured) < FEWEST_TOGETHER:
        return []
    away: dict[int, list[float]] = {}
    for point in measured:
        usual = median(point.adjusted)
        for place, log in zip(point.places, point.adjusted, strict=True):
            away.setdefault(place, []).append(log - usual)
    places = sorted(place for place, logs in away.items() if len(logs) >= FEWEST_TOGETHER)
    starts = [sum(place < night for place in places) for night in anew]
    return [step.at(places) for step in change_points([median(away[place]) for place in places], score, starts)]


# -- what changed ------------------------------------------------------------------------------------------------------


def _joined(points: Sequence[PointTrend], together: Sequence[ChangePoint], nights: Sequence[Night]) -> list[Shift]:
    """Return the changes of points, those that are part of one of all points in it."""
    found = []
    left = [(point, step) for point in points for step in point.shifts]
    for step in together:
        part = [
            (point, own)
            for point, own in left
            if not point.simulated and abs(own.place - step.place) <= ONE_CHANGE and own.change * step.change > 0
        ]
        left = [item for item in left if item not in part]
        keys = [point.key for point in points if not point.simulated]
        found.append(_shift(step, keys, True, range(len(nights)), nights))
    for point, step in left:
        found.append(_shift(step, [point.key], False, point.nights, nights))
    return found


def _shift(
    step: ChangePoint, keys: Sequence[str], together: bool, places: Sequence[int], nights: Sequence[Night]
) -> Shift:
    earliest, after, latest = (nights[place] for place in (step.earliest, step.place, step.latest))
    first = max(place for place in places if place < step.earliest)
    changed = _changed(nights[first], latest, keys)
    simulated = all(row.engine == "virtual" for row in after.rows if row.point in keys)
    surrounds = [what for what, *_ in changed if not what.startswith(CODE_FACT)]
    told = (simulated or after.reference is not None) and not same_code(nights[first], latest)
    known = ChangedBy.CODE if told else ChangedBy.UNKNOWN
    return Shift(
        by=ChangedBy.ENVIRONMENT if surrounds else known,
        points=tuple(keys),
        together=together,
        factor=math.exp(step.change),
        usual=nights[first],
        before=nights[max(place for place in places if place < step.place)],
        after=after,
        seen=nights[step.seen],
        earliest=earliest,
        latest=latest,
        changed=changed,
        reference=None if simulated else _reference_moved(step.place, nights),
    )


def same_code(before: Night, after: Night) -> bool:
    """Say whether two nights are known to have run the same commit."""
    return bool(before.commit) and before.commit == after.commit and not (before.dirty or after.dirty)


def _machine_shift(step: ChangePoint, nights: Sequence[Night]) -> Shift:
    before, after = nights[step.place - 1], nights[step.place]
    return Shift(
        by=ChangedBy.MACHINE,
        points=(),
        together=False,
        factor=math.exp(step.change),
        usual=before,
        before=before,
        after=after,
        seen=nights[step.seen],
        earliest=after,
        latest=after,
        changed=_changed(before, after, _keys(nights)),
        reference=math.exp(step.change),
    )


def _changed(before: Night, after: Night, keys: Sequence[str]) -> tuple[Changed, ...]:
    sides = ([facts for row, facts in zip(n.rows, n.facts, strict=True) if row.point in keys] for n in (before, after))
    return changed_facts(*sides)


def _reference_moved(place: int, nights: Sequence[Night]) -> float | None:
    """Return the reference of the first nights from a place on over that of the last ones before it."""
    kind = nights[place].reference_kind
    sides = (nights[max(0, place - 3) : place], nights[place : place + 3])
    logs = [[n.reference for n in side if n.reference is not None and n.reference_kind == kind] for side in sides]
    return math.exp(median(logs[1]) - median(logs[0])) if all(logs) else None
