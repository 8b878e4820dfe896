"""The gate: what is slower than usual beside the reference, what has to run again, and what fresh runs decide."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from compared_cells import STEP_S, cell
from lazy import lazy

from harness.analysis.compare_words import in_markdown, in_text
from harness.analysis.compared import ChangeKind, Comparison, UsualFrom, Verdict

np = lazy("numpy")
gate = lazy("harness.analysis.gate")
compare = lazy("harness.analysis.compare")
compare_gate = lazy("harness.analysis.compare_gate")

LEAST = math.log(1.05)
LOOPS = [0.01 * k for k in (-2, 1, 0, 2, -1)]
"""The reference's runs: logarithms of their seconds."""


def table(points: int, nights: int = 20, sd: float = 0.015) -> Any:
    return np.random.default_rng(3).normal(0, sd, (nights, points)) - 1.0


def runs(points: int, each: float = 1.0, loops: int = 10) -> Any:
    return gate.Runs(np.full(points, each), loops)


# -- what is usual -----------------------------------------------------------------------------------------------------


def test_a_point_far_above_its_usual_level_alarms_and_others_do_not() -> None:
    nights = table(4)
    usual = gate.usual_of_history(nights)
    points, together = gate.judge_night(usual, np.median(nights, axis=0) + np.array([0.2, 0.0, 0.01, -0.2]), LEAST)
    assert points.alarms.tolist() == [True, False, False, False]
    assert points.suspects == [0]
    assert not together.alarms.any()
    assert points.excess == pytest.approx([0.2, 0.0, 0.01, -0.2])
    assert points.limit.min() >= LEAST


def test_all_points_a_little_slower_alarm_together() -> None:
    nights = table(8)
    points, together = gate.judge_night(gate.usual_of_history(nights), np.median(nights, axis=0) + 0.06, LEAST)
    assert together.alarms.tolist() == [True]
    assert together.excess == pytest.approx([0.06], abs=0.01)
    assert len(points.suspects) == gate.MOST_SUSPECTS


def test_only_the_newest_nights_count_and_a_loud_one_hardly() -> None:
    nights = table(2, 40)
    old = nights.copy()
    old[:20] += 0.5
    new, aged = gate.usual_of_history(nights[20:]), gate.usual_of_history(old)
    assert aged.level == pytest.approx(new.level)
    assert aged.night == pytest.approx(new.night)
    loud = nights[20:].copy()
    loud[3, 0] += 1.0
    assert gate.usual_of_history(loud).night[0] < 2.5 * new.night[0]


def test_a_point_without_some_nights_is_known_by_its_own() -> None:
    nights = table(3)
    nights[:11, 1] = np.nan
    usual = gate.usual_of_history(nights)
    assert usual.degrees.tolist() == [19, 8, 19]
    assert usual.level[1] == pytest.approx(np.median(nights[11:, 1]))
    assert np.isfinite(usual.together.night).all()


def test_nights_that_are_all_alike_have_a_spread_all_the_same() -> None:
    usual = gate.usual_of_history(np.full((20, 2), -1.0))
    points, _ = gate.judge_night(usual, np.array([-1.0, -0.99]), LEAST)
    assert points.spread.min() >= gate.LEAST_OF_NIGHTS
    assert not points.alarms.any()


def test_runs_scatter_by_what_lies_within_groups_and_few_share_the_references() -> None:
    scatter = gate.Scatter.of([[0.0, 2.0], [10.0, 12.0]], [[5.0, 5.0, 5.0, 5.0, 5.0]])
    assert (scatter.points, scatter.reference, scatter.degrees) == (pytest.approx(4 / 6), 0.0, 6)
    own = gate.Scatter.of([[0.0, 2.0], [10.0, 12.0], [0.0, 2.0], [0.0, 2.0]], [[5.0] * 5])
    assert (own.points, own.reference) == (2.0, 0.0)
    assert gate.Scatter.of([[1.0]], [[2.0]]) == gate.Scatter(0.0, 0.0, 0)


