"""How sure a point's figure is, and whether two points can be separated. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.analysis.exact import MIN_SEEDS, share_interval
from harness.analysis.point_names import differs, in_full, real, sentences
from harness.analysis.points import Point, number
from harness.analysis.ranking import Standing, duel, seeds_to_tell
from harness.core.text import NO_TEXT, Text
from harness.core.uncertainty import STATED
from harness.core.words import counted, duration, rate, share_in_percent


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
    first = next((standing for standing in fewer if _inseparable(fastest, standing)), fastest)
    return [first, *(standing for standing in best if standing.point is not first.point)]


def _inseparable(fastest: Standing, other: Standing) -> bool:
    """Say whether runs that could separate the two do not."""
    if _deterministic(fastest) or not other.sure:
        return False
    found = duel(fastest, other)
    return found.interval is not None and not found.resolved


def is_open(leader: Standing, other: Standing) -> bool:
    """Say whether the records leave open which of the two is faster."""
    if not other.reached:
        return False
    if _deterministic(leader):
        return _tie(leader, other)
    found = duel(leader, other)
    return not leader.sure if found.interval is None else not found.resolved


def open_in_words(leader: Standing, other: Standing) -> Text:
    """Say that the records do not separate the two, and what would; empty where they do.

    Args:
        leader: the recommended one; the other may look faster.
    """
    if not is_open(leader, other):
        return NO_TEXT
    name = in_full(other.point, leader.point)
    if _deterministic(leader):
        return Text(f"{name} is as fast within the prediction error.")
    looks = "faster" if other.rank < leader.rank else "slower"
    found = duel(leader, other)
    seeds = counted(min(leader.seeds, other.seeds), "seed")
    apart = f"{name} looks {looks} ({_value(other)}), but {seeds} cannot separate the two."
    return sentences(apart, _seeds_needed(found.probability))


def _value(standing: Standing) -> str:
    return duration(standing.seconds) if standing.point.by_target else rate(1 / standing.seconds)


def is_level(leader: Standing, other: Standing) -> bool:
    """Say whether two simulated speeds differ by less than the predictions are good to."""
    return _deterministic(leader) and bool(other.reached) and _tie(leader, other)


def _tie(leader: Standing, other: Standing) -> bool:
    stated = max((_stated(leader) or 0.0, _stated(other) or 0.0))
    return other.seconds <= leader.seconds * (1 + stated)


def _seeds_needed(probability: float) -> str:
    seeds = seeds_to_tell(probability)
    return f"Set seeds = {seeds} to separate them." if seeds else "More seeds would hardly separate them."


def lead_in_words(leader: Standing, other: Standing) -> Text:
    """Say how probably the leader is the faster one, and whether that is resolved; empty where that goes unsaid."""
    if _deterministic(leader):
        if not _tie(leader, other):
            return NO_TEXT
        slower = other.seconds / leader.seconds - 1 if leader.seconds > 0 else 0.0
        behind = f"It is {share_in_percent(slower)} slower, which is" if slower > 0 else "The difference is"
        return Text(f"{behind} within the prediction error: treat the two as equal.")
    found = duel(leader, other)
    if min(len(leader.runs), len(other.runs)) < 2:
        return NO_TEXT
    who = differs(leader.point, other.point)
    if found.probability < 0.5:
        found, who = duel(other, leader), "It"
    faster = f"{who} is faster with probability {found.probability:.2f}"
    if found.interval is None:
        few = counted(min(leader.seeds, other.seeds), "seed")
        return sentences(f"{faster}, but {few} are too few to be sure.", _seeds_needed(found.probability))
    ends = f"{found.interval.low:.2f} to {found.interval.high:.2f}"
    shown = f"{faster} ({share_in_percent(found.interval.coverage)} interval {ends})"
    if found.resolved:
        return Text(f"{shown}.")
    seeds = counted(min(leader.seeds, other.seeds), "seed")
    return sentences(f"{shown}: {seeds} cannot separate the two.", _seeds_needed(found.probability))


def achieves(standing: Standing, target: str = "the target") -> str:
    """Return what a point does: its throughput, or when it reaches the target.

    Args:
        target: the target in words.
    """
    if not standing.point.by_target:
        return f"trains {rate(1 / standing.seconds)}"
    if standing.sure:
        return f"reaches {target} in {duration(standing.seconds)}"
    return f"should reach {target} in {duration(standing.seconds)} if failed runs are repeated"


def evidence(standing: Standing) -> str:
    """Return what that rests on: seeds and interval, the seeds that failed, or the stated error of a simulation."""
    n, point = standing.seeds, standing.point
    if not standing.sure:
        got = f"{standing.reached} of {counted(n, 'seed')}"
        if not point.by_target:
            return f"median of the {got} that finished"
        chance = share_interval(standing.reached, n)
        ends = f"{100 * chance.low:.0f} to {100 * chance.high:.0f} %"
        return f"{got} reached it; {share_in_percent(chance.coverage)} interval for the success rate {ends}"
    if _deterministic(standing):
        stated = _stated(standing)
        return "simulated" + (f", ±{share_in_percent(stated)}" if stated else "")
    if standing.interval is None:
        few = f"median of {counted(n, 'seed')}" if n > 1 else "1 seed only"
        return f"{few}; set seeds = {MIN_SEEDS} to get a confidence interval"
    low, high, coverage = standing.interval
    shown = (duration(low), duration(high)) if point.by_target else (rate(1 / high), rate(1 / low))
    return f"median of {counted(n, 'seed')}, {share_in_percent(coverage)} interval {shown[0]} to {shown[1]}"
