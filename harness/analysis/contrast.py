"""Whether two points can be told apart: by the time of a sample, by times to the target, or by who got there.

Imports the standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from statistics import fmean, stdev

from harness.analysis.exact import Interval
from harness.analysis.point_names import real
from harness.analysis.points import Point, number
from harness.analysis.ranking import ENOUGH, Ranking, Standing, layout_key, setting_key
from harness.analysis.settle import SAME_WITHIN, Settled, same_within, settles
from harness.analysis.two_way import Difference, TwoWay
from harness.core.uncertainty import STATED

LEAST_PAIRS = 3
"""Seeds from which on times to the target are compared; chosen: below it an interval is wider than any difference."""


class Verdict(StrEnum):
    """What the records say of two points."""

    FASTER = "faster"
    """The first certainly is."""
    SLOWER = "slower"
    SAME = "same"
    """Within 5 %, whichever is faster."""
    PREDICTION = "prediction"
    """They differ by less than the predictions are good to."""
    OPEN = "open"
    """More runs would tell."""
    UNKNOWN = "unknown"
    """Too few runs to say how sure it is."""
    NEVER = "never"
    """One of them got there too seldom to have a time."""


class Basis(StrEnum):
    """What two points are compared by."""

    SAMPLE = "the time of a sample"
    """Both train the same model, or nobody asks what is learnt."""
    TARGET = "the time to the target, seed by seed"
    ORDER = "the order in which seeds reach the target"
    """Some never do."""


@dataclass(frozen=True)
class Contrast:
    """The second point beside the first.

    Attributes:
        difference: log of the seconds of the second over those of the first; None where that cannot be told.
        told: whether the first, or else the second, is certainly the faster one, whichever of its settings the other
            might have been given.
        rounds: blocks that one seed brings.
        stated: log of the factor that the predictions are good to; 0 of measured ones.
    """

    basis: Basis
    difference: Difference | None
    verdict: Verdict
    bound: float | None = None
    rounds: int = 1
    stated: float = 0.0

    @property
    def ratio(self) -> float:
        """Times as long as the first takes the second."""
        return math.exp(self.difference.log) if self.difference else math.nan

    @property
    def interval(self) -> Interval | None:
        """Of the ratio, at 95 %; None where there is none."""
        if self.difference is None or self.basis is Basis.ORDER:
            return None
        half = self.difference.half_width(0.975) + self.stated
        return Interval(math.exp(self.difference.log - half), math.exp(self.difference.log + half))

    @cached_property
    def within(self) -> float | None:
        """What the two are certainly the same within; None for nothing that is worth saying."""
        if self.difference is None or self.basis is Basis.ORDER or self.verdict is Verdict.UNKNOWN:
            return None
        found = self.difference
        wider = Difference(abs(found.log) + self.stated, found.error, found.degrees, found.blocks)
        return same_within(wider)

    @cached_property
    def settled_by(self) -> Settled | None:
        """Seeds in all that would probably settle an open one; None where no number of them would."""
        if self.verdict is not Verdict.OPEN or self.difference is None or self.basis is Basis.ORDER or self.stated:
            return None
        found = settles(self.difference, self.within or math.inf)
        return Settled(-(-found.blocks // self.rounds), found.within) if found else None

    @property
    def is_open(self) -> bool:
        """Whether the records leave open which of the two is faster."""
        return self.verdict in (Verdict.OPEN, Verdict.PREDICTION)


def contrast(ranking: Ranking, first: Standing, second: Standing) -> Contrast:
    """Compare two standings of a ranking, the best setting of each strategy having been picked from several.

    The faster one is called so only if it beats every setting of the other's strategy, at the level of the best of as
    many as it had more to choose from: otherwise whoever is given more settings wins.

    Source: Z. Sidak 1967 for the level; S. Gutmann and Z. Maymin 1987, Is the selected population the best, for why
    other strategies need none.
    """
    basis = _basis(ranking, first, second)
    if not (first.reached and second.reached) or (
        basis is Basis.ORDER and min(_share(first), _share(second)) <= ENOUGH
    ):
        return Contrast(basis, None, Verdict.NEVER)
    differ = _differ(ranking, basis, first, second)
    found = differ(first, second)
    stated = 0.0 if basis is Basis.ORDER else _stated(first, second)
    if found is None:
        return Contrast(basis, None, Verdict.UNKNOWN, stated=stated)
    rounds = _rounds(first.point, ranking) if basis is Basis.SAMPLE else 1
    plain = Contrast(basis, found, Verdict.OPEN, rounds=rounds, stated=stated)
    if plain.within == SAME_WITHIN[0]:
        return replace(plain, verdict=Verdict.SAME)
    ahead, behind = (first, second) if found.log >= 0 else (second, first)
    bound = _bound(ranking, basis, differ, ahead, behind)
    if bound is not None and bound > stated:
        verdict = Verdict.FASTER if ahead is first else Verdict.SLOWER
        return replace(plain, verdict=verdict, bound=math.exp(bound - stated))
    return replace(plain, verdict=Verdict.PREDICTION if 0 < abs(found.log) <= stated else Verdict.OPEN)


def _share(standing: Standing) -> float:
    return standing.reached / standing.seeds


def _rounds(point: Point, ranking: Ranking) -> int:
    """Return how many runs of a layout one seed brings: one of each learning rate."""
    blocks = ranking.paces.values.get(layout_key(point.row), {})
    return max(1, len(blocks) // max(1, len({row.get("seed") for row in point.rows})))


def _basis(ranking: Ranking, first: Standing, second: Standing) -> Basis:
    if not first.point.by_target or (ranking.is_same(first.point) and ranking.is_same(second.point)):
        return Basis.SAMPLE
    return Basis.TARGET if first.sure and second.sure else Basis.ORDER


def _stated(first: Standing, second: Standing) -> float:
    """Return the log of the factor that predictions of the two are good to; 0 of measured ones."""
    errors = [prediction_error(standing.point) or 0.0 for standing in (first, second)]
    return math.log1p(max(errors))


def prediction_error(point: Point) -> float | None:
    """Return what a prediction of a point is good to, at 95 %; None of a measured one, or where it does not say."""
    error = None if real(point) else point.median_of(lambda row: number(row, "stated_error"))
    return None if error is None else STATED * error


# -- differences -------------------------------------------------------------------------------------------------------


_Differ = Callable[[Standing, Standing], Difference | None]
"""From two standings to the log of the seconds of the second over those of the first."""


def _differ(ranking: Ranking, basis: Basis, first: Standing, second: Standing) -> _Differ:
    """Return how two strategies' settings are compared, all of them alike."""
    if basis is Basis.SAMPLE:
        return lambda one, other: _by_sample(ranking, one.point, other.point)
    if basis is Basis.ORDER:
        return _by_order
    if _is_pair_of_strangers(ranking, first, second):
        return _unpaired
    table = _table(ranking, first, second)
    return lambda one, other: _of_enough(table.difference(_key(one), _key(other)))


