"""How sure a point's figure is, and whether two points can be separated. Imports the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, geometric_mean, variance

from harness.analysis.contrast import Basis, Contrast, Verdict, contrast, prediction_error
from harness.analysis.exact import MIN_SEEDS, Interval, share_interval
from harness.analysis.point_names import differs, in_full, real, sentences
from harness.analysis.ranking import READINGS, Ranking, Standing, layout_key, setting_key
from harness.analysis.settle import MOST_ASKED
from harness.analysis.student import t_quantile
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, duration, rate, share_in_percent, three

LEAST_RUNS = 3
"""Seeds from which on a time to the target gets an interval: with three of them it covers what it says (simulated)."""

LEAST_DEGREES = 3
"""Degrees of freedom from which on the time of a sample gets one."""


def recommended_first(ranking: Ranking) -> list[Standing]:
    """Return each strategy's best standing with the one to recommend first: the fewest devices that nobody beats.

    A lead that chance explains as well, or one within 5 %, is no reason to pay for more devices. Where runs are too few
    to tell how sure anything is the fastest stays first. What other seeds had put first stays so, until these certainly
    say otherwise: else they would choose too.
    """
    best = ranking.best
    by_devices: dict[int, Standing] = {}
    for standing in ranking.standings:
        by_devices.setdefault(standing.point.gpus, standing)
    fastest = best[0]
    fewer = [by_devices[gpus] for gpus in sorted(by_devices) if gpus < fastest.point.gpus]
    first = next((s for s in fewer if s.sure and _unbeaten(ranking, s, fastest)), fastest)
    first = _picked_before(ranking, first) or first
    return [first, *(standing for standing in best if standing.point is not first.point)]


def _picked_before(ranking: Ranking, first: Standing) -> Standing | None:
    """Return what other seeds had put first, where nobody on as many devices certainly beats it."""
    found = next((s for s in ranking.standings if s.point is ranking.picked and s.reached), None)
    if found is None or first.point.gpus < found.point.gpus:
        return None
    return None if contrast(ranking, first, found).verdict in (Verdict.FASTER, Verdict.NEVER) else found


def _unbeaten(ranking: Ranking, few: Standing, fastest: Standing) -> bool:
    """Say whether runs that could show more devices to be faster do not."""
    if contrast(ranking, few, fastest).verdict not in (Verdict.SAME, Verdict.OPEN):
        return False
    more = [s for s in ranking.best if s.point.gpus > few.point.gpus and s.point is not fastest.point]
    return all(contrast(ranking, few, other).verdict is not Verdict.SLOWER for other in more)


# -- two points --------------------------------------------------------------------------------------------------------


def open_in_words(found: Contrast, leader: Standing, other: Standing, confirms: bool = False) -> Text:
    """Say of the runner-up what the headline has to: that it is the same, or not told apart, and what would settle it.

    Args:
        leader: the recommended one; the other may look faster.
        confirms: whether their seeds had no part in choosing them.
    """
    name = in_full(other.point, leader.point)
    match found.verdict:
        case Verdict.PREDICTION:
            return Text(f"{name} is as fast within the prediction error.")
        case Verdict.SAME:
            return Text(f"{name} is as fast: the two are the same within 5 %.")
        case Verdict.OPEN:
            looks = "faster" if other.rank < leader.rank else "slower"
            return sentences(
                f"{name} looks {looks} ({_value(other)}), but {_cannot(leader, other)}.", _next(found, confirms)
            )
    return NO_TEXT


def _cannot(leader: Standing, other: Standing) -> str:
    return f"{counted(min(leader.seeds, other.seeds), 'seed')} cannot separate the two"


def _value(standing: Standing) -> str:
    return duration(standing.seconds) if standing.point.by_target else rate(1 / standing.seconds)


def _next(found: Contrast, confirms: bool) -> str:
    """Return what would settle an open contrast."""
    settled = found.settled_by
    if settled is not None:
        within = share_in_percent(settled.within)
        more = _more_seeds(settled.blocks, confirms)
        return f"{more}. That settles it in 8 of 10 sweeps: one is faster, or the two are the same within {within}."
    if found.within is not None:
        return f"They are the same within {share_in_percent(found.within)}."
    if found.basis is Basis.ORDER:
        return "Give runs a larger budget, so that every seed reaches the target."
    finer = (
        "" if found.basis is Basis.SAMPLE else " Evaluate more often: most of the spread is in when the target is seen."
    )
    return f"Up to {MOST_ASKED} seeds would hardly settle it.{finer}"


def _more_seeds(number: int, confirms: bool) -> str:
    return f"Confirm with {number} fresh seeds" if confirms else f"Set seeds = {number}"


def is_level(found: Contrast) -> bool:
    """Say whether what two differ by is not worth explaining."""
    return found.verdict in (Verdict.SAME, Verdict.PREDICTION)


def lead_in_words(found: Contrast, leader: Standing, other: Standing) -> Text:
    """Say how far the runner-up is behind, and how sure that is; empty where that goes unsaid."""
    who, ratio = differs(leader.point, other.point), found.ratio
    match found.verdict:
        case Verdict.UNKNOWN:
            few = min(len(leader.runs), len(other.runs))
            return Text(f"{counted(few, 'seed')} {'is' if few == 1 else 'are'} too few to say how sure that is.")
        case Verdict.NEVER:
            return NO_TEXT
        case Verdict.PREDICTION:
            behind = f"It is {share_in_percent(ratio - 1)} slower, which is" if ratio > 1 else "The difference is"
            return Text(f"{behind} within the prediction error: treat the two as equal.")
        case Verdict.SAME:
            return Text(f"The two are the same within 5 % ({_ends(found)}).")
    ahead = who if ratio >= 1 else "It"
    if found.basis is Basis.ORDER:
        unsure = f": {_cannot(leader, other)}" if found.verdict is Verdict.OPEN else ""
        return Text(f"Seed by seed, {who if ratio >= 1 else 'it'} reaches the target first more often{unsure}.")
    if found.verdict is Verdict.OPEN:
        times = three(max(ratio, 1 / ratio))
        sure = f"({_ends(found)}): {_cannot(leader, other)}"
        return Text(f"{ahead} is {times} times as fast{_at_what(found, leader)} {sure}.")
    bound = f"at least {three(found.bound)} times" if found.bound else ""
    return Text(f"{ahead} is {three(max(ratio, 1 / ratio))} times as fast{_at_what(found, leader)} ({bound}).")


def _at_what(found: Contrast, leader: Standing) -> str:
    return " per sample" if found.basis is Basis.SAMPLE and leader.point.by_target else ""


def _ends(found: Contrast) -> str:
    """Return the interval of a ratio; of one below 1 that of its inverse."""
    ends = found.interval or Interval(math.nan, math.nan)
    low, high = (ends.low, ends.high) if found.ratio >= 1 else (1 / ends.high, 1 / ends.low)
    return f"{share_in_percent(ends.coverage)} interval {low:.2f} to {high:.2f} times"


# -- one point ---------------------------------------------------------------------------------------------------------


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


def evidence(standing: Standing, ranking: Ranking) -> str:
    """Return what that rests on: seeds and interval, the seeds that failed, or the stated error of a simulation."""
    n, point = standing.seeds, standing.point
    if not standing.sure:
        got = f"{standing.reached} of {counted(n, 'seed')}"
        if not point.by_target:
            return f"mean of the {got} that finished"
        chance = share_interval(standing.reached, n)
        ends = f"{100 * chance.low:.0f} to {100 * chance.high:.0f} %"
        return f"{got} reached it; {share_in_percent(chance.coverage)} interval for the success rate {ends}"
    if not real(point) and not point.by_target:
        stated = prediction_error(point)
        return "simulated" + (f", ±{share_in_percent(stated)}" if stated else "")
    found = interval(standing, ranking)
    if found is None:
        few = f"mean of {counted(n, 'seed')}" if n > 1 else "1 seed only"
        more = _more_seeds(MIN_SEEDS, ranking.confirms)
        return f"{few}; {more[0].lower()}{more[1:]} to get a confidence interval"
    shown = (
        [duration(found.low), duration(found.high)] if point.by_target else [rate(1 / found.high), rate(1 / found.low)]
    )
    picked = choices(standing, ranking)
    best = f" for the best of {picked} settings" if picked > 1 else ""
    return f"mean of {counted(n, 'seed')}, {share_in_percent(found.coverage)} interval{best} {shown[0]} to {shown[1]}"


def choices(standing: Standing, ranking: Ranking) -> int:
    """Return of how many settings a strategy's best was picked by its seeds; of speed alone a rate is no setting."""
    settings = ranking.settings(standing)
    if ranking.confirms:
        return 1
    if standing.point.by_target:
        return len(settings)
    return len({layout_key(setting.point.row) for setting in settings})


