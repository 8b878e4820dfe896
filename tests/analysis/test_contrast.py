"""Two points told apart, or shown to be the same: what shared seeds and shared trajectories give away."""

from __future__ import annotations

import math
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy

from harness.analysis.answer import Recommendation, answer, answer_as_text
from harness.analysis.confidence import interval
from harness.analysis.contrast import Basis, Verdict, contrast
from harness.analysis.ranking import pace_of
from harness.analysis.settle import same_within, settles
from harness.analysis.student import above, t_quantile
from harness.analysis.two_way import Difference, TwoWay

stats = lazy("scipy.stats")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def sweeps() -> Any:
    """The sweeps that `benchmarks/statistics.py` draws."""
    sys.path.append(str(ROOT / "benchmarks"))  # behind the standard library, whose statistics it would hide
    try:
        return import_module("simulated_sweeps")
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))


# -- Student's t and the table of rows and blocks ----------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [1.5, 2, 3.7, 12, 200, math.inf])
def test_the_distribution_of_t_is_that_of_scipy(degrees: float) -> None:
    known = stats.t(degrees) if math.isfinite(degrees) else stats.norm()
    for value in (-3.0, -0.2, 0.0, 1.0, 8.0):
        assert above(value, degrees) == pytest.approx(known.sf(value), abs=1e-12)
    for probability in (0.6, 0.95, 0.975, 0.9997):
        assert t_quantile(probability, degrees) == pytest.approx(known.ppf(probability), rel=1e-9)


def table(rows: dict[str, list[float | None]], groups: dict[str, str] | None = None, **given: Any) -> TwoWay:
    values = {row: {place: v for place, v in enumerate(them) if v is not None} for row, them in rows.items()}
    return TwoWay(values, groups or {}, **given)


def test_two_rows_are_the_paired_t_test() -> None:
    first, second = [1.0, 2.0, 3.5, 4.0, 5.0], [1.3, 2.1, 4.0, 4.2, 5.6]
    found = table({"a": first, "b": second}).difference("a", "b")
    assert found is not None
    known = stats.ttest_rel(second, first)
    assert found.log / found.error == pytest.approx(known.statistic)
    assert (found.degrees, found.blocks) == (4, 5)
    assert 2 * above(found.log / found.error, found.degrees) == pytest.approx(known.pvalue)


def test_what_all_rows_of_a_block_share_is_no_error() -> None:
    random = np.random.default_rng(0)
    own = random.normal(0, 0.02, (4, 6))
    found = table(dict(zip("abcd", (own + random.normal(0, 3, 6)).tolist(), strict=True))).difference("a", "d")
    plain = table(dict(zip("abcd", own.tolist(), strict=True))).difference("a", "d")
    assert found is not None
    assert plain is not None
    assert (found.log, found.error, found.degrees) == (pytest.approx(plain.log), pytest.approx(plain.error), 15)


def test_a_hole_costs_its_block_where_nearly_all_are_whole_and_else_only_itself() -> None:
    rows: dict[str, list[float | None]] = {"a": [0.0, 1.0, 2.0, 3.0, 4.0], "b": [0.1, 1.3, 2.1, 3.3, None]}
    found = table(rows).difference("a", "b")
    assert found is not None
    assert (found.blocks, found.degrees) == (4, 3)
    rows = {"a": [0.0, 1.0, 2.0, 3.0], "b": [0.1, 1.1, None, None], "c": [None, None, 2.2, 3.2]}
    holey = table(rows)
    assert holey.means["c"] - holey.means["a"] == pytest.approx(0.2)
    assert holey.difference("b", "c") is None  # no block has both


def test_a_row_five_times_as_loud_as_the_others_of_its_group_speaks_for_itself() -> None:
    random = np.random.default_rng(1)
    rows = {f"quiet{k}": random.normal(0, 0.01, 8).tolist() for k in range(5)}
    rows["loud"] = random.normal(0, 0.3, 8).tolist()
    groups = dict.fromkeys(rows, "one")
    found = table(rows, groups).difference("quiet0", "loud")
    assert found is not None
    assert found.error > 0.05
    assert found.degrees < 10


def test_runs_that_something_held_up_hardly_move_a_mean() -> None:
    random = np.random.default_rng(2)
    rows = {name: random.normal(0, 0.01, 8).tolist() for name in "abcd"}
    rows["a"][3] += 0.4
    plain, robust = (table(rows, robust=robust).difference("a", "b") for robust in (False, True))
    assert plain is not None
    assert robust is not None
    assert abs(robust.log) < 0.02 < abs(plain.log)
    assert robust.error < plain.error


