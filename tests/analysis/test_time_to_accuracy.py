"""Runs that never reach the target, against closed forms: exponential times cut off at a budget."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lazy import lazy

from harness.analysis.censored import SeedRun, beats, censored_median, expected_time, run_of, survival
from harness.analysis.exact import median_interval

pd = lazy("pandas")
time_to_accuracy = lazy("harness.analysis.time_to_accuracy")


def exponential(rng: np.random.Generator, mean: float, budget: float, n: int) -> list[SeedRun]:
    return [SeedRun(min(time, budget), bool(time <= budget)) for time in rng.exponential(mean, n)]


# -- closed forms ------------------------------------------------------------------------------------------------------


def test_censored_exponential_times_give_their_closed_forms():
    runs = exponential(np.random.default_rng(0), mean=10.0, budget=12.0, n=40_000)
    found = time_to_accuracy.reached_by(runs[:1000])
    assert sum(run.reached for run in runs) / len(runs) == pytest.approx(1 - math.exp(-1.2), abs=0.01)
    # E[min(T, c)] / P(T < c) is the mean of an exponential, whatever the budget c.
    assert expected_time(runs) == pytest.approx(10.0, rel=0.02)
    assert found.median == pytest.approx(10 * math.log(2), rel=0.1)
    assert found.probability.holds(1 - math.exp(-1.2))


def test_survival_is_right_where_budgets_differ_and_runs_cannot_simply_be_sorted():
    rng = np.random.default_rng(1)
    runs = [run for budget in (4.0, 8.0, 30.0) for run in exponential(rng, 10.0, budget, 4000)]
    assert censored_median(runs) == pytest.approx(10 * math.log(2), rel=0.04)
    by_ten = [share for time, share in survival(runs) if time <= 10][-1]
    assert by_ten == pytest.approx(math.exp(-1), abs=0.015)


def test_a_small_survival_curve_is_kaplan_and_meiers():
    # Times 1, 2+, 3, 4+, 5: 4/5, then 4/5 x 2/3, then 0.
    runs = [SeedRun(1, True), SeedRun(2, False), SeedRun(3, True), SeedRun(4, False), SeedRun(5, True)]
    assert survival(runs) == [(1, pytest.approx(0.8)), (3, pytest.approx(0.8 * 2 / 3)), (5, 0)]


def test_a_diverged_run_is_no_run_that_might_still_have_made_it():
    missed = [SeedRun(1, True), SeedRun(2, True), SeedRun(0.5, False)]
    diverged = [*missed[:2], SeedRun(0.5, False, hopeless=True)]
    assert survival(missed)[-1] == (2, 0)
    assert survival(diverged)[-1] == (2, pytest.approx(1 / 3))
    assert censored_median([SeedRun(1, True), *[SeedRun(0.1, False, hopeless=True)] * 2]) == math.inf


@pytest.mark.parametrize("n", [10, 20])
def test_intervals_of_the_median_cover_it_with_runs_cut_off(n):
    rng, truth, held = np.random.default_rng(2), 10 * math.log(2), 0
    for _ in range(2000):
        found = median_interval([run.latest for run in exponential(rng, 10.0, 15.0, n)])
        assert found is not None
        held += found[0] <= truth <= found[1]
    assert 0.93 <= held / 2000 <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("n", [20])
def test_intervals_of_the_expected_time_cover_it(n):
    rng, held = np.random.default_rng(3), 0
    for _ in range(100):
        found = time_to_accuracy.reached_by(exponential(rng, 10.0, 20.0, n)).expected_interval
        assert found is not None
        held += found.holds(10.0)
    assert 0.86 <= held / 100 <= 0.99


# -- who is faster -----------------------------------------------------------------------------------------------------


def test_probability_to_be_faster_is_the_closed_form_of_two_exponentials():
    rng = np.random.default_rng(4)
    first, second = exponential(rng, 1.0, math.inf, 400), exponential(rng, 2.0, math.inf, 400)
    assert beats(first, second).probability == pytest.approx(2 / 3, abs=0.04)


@pytest.mark.parametrize("n", [10, 20])
@pytest.mark.parametrize("slower", [1.0, 3.0, 10.0])
def test_intervals_of_the_probability_to_be_faster_cover_it(n, slower):
    rng, held = np.random.default_rng(5), 0
    for _ in range(1000):
        found = beats(exponential(rng, 1.0, 50.0, n), exponential(rng, slower, 50.0, n))
        assert found.interval is not None
        held += found.interval.holds(slower / (1 + slower))
    assert 0.93 <= held / 1000 <= 0.97


def test_five_of_five_before_five_of_five_is_resolved_but_not_certain():
    early, late = [SeedRun(k, True) for k in range(1, 6)], [SeedRun(k, True) for k in range(6, 11)]
    found = beats(early, late)
    assert found.probability == 1
    assert found.interval is not None
    assert 0.5 < found.interval.low < 0.8
    assert found.resolved
    assert beats(early[:4], late).interval is None


def test_two_that_never_get_there_tie_and_one_that_does_wins():
    never, reached = [SeedRun(9, False)] * 5, [SeedRun(5, True)] * 5
    assert beats(never, never).probability == 0.5
    assert not beats(never, never).resolved
    assert beats(reached, never).probability == 1


@given(
    st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), min_size=5, max_size=12),
    st.lists(st.tuples(st.floats(0.1, 100), st.booleans()), min_size=5, max_size=12),
)
def test_either_is_faster_and_the_interval_holds_the_estimate(first, second):
    a, b = ([SeedRun(*pair) for pair in runs] for runs in (first, second))
    there, back = beats(a, b), beats(b, a)
    assert there.probability + back.probability == pytest.approx(1)
    for found in (there, back):
        assert found.interval is not None
        assert found.interval.low - 1e-9 <= found.probability <= found.interval.high + 1e-9


# -- rows --------------------------------------------------------------------------------------------------------------


def row(seed: int, time: float | None, **changes: object) -> dict[str, object]:
    given: dict[str, object] = {"strategy": "single", "options": "{}", "engine": "real", "device": "cpu", "gpus": 1}
    given |= {"batch_size": 32, "global_batch_size": 32, "learning_rate": 0.1, "seed": seed, "num_train": 1000}
    given |= {"status": "ok" if time else "target-missed", "time_to_target_s": time, "wall_s": 12.0, "setup_s": 1.0}
    given |= {"evaluation_s": 1.0, "samples_seen": 10_000, "samples_to_target": time and 500 * time}
    return given | changes


def test_a_frame_keeps_seeds_that_missed_and_counts_those_that_broke():
    rows = [row(k, time) for k, time in enumerate([2.0, 4.0, 6.0, 8.0, None])]
    rows.append(row(5, None, status="crashed"))
    frame = time_to_accuracy.reached_frame(pd.DataFrame(rows)).set_index("measure")
    time = frame.loc["time"]
    assert (time["runs"], time["reached"], time["broken"]) == (5, 4, 1)
    assert time["median"] == 6.0
    assert (time["median_low"], time["median_high"], time["median_coverage"]) == (2.0, math.inf, 0.9375)
    assert time["expected"] == (2 + 4 + 6 + 8 + 10) / 4
    assert frame.loc["epochs", "median"] == 3.0
    assert frame.loc["samples", "median"] == 3000.0
    assert "updates" not in frame.index  # never counted, so not shown


def test_a_run_that_trained_to_no_end_is_no_run():
    assert run_of(row(0, None, status="out-of-memory")) is None
    assert run_of(row(0, None, status="diverged")) == SeedRun(10.0, False, hopeless=True)


def test_points_of_two_engines_are_never_compared():
    rows = [row(k, 2.0 + k) for k in range(5)]
    rows += [row(k, 3.0 + k, gpus=2, strategy="sync-ddp") for k in range(5)]
    rows += [row(k, 1.0, engine="virtual") for k in range(5)]
    frame = time_to_accuracy.beats_frame(pd.DataFrame(rows))
    assert len(frame) == 2
    first = frame.iloc[0]
    assert (first["first_strategy"], first["second_strategy"]) == ("single", "sync-ddp")
    # Of 25 pairs of (2, ..., 6) and (3, ..., 7) the first is smaller in 15 and the same in 4.
    assert first["probability"] == pytest.approx(17 / 25)
