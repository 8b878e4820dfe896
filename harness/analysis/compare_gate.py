"""Measured times of two nights beside the reference that ran with each: which are slower than the machine."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.analysis import gate
from harness.analysis.compare_times import update_times
from harness.analysis.compared import ChangeKind, Gated, MeasuredCell, PointPair, Together, UsualFrom
from harness.analysis.nights import middle_log

FEWEST_LOOPS = 3
"""Runs of the reference below which a night has none: of fewer nobody knows how they scatter; chosen."""

FEWEST_FRESH = 3
"""Fresh runs that have to end before they decide; chosen: of five, two may crash."""


@dataclass(frozen=True)
class Beside:
    """What ran beside the cells of one scenario, and before them.

    Attributes:
        base, new: logarithms of the seconds of the reference's runs in either night; empty where none ran.
        nights: of earlier nights, by point and night: logarithm of its time less that of the reference.
        fresh: logarithms of the times of fresh runs, by point; fresh_reference: of the reference's runs beside them.
    """

    base: Sequence[float] = ()
    new: Sequence[float] = ()
    nights: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    fresh: Mapping[str, Sequence[float]] = field(default_factory=dict)
    fresh_reference: Sequence[float] = ()


@dataclass(frozen=True)
class Gates:
    """What the reference says of a comparison.

    Attributes:
        points: by point; together: all points as one.
        suspects: points to run again, the worst first.
    """

    points: Mapping[str, Gated] = field(default_factory=dict)
    together: tuple[Together, ...] = ()
    suspects: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Group:
    """Points of a scenario that are judged by the same."""

    scenario: str
    basis: UsualFrom
    pairs: Sequence[PointPair]
    beside: Beside


def gates(pairs: Sequence[PointPair], besides: Mapping[str, Beside], least: float) -> Gates:
    """Judge all measured times that have a reference beside them.

    Args:
        besides: by scenario, as rows name it.
        least: smallest share that a time must grow by.
    """
    groups = _groups([pair for pair in pairs if pair.real and update_times(pair.new)], besides)
    family = sum(len(group.pairs) for group in groups)
    found = [_judge(group, math.log1p(least), family, len(groups)) for group in groups]
    points = {point: gated for judged, _ in found for point, (gated, _) in judged.items()}
    ranked = sorted(((score, p) for judged, _ in found for p, (g, score) in judged.items() if g.suspect), reverse=True)
    return Gates(
        points=points,
        together=tuple(together for _, together in found if together.points > 1),
        suspects=tuple(point for _, point in ranked[: gate.MOST_SUSPECTS]),
    )


def _groups(pairs: Sequence[PointPair], besides: Mapping[str, Beside]) -> list[_Group]:
    members: dict[tuple[str, UsualFrom], list[PointPair]] = {}
    for pair in pairs:
        scenario = str(pair.row.get("scenario") or "")
        beside = besides.get(scenario, Beside())
        basis = _basis(pair, beside)
        if basis is not None:
            members.setdefault((scenario, basis), []).append(pair)
    return [_Group(*key, found, besides[key[0]]) for key, found in members.items()]


def _basis(pair: PointPair, beside: Beside) -> UsualFrom | None:
    if len(beside.new) < FEWEST_LOOPS:
        return None
    if len(beside.nights.get(pair.point, ())) >= gate.FEWEST_NIGHTS:
        return UsualFrom.HISTORY
    usable = len(beside.base) >= FEWEST_LOOPS and update_times(pair.base)
    return UsualFrom.ONE_NIGHT if usable else None


def _judge(group: _Group, least: float, family: int, groups: int) -> tuple[dict[str, tuple[Gated, float]], Together]:
    """Return each point's outcome with its score, and that of all together."""
    beside, pairs = group.beside, group.pairs
    logs = [_logs(pair.new) for pair in pairs]
    fresh_logs = [beside.fresh.get(pair.point, ()) for pair in pairs]
    night = np.array([middle_of(own) for own in logs]) - middle_of(beside.new)
    runs = _runs(logs, beside.new)
    before = [_logs(pair.base) for pair in pairs]
    loops = [beside.base, beside.new, beside.fresh_reference]
    scatter = gate.Scatter.of([*before, *logs, *fresh_logs], loops)
    if group.basis is UsualFrom.HISTORY:
        usual = gate.usual_of_history(_table([beside.nights[pair.point] for pair in pairs]))
    else:
        base = np.array([middle_of(own) for own in before]) - middle_of(beside.base)
        usual = gate.usual_of_one_night(base, _runs(before, beside.base), runs, scatter)
    points, together = gate.judge_night(usual, night, least, family + groups)
    decided = [k for k in points.suspects if len(fresh_logs[k]) >= FEWEST_FRESH and beside.fresh_reference]
    by = [points] * len(pairs)
    if decided:
        fresh = np.array([middle_of(own) - middle_of(beside.fresh_reference) if own else np.nan for own in fresh_logs])
        anew = _runs(fresh_logs, beside.fresh_reference)
        decision, together = gate.decide(usual, night, runs, fresh, anew, scatter, least, family)
        by = [decision if k in decided else points for k in range(len(pairs))]
    sure = [group.basis is UsualFrom.HISTORY or min(len(pair.base), len(pair.new)) > 1 for pair in pairs]
    found = {
        pair.point: (
            replace(
                _gated(group, by[k], k, sure=k in decided or (sure[k] and not decided)),
                fresh=len(fresh_logs[k]) if k in decided else 0,
                suspect=k in points.suspects and k not in decided,
            ),
            float(points.score[k]),
        )
        for k, pair in enumerate(pairs)
    }
    return found, Together(group.scenario, len(pairs), _gated(group, together, 0, sure=all(sure)))


def _gated(group: _Group, judged: gate.NightJudged, place: int, *, sure: bool) -> Gated:
    excess, limit = float(judged.excess[place]), float(judged.limit[place])
    kind = None
    if excess > limit:
        kind = ChangeKind.REGRESSION if sure else ChangeKind.SUSPECT
    elif excess < -limit:
        kind = ChangeKind.IMPROVEMENT
    known = [len(group.beside.nights[pair.point]) for pair in group.pairs if group.basis is UsualFrom.HISTORY]
    return Gated(
        basis=group.basis,
        nights=min(max(known, default=1), gate.NIGHTS),
        relative=math.exp(excess),
        limit=math.exp(limit),
        detectable=math.exp(float(judged.detectable[place])),
        kind=kind,
    )


def middle_of(logs: Sequence[float]) -> float:
    """Return the middle of logarithms, as a night's runs are read."""
    return middle_log(map(math.exp, logs))


def _logs(side: Sequence[MeasuredCell]) -> list[float]:
    return [math.log(time) for time in update_times(side)]


def _runs(logs: Sequence[Sequence[float]], loops: Sequence[float]) -> gate.Runs:
    return gate.Runs(np.array([float(max(1, len(own))) for own in logs]), len(loops))


def _table(series: Sequence[Mapping[str, float]]) -> gate.Logs:
    """Return nights as rows and points as columns, nan where a point has none."""
    names = sorted({night for own in series for night in own})
    return np.array([[own.get(night, np.nan) for own in series] for night in names])