def test_fresh_runs_decide_and_luck_of_the_night_does_not() -> None:
    nights = table(2)
    usual = gate.usual_of_history(nights)
    night = np.median(nights, axis=0) + np.array([0.2, 0.2])
    scatter = gate.Scatter(4e-4, 4e-4, 20)
    fresh = np.median(nights, axis=0) + np.array([0.2, 0.005])
    points, _ = gate.decide(usual, night, runs(2), fresh, runs(2, 5.0, 5), scatter, LEAST)
    assert points.alarms.tolist() == [True, False]
    silent, _ = gate.decide(usual, night, runs(2), np.array([np.nan, np.nan]), runs(2), scatter, LEAST)
    assert not silent.alarms.any()


def test_one_night_knows_less_than_many() -> None:
    scatter = gate.Scatter(4e-4, 4e-4, 20)
    one = gate.usual_of_one_night(np.zeros(4), runs(4), runs(4), scatter)
    points, _ = gate.judge_night(one, np.array([0.09, 0.2, 0.0, 0.0]), LEAST)
    assert points.alarms.tolist() == [False, True, False, False]
    assert points.suspects == [1, 0]
    assert (points.detectable > points.limit).all()


# -- in a comparison ---------------------------------------------------------------------------------------------------


def sides(slower: Mapping[str, float], seeds: int = 1) -> tuple[list[Any], list[Any]]:
    points = [*slower, "c", "d"]
    base = [cell(p, s, STEP_S * (1 + s / 500)) for p in points for s in range(seeds)]
    new = [cell(p, s, STEP_S * slower.get(p, 1.0) * (1 + s / 500)) for p in points for s in range(seeds)]
    return base, new


def beside(fresh: Mapping[str, Sequence[float]] | None = None, machine: float = 0.0, nights: int = 0) -> Any:
    known = {f"night {k}": math.log(STEP_S) + 0.005 * (-1) ** k for k in range(nights)}
    return compare_gate.Beside(
        base=LOOPS,
        new=[log + machine for log in LOOPS],
        nights={point: known for point in "abcd"} if nights else {},
        fresh={point: [math.log(STEP_S * r) for r in ratios] for point, ratios in (fresh or {}).items()},
        fresh_reference=LOOPS if fresh else (),
    )


def judged(slower: Mapping[str, float], ran: Any, seeds: int = 1, **options: Any) -> Comparison:
    found: Comparison = compare.compare(*sides(slower, seeds), besides={"": ran}, **options)
    return found


def kinds(found: Comparison) -> dict[str, ChangeKind]:
    return {str(f.row["cell_id"])[0]: f.kind for f in found.findings if f.quantity.column == "step"}


def test_one_run_a_side_is_suspect_and_five_are_enough() -> None:
    found = judged({"a": 1.4}, beside())
    assert (kinds(found), found.verdict, found.rerun) == ({"a": ChangeKind.SUSPECT}, Verdict.SUSPECT, ("a",))
    assert "To run them again: --rerun." in in_text(found)
    found = judged({"a": 1.4}, beside(), seeds=5)
    assert (kinds(found), found.verdict) == ({"a": ChangeKind.REGRESSION}, Verdict.REGRESSION)
    assert "beside the reference +40.0 % than in BASE, limit +" in in_text(found)
    assert "limit +" in in_markdown(found)


def test_a_slower_machine_is_no_suspect() -> None:
    found = judged({p: 1.4 for p in "abcd"}, beside(machine=math.log(1.4)), seeds=5)
    assert (found.findings, found.verdict, found.rerun) == ((), Verdict.NO_REGRESSION, ())
    found = judged({}, beside(machine=math.log(1.4)), seeds=5)
    assert set(kinds(found).values()) == {ChangeKind.IMPROVEMENT}


def test_fresh_runs_break_the_build_or_clear_it() -> None:
    stays = {"a": [1.4, 1.41, 1.39, 1.4, 1.4]}
    found = judged({"a": 1.4}, beside(stays))
    assert (kinds(found), found.verdict, found.rerun) == ({"a": ChangeKind.REGRESSION}, Verdict.REGRESSION, ())
    assert "5 fresh runs beside the reference +40.0 % than in BASE" in in_text(found)
    assert found.changes[0].gated is not None
    assert found.changes[0].gated.fresh == 5
    found = judged({"a": 1.4}, beside({"a": [1.0, 1.01, 0.99, 1.0, 1.0]}))
    assert (found.findings, found.verdict) == ((), Verdict.NO_REGRESSION)
    found = judged({"a": 1.4}, beside({"a": [1.4, 1.4]}))  # the others crashed
    assert (kinds(found), found.rerun) == ({"a": ChangeKind.SUSPECT}, ("a",))


