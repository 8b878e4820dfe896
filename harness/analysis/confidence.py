"""How sure a point's figure is, and whether two points are told apart. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis.exact import MIN_SEEDS, share_interval
from harness.analysis.point_names import differs, real
from harness.analysis.points import Point, number
from harness.analysis.ranking import Standing, duel, seeds_to_tell
from harness.core.words import counted, duration, rate, share_in_percent

STATED = 2.0
"""Standard deviations that a prediction is said to be good to: 95 % of a normal."""


def _deterministic(standing: Standing) -> bool:
    """Say whether seeds say nothing: simulated speed is what the costs add up to."""
    return not real(standing.point) and not standing.point.by_target


def _stated(standing: Standing) -> float | None:
    error = standing.point.median_of(lambda row: number(row, "stated_error"))
    return None if error is None else STATED * error


def recommended_first(best: Sequence[Standing], found: Iterable[Point]) -> list[Standing]:
    """Return standings with the one to recommend first: of those level with the fastest the one on the fewest devices.

    A lead that chance explains as well is no reason to pay for more devices. Below five seeds nothing is level: there
    the fastest stays first, and what would tell is asked for.

    Args:
        best: each strategy's best point, the fastest first; at least one.
        found: all points: a strategy may be level with itself on fewer devices.
    """
    fastest = best[0]
    fewer = sorted((Standing(p) for p in found if p.gpus < fastest.point.gpus), key=lambda s: (s.point.gpus, s.rank))
    first = next((standing for standing in fewer if _level(fastest, standing)), fastest)
    return [first, *(standing for standing in best if standing.point is not first.point)]


def _level(fastest: Standing, other: Standing) -> bool:
    """Say whether runs that could tell the two apart do not."""
    if _deterministic(fastest) or not other.sure:
        return False
    found = duel(fastest, other)
    return found.interval is not None and not found.resolved


def open_against(leader: Standing, other: Standing) -> str:
    """Return that the records do not tell the two apart and what would, as the end of a sentence; empty if they do."""
    if not other.reached:
        return ""
    name = differs(other.point, leader.point)
    if _deterministic(leader):
        return f", level with {name}" if _tie(leader, other) else ""
    found = duel(leader, other)
    if found.interval is None and not leader.sure:
        return f", too few seeds to tell it from {name}{_would_tell(found.probability)}"
    if found.interval is None or found.resolved:
        return ""
    return f", not told apart from {name}{_would_tell(found.probability)}"


def level(leader: Standing, other: Standing) -> bool:
    """Say whether two simulated speeds differ by less than the predictions are good to."""
    return _deterministic(leader) and bool(other.reached) and _tie(leader, other)


def _tie(leader: Standing, other: Standing) -> bool:
    stated = max((_stated(leader) or 0.0, _stated(other) or 0.0))
    return other.seconds <= leader.seconds * (1 + stated)


def _would_tell(probability: float) -> str:
    seeds = seeds_to_tell(probability)
    return f", seeds = {seeds} would tell" if seeds else ", more seeds would hardly tell"


def told_apart(leader: Standing, other: Standing) -> str:
    """Return how probably the leader is the faster one, and whether that is resolved, as the end of a sentence."""
    if _deterministic(leader):
        apart = other.seconds / leader.seconds - 1 if leader.seconds > 0 else 0.0
        near = f"; {share_in_percent(apart)} behind is less than the predictions are good to: level"
        return near if _tie(leader, other) else ""
    found = duel(leader, other)
    if min(len(leader.runs), len(other.runs)) < 2:
        return ""
    beaten = f"; {differs(leader.point, other.point)} beats it with probability"
    if found.probability < 0.5:
        found = duel(other, leader)
        beaten = f"; it beats {differs(leader.point, other.point)} with probability"
    beaten = f"{beaten} {found.probability:.2f}"
    if found.interval is None:
        return f"{beaten}: too few seeds to tell{_would_tell(found.probability)}"
    shown = f"{beaten} ({found.interval.low:.2f} to {found.interval.high:.2f})"
    return shown if found.resolved else f"{shown}: not told apart{_would_tell(found.probability)}"


def achieves(standing: Standing) -> str:
    """Return what a point does: its throughput, or when it reaches the target."""
    if not standing.point.by_target:
        return f"trains {rate(1 / standing.seconds)}"
    if standing.sure:
        return f"reaches the target in {duration(standing.seconds)}"
    return f"is expected to reach the target in {duration(standing.seconds)}, failed runs repeated"


def evidence(standing: Standing) -> str:
    """Return what that rests on: seeds and interval, the seeds that failed, or the stated error of a simulation."""
    n, point = standing.seeds, standing.point
    if not standing.sure:
        got = f"{standing.reached} of n = {n} seeds"
        if not point.by_target:
            return f"median of the {got} that finished"
        chance = share_interval(standing.reached, n)
        return f"{got} do; of all {100 * chance.low:.0f} to {100 * chance.high:.0f} % would"
    if _deterministic(standing):
        stated = _stated(standing)
        return "simulated" + (f", good to ±{share_in_percent(stated)}" if stated else "")
    if standing.interval is None:
        few = "median of " if n > 1 else ""
        return f"{few}n = {counted(n, 'seed')}: too few for an interval, seeds = {MIN_SEEDS} would do"
    low, high, coverage = standing.interval
    shown = (duration(low), duration(high)) if point.by_target else (rate(1 / high), rate(1 / low))
    return f"median of n = {n} seeds, {100 * coverage:.4g} % interval {shown[0]} to {shown[1]}"
