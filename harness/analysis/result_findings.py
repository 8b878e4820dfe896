"""What the results say, found once: headline, map, table, figures and notes all read it here.

Cells of several models or data sets are different problems, and links, devices, faults and limits are environments that
nobody chooses: each combination is a question of its own, with a ranking of its own. Imports the standard library only.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from harness.analysis.confidence import recommended_first
from harness.analysis.confirmation import NO_FRESH_SEEDS, NOT_ASKED, Confirmation, FreshSeeds, confirmation
from harness.analysis.exam import Exam, combination_of, exams, failed, same_model
from harness.analysis.points import (
    SWEPT,
    TRIED,
    Point,
    Row,
    has_target,
    not_ranked,
    point_of,
    points,
    ranked_rows,
    without_controls,
)
from harness.analysis.ranking import Ranking, Standing, rank
from harness.core.swept_keys import is_environment, is_problem
from harness.core.words import show


@dataclass(frozen=True)
class Question:
    """Cells that are ranked with each other: one problem in one environment.

    Attributes:
        values: what tells it from the other questions: keys with their values, problems first.
        ranking: by the seeds of the sweep.
        controls: points that are shown only: on one device single stands for them.
        confirmation: what fresh seeds say of the best.
    """

    values: tuple[tuple[str, object], ...]
    ranking: Ranking
    controls: tuple[Point, ...] = ()
    confirmation: Confirmation = NOT_ASKED

    @cached_property
    def not_confirmed(self) -> list[Standing]:
        """The sweep's standings that no fresh seeds speak of, the best first."""
        picked = [pick.point for pick in self.confirmation.picks] if self.confirmation.ranking else []
        return [s for s in self.ranking.standings if not any(s.point is point for point in picked)]

    @property
    def standings(self) -> list[Standing]:
        """All of them, the best first, by fresh seeds where there are any."""
        again = self.confirmation.ranking
        found = [*(again.standings if again else ()), *self.not_confirmed]
        return sorted(found, key=lambda standing: standing.rank)

    @property
    def best(self) -> list[Standing]:
        """Each strategy's best standing, the recommended first; by fresh seeds where they decide."""
        again = self.confirmation.ranking
        if again is None or not again.best[0].reached:
            return recommended_first(self.ranking)
        first = recommended_first(again)
        names = {standing.point.strategy for standing in first}
        return [*first, *(s for s in self.ranking.best if s.point.strategy not in names)]

    def is_about(self, row: Row) -> bool:
        """Say whether a row belongs to it, ranked or not."""
        return all(str(row.get(f"{SWEPT}{key}")) == str(value) for key, value in self.values)

    @property
    def rankings(self) -> tuple[Ranking, ...]:
        """By the seeds of the sweep, and by fresh ones where there are any."""
        return tuple(filter(None, (self.ranking, self.confirmation.ranking)))

    @property
    def words(self) -> str:
        """Return such as `cluster.inter_node "25 Gb/s"`; empty where there is one question only."""
        return ", ".join(f"{key} {show(value)}" for key, value in self.values)


@dataclass(frozen=True)
class ResultFindings:
    """All that is found in the rows of one scenario.

    Attributes:
        rows: of the sweep.
        exams: who trains what single trains.
        pool: rows that are ranked.
        questions: rankings, each with what it is about.
        fresh: rows whose seeds had no part in the choice.
    """

    rows: tuple[Row, ...]
    exams: tuple[Exam, ...]
    pool: tuple[Row, ...]
    questions: tuple[Question, ...]
    fresh: tuple[Row, ...] = ()

    @cached_property
    def barred(self) -> set[Hashable]:
        """Combinations that failed the entry exam."""
        return failed(self.exams)

    def is_ranked(self, row: Row) -> bool:
        """Say whether a row may be ranked: neither barred nor with more workers than devices."""
        return not not_ranked(row) and combination_of(row) not in self.barred

    @cached_property
    def _standings(self) -> dict[Hashable, Standing]:
        every = (standing for question in self.questions for standing in question.ranking.standings)
        return {point_of(standing.point.row): standing for standing in every}

    def standing(self, point: Point) -> Standing:
        """Return what is said of a point; of one that is not ranked what its own runs say."""
        return self._standings.get(point_of(point.row)) or Standing(point)

    def exams_of(self, question: Question) -> tuple[Exam, ...]:
        """Return the exams of a question's combinations, failed ones too."""
        by_id = {str(row.get("cell_id")): row for row in self.rows}
        return tuple(exam for exam in self.exams if all(question.is_about(by_id[name]) for name in exam.cell_ids))

    def ranking_of(self, standing: Standing) -> Ranking | None:
        """Return the ranking that a standing is in; None where it is in none."""
        found = (ranking for question in self.questions for ranking in question.rankings)
        return next((ranking for ranking in found if any(s is standing for s in ranking.standings)), None)

    @cached_property
    def standings(self) -> list[Standing]:
        """Every point that was tried, ranked or not, the best first."""
        tried = [row for row in self.rows if row["status"] in TRIED]
        found = (self.standing(point) for point in points(tried, has_target(tried)))
        return sorted(found, key=lambda standing: standing.rank)


def findings_of(rows: Sequence[Row], asked: FreshSeeds = NO_FRESH_SEEDS) -> ResultFindings:
    """Find what rows say.

    Args:
        rows: finished cells, keys as in cells.csv.
        asked: what the plan asks of fresh seeds.
    """
    swept = tuple(row for row in rows if not row.get("confirms"))
    fresh = tuple(row for row in rows if row.get("confirms"))
    examined = exams(swept)
    barred = failed(examined)
    tried = [row for row in swept if row["status"] in TRIED and not not_ranked(row)]
    pool = ranked_rows([row for row in tried if combination_of(row) not in barred])
    same = same_model(examined)
    asked_about = tuple(replace(q, confirmation=confirmation(q.ranking, fresh, asked)) for q in _questions(pool, same))
    return ResultFindings(swept, tuple(examined), tuple(pool), asked_about, fresh)


def _questions(pool: Sequence[Row], same: frozenset[str]) -> Iterable[Question]:
    keys = [key for key in _asked(pool) if len({str(row.get(f"{SWEPT}{key}")) for row in pool}) > 1]
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in pool:
        groups.setdefault(tuple(str(row.get(f"{SWEPT}{key}")) for key in keys), []).append(row)
    for group in groups.values():
        found = points(group, has_target(group))
        kept = without_controls(found)
        controls = tuple(point for point in found if not any(point is other for other in kept))
        values = tuple((key, group[0].get(f"{SWEPT}{key}")) for key in keys)
        yield Question(values, rank(kept, same), controls)


def _asked(pool: Sequence[Row]) -> list[str]:
    """Return the swept keys that make questions of their own, problems first."""
    swept = sorted({key.removeprefix(SWEPT) for row in pool for key in row if key.startswith(SWEPT)})
    return [*filter(is_problem, swept), *filter(is_environment, swept)]