# -- through the answer ------------------------------------------------------------------------------------------------


def test_fifteen_percent_on_every_seed_are_found_where_the_model_is_the_same(sweeps: Any) -> None:
    """Shared seeds were compared as if they were others: 15 % lost to one device in four sweeps of five."""
    world = sweeps.members(1.15, 0.02, flips=0.1)
    found = list(sweeps.answers(world, 40))
    assert all(a.leader.startswith("sync-ddp") for a in found)
    assert all(a.contrast.verdict is Verdict.FASTER and a.contrast.basis is Basis.SAMPLE for a in found)
    assert "times as fast per sample (at least" in found[0].runner_up


def test_none_of_those_that_train_the_same_model_is_said_to_learn_less_from_a_sample(sweeps: Any) -> None:
    world = sweeps.members(1.3, 0.05, 2, flips=0.5)
    for found in sweeps.answers(world, 20):
        assert "times the samples" not in answer_as_text(found)


def test_a_seed_that_one_of_them_misses_by_rounding_counts_as_the_others_have_it(sweeps: Any) -> None:
    rows = sweeps.draw(sweeps.members(1.3, 0.02), np.random.default_rng(3))
    odd = next(row for row in rows if row["strategy"] == "fsdp")
    odd |= {"status": "target-missed", "samples_to_target": None, "time_to_target_s": None}
    (question,) = answer(rows, len(rows)).findings.questions
    assert all(standing.sure for standing in question.ranking.standings)


def test_whoever_is_given_more_settings_does_not_win_by_that(sweeps: Any) -> None:
    world = sweeps.rivals((1.0,) * 9, (1.0,))
    assert sum(map(sweeps.is_named, sweeps.answers(world, 100))) <= 8  # 2 expected; best against best names 11


def test_the_interval_of_the_best_of_nine_covers_what_it_says(sweeps: Any) -> None:
    world = sweeps.World((sweeps.Strategy("a", 2, 1.0, (1.0,) * 9),))
    covered = sum(sweeps.covers(found, world) for found in sweeps.answers(world, 60))
    assert covered >= 54  # 98.8 % expected; the range of five covers 87 %


def test_the_interval_of_the_best_says_of_how_many(sweeps: Any) -> None:
    world = sweeps.World((sweeps.Strategy("a", 2, 1.0, (1.0, 1.2, 1.4)),))
    (found,) = sweeps.answers(world, 1)
    assert "95 % interval for the best of 3 settings" in found.grounds[0]


def test_two_points_of_which_one_is_asynchronous_are_not_taken_for_pairs(sweeps: Any) -> None:
    rows = sweeps.draw(sweeps.rivals((1.0,), (1.0,)), np.random.default_rng(4))
    paired = answer(rows, 10).contrast.difference
    strange = answer([r | {"synchrony": "asynchronous"} if r["strategy"] == "b" else r for r in rows], 10)
    assert paired.degrees == pytest.approx(4)
    assert strange.contrast.difference.degrees > 4.5


def test_seeds_that_miss_the_target_are_compared_by_their_order(sweeps: Any) -> None:
    rows = sweeps.draw(sweeps.rivals((1.0,), (2.0,), spread=0.05), np.random.default_rng(5))
    late = next(row for row in rows if row["strategy"] == "b")
    late |= {"status": "target-missed", "samples_to_target": None, "time_to_target_s": None, "wall_s": 40.0}
    found = answer(rows, 10).contrast
    assert (found.basis, found.verdict) == (Basis.ORDER, Verdict.FASTER)
    assert found.interval is None


def test_a_learning_rate_is_no_setting_where_only_speed_counts(sweeps: Any) -> None:
    untimed = {"time_to_target_s": None, "samples_to_target": None}
    rows = [row | untimed for row in sweeps.draw(sweeps.members(1.1, 0.03, 4), np.random.default_rng(6))]
    found = answer(rows, len(rows))
    assert found.contrast.difference.blocks == 20  # five seeds at four rates, all of them runs of one speed
    assert all(entry.edges == () for entry in found.ledger)
    assert "settings" not in found.grounds[0]


# -- the same, and what would settle it --------------------------------------------------------------------------------


def test_less_than_a_sample_has_no_time_of_one() -> None:
    told = {"status": "ok", "time_to_target_s": 4.0}
    assert pace_of(told | {"samples_to_target": 2.3e-308}) is None
    assert pace_of(told | {"samples_to_target": 2}) == 2.0