def interval(standing: Standing, ranking: Ranking) -> Interval | None:
    """Return the interval of a point's geometric mean in seconds; None where runs are too few.

    It covers what it says also where the point was picked for being the best of several: what chance lent it makes it
    look too fast, so the upper end is at Sidak's level for as many, the lower one plain. A strategy's settings lend
    each other their spread.

    Source: Z. Sidak 1967, Rectangular confidence regions; F. E. Satterthwaite 1946 for the degrees of freedom; G. K.
    Smyth 2004, Linear models and empirical Bayes methods, for variances that lean on each other.
    """
    if not standing.sure or standing.seconds <= 0 or (not real(standing.point) and not standing.point.by_target):
        return None
    parts = _parts(standing, ranking)
    if parts is None:
        return None
    error = math.sqrt(sum(square for square, _ in parts))
    shares = sum(square**2 / degrees for square, degrees in parts if square > 0)
    degrees = error**4 / shares if shares else math.inf
    log, picked = math.log(standing.seconds), max(1, choices(standing, ranking))
    low, high = t_quantile(0.975, degrees) * error, t_quantile(0.975 ** (1 / picked), degrees) * error
    return Interval(math.exp(log - low), math.exp(log + high))


def mean_of(values: Sequence[float]) -> tuple[float, Interval | None]:
    """Return the geometric mean of a sample with its interval; no interval of fewer than three, or of a zero."""
    mean = geometric_mean(values)
    found = _moderated([math.log(value) for value in values], []) if min(values) > 0 else None
    if found is None:
        return mean, None
    half = t_quantile(0.975, found[1]) * math.sqrt(found[0])
    return mean, Interval(mean * math.exp(-half), mean * math.exp(half))