def _of_enough(found: Difference | None) -> Difference | None:
    return found if found and found.blocks >= LEAST_PAIRS else None


def _by_sample(ranking: Ranking, first: Point, second: Point) -> Difference | None:
    """Return the difference in the time of a sample, and in samples to the target where the settings differ."""
    layouts = layout_key(first.row), layout_key(second.row)
    found = ranking.paces.difference(*layouts) if layouts[0] != layouts[1] else Difference(0.0, 0.0, math.inf, 1)
    if found is None and not real(first):
        logs = [ranking.paces.means[layout] for layout in layouts]
        found = Difference(logs[1] - logs[0], 0.0, math.inf, 1)  # what is computed needs no second run
    settings = setting_key(first.row), setting_key(second.row)
    if found is None or not first.by_target or settings[0] == settings[1]:
        return found
    more = ranking.shared.difference(*settings)
    return found.plus(more) if more else None


def _by_order(first: Standing, second: Standing) -> Difference | None:
    """Return the mean difference of the ranks of both sides' runs, seed by seed: unfinished last, diverged behind them.

    Source: M. G. Akritas 1990, The rank transform method in some two-factor designs.
    """
    one, other = first.by_seed, second.by_seed
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < LEAST_PAIRS:
        return None
    runs = [*(one[seed] for seed in seeds), *(other[seed] for seed in seeds)]
    ranks = _mid_ranks([(run.hopeless, run.latest) for run in runs])
    differences = [ranks[len(seeds) + place] - ranks[place] for place in range(len(seeds))]
    return _of_pairs(differences)