def test_the_same_is_what_both_one_sided_tests_say() -> None:
    assert same_within(Difference(0.01, 0.01, 12, 5)) == 0.05
    assert same_within(Difference(0.04, 0.01, 12, 5)) == 0.1
    assert same_within(Difference(0.5, 0.01, 12, 5)) is None
    assert same_within(Difference(0.0, 0.2, 4, 5)) is None


def test_more_seeds_are_asked_for_where_the_spread_is_larger_and_none_where_it_is_hopeless() -> None:
    found = [settles(Difference(0.03, sd / math.sqrt(5), 12, 5)) for sd in (0.05, 0.14, 0.2, 2.0)]
    assert found[0] is not None
    assert found[1] is not None
    assert (found[0].within, found[1].within) == (0.05, 0.1)
    assert 5 < found[0].blocks < found[1].blocks <= 25
    assert found[3] is None
    assert settles(Difference(0.03, 0.1, 2, 3)) is None  # the spread itself is hardly known


# -- one set of findings -----------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from([0.0, 0.01, 0.05, 0.3]),
    st.sampled_from([0.9, 1.0, 1.03, 1.3]),
    st.integers(1, 3),
    st.sampled_from([1, 2, 5]),
    st.lists(st.sampled_from(["good", "slow", "stuck", "oscillating", "diverged", None]), min_size=6, max_size=6),
    st.sets(st.integers(0, 29), max_size=12),
    st.booleans(),
)
def test_no_two_sentences_contradict_each_other(sweeps, seed, noise, faster, rates, seeds, shapes, missed, timed):  # type: ignore[no-untyped-def]
    settings_of = (1.0, 1.1, 0.95)[:rates]
    world = sweeps.World(
        (sweeps.Strategy("single", 1, 1.0, settings_of, same=True),
         sweeps.Strategy("sync-ddp", 2, 1 / faster, settings_of, same=True),
         sweeps.Strategy("async-ps", 2, 1 / faster, settings_of)),
        seeds=seeds, timing=noise, spread=noise,
    )  # fmt: skip
    rows = sweeps.draw(world, np.random.default_rng(seed))
    for place, row in enumerate(rows):
        row["regime"] = shapes[place % 6]
        if timed or place in missed:
            row |= {"samples_to_target": None, "time_to_target_s": None}
        if place in missed and not timed:
            row["status"] = "target-missed"
    found = answer(rows, len(rows))
    agree(found, rows)


def agree(found: Any, rows: list[dict[str, Any]]) -> None:
    """Hold what the parts of an answer say against each other."""
    if found.leader is None:
        return
    leader = next(row for row in rows if row["cell_id"] == found.leader)
    ranking = found.findings.questions[0].ranking
    standing = next(s for s in ranking.standings if leader in s.point.rows)
    mapped = lazy("harness.analysis.rate_regimes").map_frame(found.findings.standings)
    fields = mapped[(mapped["strategy"] == leader["strategy"]) & (mapped["learning_rate"] == leader["learning_rate"])] \
        if len(mapped) else mapped  # fmt: skip
    if found.kind is not Recommendation.UNRELIABLE and len(fields) and standing.point.by_target:
        assert not set(fields["verdict"]) & {"too large", "too small"}  # the map warns of what is recommended
    name = f"{leader['strategy']} becomes unstable at a learning rate of {leader['learning_rate']:g} on"
    assert name not in found.too_large or found.kind is Recommendation.UNRELIABLE or not standing.point.by_target
    ends = interval(standing, ranking)
    assert ends is None or ends.low * (1 - 1e-9) <= standing.seconds <= ends.high * (1 + 1e-9)
    if found.contrast is None:
        return
    assert found.contrast.verdict is not Verdict.SLOWER  # whoever surely is faster is recommended
    text = answer_as_text(found)
    assert ("cannot separate" in text) == (found.contrast.verdict is Verdict.OPEN)
    promised = "one is faster, or the two are the same within 5 %"  # of more seeds, not found in these
    assert ("same within 5 %" in text.replace(promised, "")) <= (found.contrast.verdict is Verdict.SAME)
    if found.winners and found.contrast.verdict is Verdict.FASTER:
        assert found.winners[0][1].startswith(f"{leader['strategy']} on")
    for other in ranking.best:
        beside, back = contrast(ranking, standing, other), contrast(ranking, other, standing)
        swapped = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
        assert back.verdict is swapped.get(beside.verdict, beside.verdict)