def _parts(standing: Standing, ranking: Ranking) -> list[tuple[float, float]] | None:
    """Return the squared errors that add up, each with its degrees of freedom; None where one is not known."""
    settings = ranking.settings(standing)
    if not standing.point.by_target:
        return _known([_of_pace(standing, ranking)])
    if standing.samples and standing.pace:
        logs = [[math.log(value) for value in (s.samples or {}).values()] for s in _one_of_each(settings)]
        mine = [math.log(value) for value in standing.samples.values()]
        return _known([_moderated(mine, logs), _of_pace(standing, ranking)])
    logs = [_logs(setting) for setting in settings]
    return _known([_moderated(_logs(standing), logs)])


def _known(parts: Sequence[tuple[float, float] | None]) -> list[tuple[float, float]] | None:
    found = [part for part in parts if part is not None]
    return found if len(found) == len(parts) else None


def _one_of_each(settings: Sequence[Standing]) -> list[Standing]:
    return list({setting_key(setting.point.row): setting for setting in settings}.values())


def _logs(standing: Standing) -> list[float]:
    return [math.log(run.spent) for run in standing.runs if run.spent > 0]


def _moderated(own: Sequence[float], settings: Sequence[Sequence[float]]) -> tuple[float, float] | None:
    """Return the squared error of a mean over seeds; its variance leans on that of the strategy's other settings."""
    n = len(own)
    if n < LEAST_RUNS:
        return None
    others = [variance(logs) for logs in settings if len(logs) > 1]
    lent = min((len(others) - 1) * (n - 1), 2 * (n - 1)) if others else 0
    pooled = ((n - 1) * variance(own) + lent * (fmean(others) if others else 0.0)) / (n - 1 + lent)
    return pooled / n, n - 1 + lent


def _of_pace(standing: Standing, ranking: Ranking) -> tuple[float, float] | None:
    """Return the squared error of the mean time of a sample: from its own runs, else from those of all layouts."""
    layout = layout_key(standing.point.row)
    runs = ranking.paces.values.get(layout, {}).values()
    if len(runs) > LEAST_DEGREES:
        return variance(runs) / len(runs), len(runs) - 1
    if not real(standing.point) and runs:
        return 0.0, math.inf
    pooled = ranking.paces.spread_of(None) if ranking.paces.degrees >= 2 * LEAST_DEGREES else None
    return None if pooled is None or not runs else (pooled / len(runs), ranking.paces.degrees)


def target_reading(ranking: Ranking) -> Text:
    """Say how it was read off when the target was reached, where that is not the plain way; empty otherwise."""
    if ranking.read == READINGS[-1]:
        return NO_TEXT
    return Text("The samples to the target come from a curve through each run's evaluations that never falls.")
