"""Seeds that did not choose: what they say of the settings that a sweep has picked.

The best of several looks better than it is, because chance helped to choose it. Fresh seeds of the leader and of the
runner-up know nothing of that chance. Imports the standard library only.

Source: D. R. Cox 1975, A note on data-splitting for the evaluation of significance levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from harness.analysis.confidence import recommended_first
from harness.analysis.point_names import differs
from harness.analysis.points import TRIED, Point, Row, point_of
from harness.analysis.ranking import ENOUGH, Ranking, Standing, layout_key, rank
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, in_short

if TYPE_CHECKING:
    from harness.core.cell import Plan

MOST_SETTINGS = 3
"""Other settings of a single strategy that the answer speaks of; chosen: the best few, the table of cells has all."""


class Ground(StrEnum):
    """Which seeds an answer rests on."""

    SWEEP = "sweep"
    """Those that chose: nobody asked for others."""
    FRESH = "fresh-seeds"
    """Fresh ones, which recommend what the sweep picked."""
    OVERTURNED = "overturned"
    """Fresh ones, which recommend the sweep's runner-up: it is certainly faster, or needs fewer devices."""
    FAILED = "failed"
    """Fresh ones, of which none got there."""
    PENDING = "pending"
    """Those that chose, until all fresh ones have run."""
    NEEDLESS = "needless"
    """Any: all seeds end alike."""
    NOTHING = "nothing"
    """None: the sweep recommends no setting that could be run again."""


@dataclass(frozen=True)
class FreshSeeds:
    """What a plan asks of fresh seeds.

    Attributes:
        number: of them for each setting that was picked; 0: none.
        needless: ids of the cells that end alike with any seed.
    """

    number: int = 0
    needless: frozenset[str] = frozenset()

    @classmethod
    def of(cls, plan: Plan) -> FreshSeeds:
        """Return what a plan asks."""
        return cls(plan.confirm, frozenset(cell.cell_id for cell in plan.cells if not cell.seed_matters))


NO_FRESH_SEEDS = FreshSeeds()


@dataclass(frozen=True)
class Confirmation:
    """What fresh seeds say of a sweep's picks.

    Attributes:
        picks: the sweep's leader and its runner-up, as far as they could be recommended.
        ranking: of the picks by their fresh seeds alone; None until all of them have run.
        seeds: fresh ones that have run.
        done, of: runs with fresh seeds that have ended, and that were asked for.
    """

    ground: Ground
    picks: tuple[Standing, ...] = ()
    ranking: Ranking | None = None
    seeds: tuple[int, ...] = ()
    done: int = 0
    of: int = 0

    @property
    def words(self) -> Text:
        """Say in a sentence what the answer rests on; empty where nobody asked."""
        seeds = f"{counted(len(self.seeds), 'fresh seed')} ({in_short(self.seeds)})"
        match self.ground:
            case Ground.FRESH:
                return Text(f"This rests on {seeds}, which had no part in the choice.")
            case Ground.OVERTURNED:
                first, second = (pick.point for pick in self.picks)
                now = f"{seeds}, which had no part in that, put {differs(second, first)} first"
                return Text(f"The sweep had put {differs(first, second)} first; {now}.")
            case Ground.FAILED:
                return Text(f"0 of {seeds} got there with what the sweep had picked.")
            case Ground.PENDING:
                ended = f"{self.done} of {counted(self.of, 'run')} with fresh seeds {_have(self.done)} ended"
                return Text(f"Not confirmed yet: {ended}. Until then this rests on the seeds that chose.")
            case Ground.NEEDLESS:
                return Text("Nothing needs confirming: simulated speed is the same with every seed.")
            case Ground.NOTHING:
                return Text("Nothing to confirm: no setting got there with half of its seeds.")
        return NO_TEXT


NOT_ASKED = Confirmation(Ground.SWEEP)


def _have(count: int) -> str:
    return "has" if count == 1 else "have"


def picks(ranking: Ranking) -> tuple[Standing, ...]:
    """Return the recommended setting and the runner-up, as far as at least half of their seeds got there."""
    best = recommended_first(ranking)
    both = (best[0], *(best[1:] or settings_of_one(best[0], ranking))[:1])
    good = tuple(pick for pick in both if pick.reached and pick.reached >= ENOUGH * pick.seeds)
    return good if good[:1] == both[:1] else ()


def settings_of_one(leader: Standing, ranking: Ranking) -> list[Standing]:
    """Return, where one strategy is all there is, its other settings on as many devices: they are what was asked."""
    alike = [leader, *(s for s in ranking.standings if s.point.gpus == leader.point.gpus and s is not leader)]
    if not leader.point.by_target:  # rates of one layout are runs of one speed
        alike = list({layout_key(s.point.row): s for s in reversed(alike)}.values())[::-1]
    return alike[1 : MOST_SETTINGS + 1]


def confirmation(ranking: Ranking, fresh: Sequence[Row], asked: FreshSeeds) -> Confirmation:
    """Return what fresh seeds say.

    Args:
        ranking: of the sweep.
        fresh: rows whose seeds had no part in it.
        asked: how many seeds there should be.
    """
    if not asked.number:
        return NOT_ASKED
    picked = picks(ranking)
    if not picked:
        return Confirmation(Ground.NOTHING)
    if all(str(row.get("cell_id")) in asked.needless for pick in picked for row in pick.point.rows):
        return Confirmation(Ground.NEEDLESS, picked)
    points = [_fresh_point(pick.point, fresh) for pick in picked]
    rows = [row for point in points for row in point.rows]
    seeds = tuple(sorted({row["seed"] for row in rows}))
    found = Confirmation(Ground.PENDING, picked, None, seeds, len(rows), asked.number * len(picked))
    if len(rows) < found.of:
        return found
    same = {str(r.get("cell_id")) for p, pick in zip(points, picked, strict=True) if ranking.is_same(pick.point)
            for r in p.rows}  # fmt: skip
    again = replace(rank(points, ranking.same | same), picked=points[0])
    return replace(found, ground=_ground(again, picked[0]), ranking=again)


def _fresh_point(point: Point, fresh: Sequence[Row]) -> Point:
    """Return a point of the sweep with its fresh seeds alone."""
    mine = [row for row in fresh if row["status"] in TRIED and point_of(row) == point_of(point.row)]
    return replace(point, rows=tuple(mine))


def _ground(again: Ranking, leader: Standing) -> Ground:
    if not again.best[0].reached:
        return Ground.FAILED
    first = recommended_first(again)[0].point
    return Ground.FRESH if point_of(first.row) == point_of(leader.point.row) else Ground.OVERTURNED