def test_a_history_says_what_is_usual_not_the_base() -> None:
    found = judged({"a": 1.1}, beside(nights=12))
    assert (kinds(found), found.verdict) == ({"a": ChangeKind.REGRESSION}, Verdict.REGRESSION)
    gated = next(change.gated for change in found.changes if change.gated and change.gated.kind)
    assert (gated.basis, gated.nights) == (UsualFrom.HISTORY, 12)
    assert "than in 12 nights" in in_text(found)
    few = judged({"a": 1.1}, beside(nights=7))
    assert few.changes[0].gated is not None
    assert (few.changes[0].gated.basis, few.verdict) == (UsualFrom.ONE_NIGHT, Verdict.NO_REGRESSION)


def test_all_points_together_break_the_build_where_none_does_alone() -> None:
    ran = beside(nights=20)
    points = "abcd"
    found = judged({p: 1.058 for p in points}, compare_gate.Beside(ran.base, ran.new, _noisy_nights(points)))
    assert (found.findings, found.verdict) == ((), Verdict.REGRESSION)
    assert "All 4 points together are slower: beside the reference +" in in_text(found)
    assert found.worst is ChangeKind.REGRESSION


def _noisy_nights(points: str) -> dict[str, dict[str, float]]:
    """Return nights that are loud point by point, and quiet together."""
    shifts = {p: (-1) ** place for place, p in enumerate(points)}
    return {p: {f"{k:02}": math.log(STEP_S) + 0.03 * (-1) ** k * shifts[p] for k in range(20)} for p in points}


@pytest.mark.parametrize("few", [{"base": LOOPS[:2]}, {"new": LOOPS[:2]}, {"new": ()}, {"base": ()}])
def test_without_enough_runs_of_the_reference_nothing_is_judged_by_it(few: dict[str, Any]) -> None:
    found = judged({"a": 1.4}, compare_gate.Beside(**{"base": LOOPS, "new": LOOPS} | few), seeds=5)
    assert (kinds(found), found.rerun) == ({"a": ChangeKind.SUSPECT}, ())
    assert found.changes[0].gated is None
    assert "without a reference that ran beside the cells" in in_text(found)


def test_a_trusted_machine_and_another_device_need_no_reference() -> None:
    trusted = judged({"a": 1.4}, beside({"a": [1.0] * 5}), seeds=5, trust_machine=True)
    assert kinds(trusted) == {"a": ChangeKind.REGRESSION}
    base, new = sides({"a": 1.4}, 5)
    other = [cell("a", s, STEP_S, environment={"cpu": "another"}) for s in range(5)]
    found = compare.compare(base, [*other, *new[5:]], besides={"": beside()}, allow_other=True)
    assert {change.gated for change in found.changes} == {None}


def test_the_time_to_the_target_is_no_suspect_of_its_own_beside_a_reference() -> None:
    reached = [{"time_to_target_s": 1.0 * f, "samples_to_target": 3200} for f in (1.0, 1.4)]
    base, new = ([cell("a", s, STEP_S, **facts) for s in range(5)] for facts in reached)
    quantities = {f.quantity.column for f in compare.compare(base, new).suspects}
    assert quantities == {"time_to_target_s"}
    assert compare.compare(base, new, besides={"": beside()}).suspects == ()


def test_cells_that_no_side_has_run_are_said() -> None:
    found = compare.compare([cell()], [cell()], never_run=2)
    assert "2 cells of NEW's plan have no result on either side" in in_text(found)
    assert "1 cell of NEW's plan has no result" in in_text(compare.compare([cell()], [cell()], never_run=1))
    assert "no result" not in in_text(compare.compare([cell()], [cell()]))