def _mid_ranks(values: Sequence[tuple[bool, float]]) -> list[float]:
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def _of_pairs(differences: Sequence[float]) -> Difference:
    count = len(differences)
    error = stdev(differences) / math.sqrt(count)
    return Difference(fmean(differences), error, count - 1 if error else math.inf, count)


def _is_pair_of_strangers(ranking: Ranking, first: Standing, second: Standing) -> bool:
    """Say whether exactly two points are compared of which one is asynchronous: seeds have too little in common there.

    Known before any run, so that the data do not choose the test.
    """
    alone = all(len(ranking.settings(standing)) == 1 for standing in (first, second))
    kinds = {standing.point.row.get("synchrony") == "asynchronous" for standing in (first, second)}
    return alone and len(kinds) == 2


def _unpaired(first: Standing, second: Standing) -> Difference | None:
    """Return the difference of means. Source: B. L. Welch 1947, The generalization of Student's problem."""
    logs = [[math.log(run.spent) for run in standing.runs if run.spent > 0] for standing in (first, second)]
    if min(map(len, logs)) < LEAST_PAIRS:
        return None
    parts = [Difference(fmean(values), stdev(values) / math.sqrt(len(values)), len(values) - 1, len(values))
             for values in logs]  # fmt: skip
    before = Difference(-parts[0].log, parts[0].error, parts[0].degrees, parts[0].blocks)
    return parts[1].plus(before)


def _table(ranking: Ranking, first: Standing, second: Standing) -> TwoWay:
    """Return times to the target of all settings of both strategies by seed; each strategy spreads in its own way."""
    standings = {_key(s): s for one in (first, second) for s in [one, *ranking.settings(one)]}
    values: dict[Hashable, dict[Hashable, float]] = {
        key: {seed: math.log(run.spent) for seed, run in s.by_seed.items() if run.spent > 0}
        for key, s in standings.items()
    }
    return TwoWay(values, {key: s.point.strategy for key, s in standings.items()})


def _key(standing: Standing) -> Hashable:
    return id(standing.point)


# -- the best of several -----------------------------------------------------------------------------------------------


def _bound(ranking: Ranking, basis: Basis, differ: _Differ, ahead: Standing, behind: Standing) -> float | None:
    """Return by how much at least one beats every setting of the other; None where it certainly does not.

    Ranks have no size: there it is next to nothing.
    """
    mine, theirs = _candidates(ranking, basis, ahead, behind), _candidates(ranking, basis, behind, ahead)
    choices = max(1, _even(differ, mine) - _even(differ, theirs) + 1)
    found = [differ(ahead, rival) for rival in theirs]
    if any(difference is None or not difference.exceeds(0.0, choices) for difference in found):
        return None
    if basis is Basis.ORDER:
        return math.ulp(1.0)
    return min(d.log - d.half_width(0.975 ** (1 / choices)) for d in found if d)


def _candidates(ranking: Ranking, basis: Basis, standing: Standing, other: Standing) -> list[Standing]:
    """Return the settings that a standing was picked from, itself first; one a layout where only that decides.

    Of one strategy on several numbers of devices those on as many; of two of its settings each stands for itself.
    """
    same = standing.point.strategy == other.point.strategy
    if basis is Basis.ORDER or (same and standing.point.gpus == other.point.gpus):
        return [standing]
    found = [standing, *(s for s in ranking.settings(standing) if s.point is not standing.point)]
    if same:
        found = [s for s in found if s.point.gpus == standing.point.gpus]
    if basis is Basis.TARGET:
        return found
    best: dict[Hashable, Standing] = {}
    for candidate in found:
        best.setdefault(layout_key(candidate.point.row), candidate)
    return list(best.values())


def _even(differ: _Differ, candidates: Sequence[Standing]) -> int:
    """Return how many of a strategy's settings are about as good as its best: those it was picked from by chance."""
    others = [differ(candidates[0], other) for other in candidates[1:]]
    return 1 + sum(found is not None and found.log < 2 * found.error for found in others)
