"""The arithmetic between a run and a row of cells.csv, against outcomes made by hand."""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from typing import Any

import pytest
from cells import make_cell
from hypothesis import given
from hypothesis import strategies as st

from harness.analysis.cell_row import (
    convergence_row,
    curve_table,
    identity_row,
    loss_curve,
    outcome_row,
    percentile,
    speed_row,
    staleness_row,
    time_row,
    trajectory_id,
    with_speedups,
)
from harness.core.budget import Budget, Evaluation
from harness.core.cell import Cell
from harness.core.outcome import STEP_COLUMNS, UPDATE_COLUMNS, CountedDram, Outcome, columns
from harness.core.step_parts import PART_COLUMNS

BUDGET = Budget(None, 100, None, 32, target_accuracy=0.9)


def cell_of(**changes: Any) -> Cell:
    return make_cell(**{"sweep__strategy": "single", **changes})


def step(number: int, start_s: float, samples: int = 32, **parts: Any) -> dict[str, Any]:
    row = {"worker": 0, "device": 0, "step": number, "start_s": start_s, "samples": samples, "loss": None}
    return row | dict.fromkeys(PART_COLUMNS, 0.0) | {"base_version": number, "staleness": 0} | parts


def outcome_of(steps: list[dict[str, Any]], training_s: float, **fields: Any) -> Outcome:
    return Outcome(training_s=training_s, steps=columns(steps, STEP_COLUMNS), **fields)


def push(update: int, worker: int, number: int, samples: int, time_s: float, staleness: int = 0) -> dict[str, Any]:
    values = (update, worker, number, max(0, update - 1 - staleness), staleness, samples, time_s)
    return dict(zip(UPDATE_COLUMNS, (*values, None, None, None), strict=True))


# -- where the time went -----------------------------------------------------------------------------------------------

SPANS = st.lists(
    st.tuples(*[st.floats(0, 2, allow_subnormal=False)] * 4, st.floats(0, 0.5, allow_subnormal=False)),
    min_size=1,
    max_size=12,
)


@given(st.lists(SPANS, min_size=1, max_size=3), st.floats(0.1, 1.0))
def test_parts_add_up_to_the_training_time_and_none_is_negative(devices, cut):
    rows = []
    for device, spans in enumerate(devices):
        at = 0.0
        for number, (*parts, gap) in enumerate(spans):
            rows.append(step(number, at, device=device, **dict(zip(PART_COLUMNS, parts, strict=True))))
            at += sum(parts) + gap
    ends = [sum(sum(span) for span in spans) for spans in devices]
    training_s = max(ends) * cut  # the end may come while a step is under way
    rows = [row for row in rows if row["start_s"] < training_s]
    row = time_row(replace(cell_of(), engine="real", gpus=len(devices)), outcome_of(rows, training_s))
    parts = [row[name] for name in (*PART_COLUMNS, "other_s")]
    assert all(part >= 0 for part in parts)
    assert sum(parts) == pytest.approx(training_s, abs=1e-9)
    assert row["busy_fraction"] is None or 0 <= row["busy_fraction"] <= 1


@pytest.mark.parametrize("crowded", [True, False])
def test_the_plan_decides_what_is_ranked(crowded):
    assert identity_row(replace(cell_of(), oversubscribed=crowded), "env")["ranked"] is not crowded


def test_parts_are_means_over_devices():
    rows = [step(0, 0.0, device=0, compute_s=4.0), step(0, 0.0, device=1, compute_s=2.0, idle_s=1.0)]
    row = time_row(replace(cell_of(), engine="real", gpus=2), outcome_of(rows, 5.0))
    assert (row["compute_s"], row["idle_s"], row["other_s"]) == (3.0, 0.5, 1.5)
    assert row["busy_fraction"] == 0.6


def test_a_virtual_row_is_already_a_mean_over_the_devices_of_its_worker():
    rows = [step(0, 0.0, compute_s=3.0, communication_s=2.0)]
    cell = replace(cell_of(), engine="virtual", gpus=8, workers=1)
    row = time_row(cell, outcome_of(rows, 5.0))
    assert (row["compute_s"], row["communication_s"], row["other_s"]) == (3.0, 2.0, 0.0)


def test_a_step_cut_short_by_the_end_counts_up_to_the_end_in_proportion():
    rows = [step(0, 0.0, compute_s=1.0), step(1, 1.0, compute_s=3.0, communication_s=1.0)]
    row = time_row(cell_of(), outcome_of(rows, 3.0))
    assert row["compute_s"] == pytest.approx(1.0 + 1.5)
    assert row["communication_s"] == pytest.approx(0.5)
    assert row["other_s"] == pytest.approx(0.0)


def test_wall_time_adds_setup_and_evaluation_on_the_real_clock_only():
    done = outcome_of([step(0, 0.0, compute_s=1.0)], 2.0, setup_s=0.5, evaluation_s=0.25)
    assert time_row(replace(cell_of(), engine="real"), done)["wall_s"] == 2.75
    simulated = time_row(cell_of(), done)
    assert simulated["wall_s"] == 2.0
    assert "setup_s" not in simulated
    assert "evaluation_s" not in simulated


# -- speed -------------------------------------------------------------------------------------------------------------


def test_throughput_leaves_warm_up_out_and_nothing_else():
    # Twenty steps; a tenth, two, are warm-up and ten times slower than the rest.
    starts = [0.0, 10.0, *(20.0 + k for k in range(18))]
    row = speed_row(cell_of(), outcome_of([step(k, at) for k, at in enumerate(starts)], 38.0))
    assert row["throughput_samples_per_s"] == pytest.approx(18 * 32 / 18.0)
    assert row["step_time_s"] == pytest.approx(1.0)


def test_warm_up_is_at_most_what_the_scenario_says():
    cell = cell_of(measure={"warmup_steps": 1})
    row = speed_row(cell, outcome_of([step(k, float(k)) for k in range(40)], 40.0))
    assert row["throughput_samples_per_s"] == pytest.approx(39 * 32 / 39)


def test_throughput_counts_the_whole_job_and_not_a_rank():
    rows = [step(k, float(k), samples=16, device=device) for device in (0, 1) for k in range(5)]
    row = speed_row(cell_of(), outcome_of(rows, 5.0))
    assert row["throughput_samples_per_s"] == pytest.approx(32.0)


def test_throughput_behind_a_server_counts_what_was_applied():
    rows = [step(k, float(k), worker=worker) for worker in (0, 1) for k in range(5)]
    log = columns([push(k + 1, k % 2, k // 2, 32, k + 0.5) for k in range(4)], UPDATE_COLUMNS)
    row = speed_row(cell_of(), outcome_of(rows, 5.0, updates_log=log))
    assert row["throughput_samples_per_s"] == pytest.approx(4 * 32 / 5.0)


def test_steps_that_are_fed_in_bursts_count_their_burst():
    """Four processes finish a batch each at the same time: one step waits for it, three do not."""
    starts = [4.0 * (k // 4) + (3.6 + 0.1 * (k % 4) if k % 4 else 0.0) for k in range(40)]
    cell = cell_of(workload={"loading": {"workers": 4, "resident": False}})
    row = speed_row(cell, outcome_of([step(k, at) for k, at in enumerate(starts)], 40.0))
    assert row["step_time_s"] == pytest.approx(1.0)
    assert row["step_time_p95_s"] == pytest.approx(3.7)


def test_a_run_without_a_step_has_no_speed_rather_than_zero():
    assert speed_row(cell_of(), outcome_of([], 0.0)) == {}


@given(st.lists(st.floats(0.001, 5), min_size=1, max_size=40))
def test_speeds_are_positive_whatever_the_steps(lengths):
    starts = [sum(lengths[:k]) for k in range(len(lengths))]
    row = speed_row(cell_of(), outcome_of([step(k, at) for k, at in enumerate(starts)], sum(lengths)))
    assert row["throughput_samples_per_s"] > 0
    assert 0 < row["step_time_s"] <= row["step_time_p95_s"] + 1e-12
    assert row["step_time_p95_s"] <= max(lengths) + 1e-9


# -- percentiles -------------------------------------------------------------------------------------------------------


def test_percentile_is_the_nearest_rank():
    values = list(range(1, 101))
    assert [percentile(values, share) for share in (0.0, 0.01, 0.5, 0.95, 1.0)] == [1, 1, 50, 95, 100]
    assert percentile([7], 0.95) == 7


@given(st.lists(st.floats(-1e6, 1e6), min_size=1), st.floats(0.01, 1))
def test_percentile_is_a_value_that_enough_of_the_others_do_not_exceed(values, share):
    found = percentile(values, share)
    assert found in values
    assert sum(v <= found for v in values) >= share * len(values) - 1e-9
    assert sum(v < found for v in values) < share * len(values)


# -- staleness ---------------------------------------------------------------------------------------------------------


def test_staleness_of_a_synchronous_strategy_is_known_to_be_zero():
    assert staleness_row(cell_of(), outcome_of([], 1.0)) == {"staleness_mean": 0.0, "staleness_p95": 0.0}


def test_staleness_of_an_asynchronous_one_is_measured_or_stays_out():
    cell = cell_of(sweep__strategy="async-ps")
    log = columns([push(k + 1, 0, k, 32, float(k), stale) for k, stale in enumerate([0, 1, 2, 5])], UPDATE_COLUMNS)
    assert staleness_row(cell, outcome_of([], 1.0, updates_log=log)) == {"staleness_mean": 2.0, "staleness_p95": 5.0}
    assert staleness_row(cell, outcome_of([], 1.0)) == {}


# -- convergence -------------------------------------------------------------------------------------------------------


def test_loss_curve_is_the_mean_over_workers_also_where_their_steps_differ():
    rows = [
        step(0, 0.0, worker=0, samples=16, loss=1.0),
        step(0, 0.0, worker=1, samples=15, loss=2.0),
        step(1, 1.0, worker=0, samples=16, loss=0.5),  # worker 1 was cut off before its second step
    ]
    assert loss_curve(outcome_of(rows, 2.0)) == [(31, 31, 1.5), (47, 16, 0.5)]


def test_a_worker_whose_own_batch_is_small_counts_by_its_samples():
    rows = [step(0, 0.0, worker=0, samples=30, loss=1.0), step(0, 0.0, worker=1, samples=10, loss=2.0)]
    done = outcome_of(rows, 1.0, facts={"batches": "own"})
    assert loss_curve(done) == [(40, 40, 1.25)]
    assert loss_curve(outcome_of(rows, 1.0)) == [(40, 40, 1.5)]  # shared ones are scaled for a plain mean


def test_the_training_loss_is_that_of_a_sample_so_that_a_small_last_batch_weighs_less():
    rows = [step(k, float(k), samples=32, loss=9.0) for k in range(18)]
    rows += [step(18, 18.0, samples=30, loss=1.0), step(19, 19.0, samples=10, loss=5.0)]
    marks = [Evaluation(576, 18, 18.0, 0.9, 0.5), Evaluation(616, 20, 20.0, 0.9, 0.5)]
    done = outcome_of(rows, 20.0, evaluations=marks)
    assert outcome_row(cell_of(), done, BUDGET)["train_loss"] == 2.0
    assert curve_table(done)["train_loss"] == [9.0, 2.0]


def test_samples_of_all_devices_count_from_the_same_step_on():
    rows = [step(k, float(k) + late, device=d, samples=16) for d, late in ((0, 0.0), (1, -0.01)) for k in range(20)]
    warm = make_cell(sweep__strategy="sync-ddp", sweep__gpus=[2], measure__warmup_steps=2)
    assert speed_row(warm, outcome_of(rows, 20.0))["throughput_samples_per_s"] == 32.0


def test_loss_curve_of_a_rank_without_losses_takes_those_that_have_them():
    rows = [step(0, 0.0, device=0, samples=32), step(0, 0.0, device=1, samples=0, loss=0.7)]
    assert loss_curve(outcome_of(rows, 1.0)) == [(32, 32, 0.7)]


def test_loss_curve_behind_a_server_follows_the_order_of_updates():
    rows = [step(k, float(k), worker=w, loss=10.0 * w + k) for w in (0, 1) for k in range(2)]
    pushes = [push(1, 1, 0, 32, 0.5), push(2, 0, 0, 32, 0.6), push(3, 1, 1, 13, 0.9)]
    done = outcome_of(rows, 2.0, updates_log=columns(pushes, UPDATE_COLUMNS))
    assert loss_curve(done) == [(32, 32, 10.0), (64, 32, 0.0), (77, 13, 11.0)]


def test_losses_that_are_no_numbers_stay_out_of_the_curve_but_their_samples_count():
    rows = [step(0, 0.0, loss=math.nan), step(1, 1.0, loss=1.0)]
    assert loss_curve(outcome_of(rows, 2.0)) == [(64, 32, 1.0)]


def test_curve_table_gives_each_mark_the_losses_since_the_mark_before():
    rows = [step(k, float(k), loss=float(k)) for k in range(4)]
    marks = [Evaluation(64, 2, 2.0, 0.9, 0.5), Evaluation(64, 2, 2.1, 0.9, 0.5), Evaluation(128, 4, 4.0, 0.4, 0.95)]
    table = curve_table(outcome_of(rows, 4.0, evaluations=marks))
    assert table["train_loss"] == [0.5, None, 2.5]
    assert table["samples"] == [64, 64, 128]
    assert table["validation_accuracy"] == [0.5, 0.5, 0.95]


def test_target_columns_speak_of_the_first_of_two_evaluations():
    marks = [Evaluation(32 * k, k, k / 10, 1.0, accuracy) for k, accuracy in enumerate([0.95, 0.5, 0.91, 0.92], 1)]
    row = outcome_row(cell_of(), outcome_of([], 1.0, evaluations=marks, samples=128, updates=4), BUDGET)
    assert (row["samples_to_target"], row["updates_to_target"], row["time_to_target_s"]) == (96, 3, 0.3)
    assert row["validation_accuracy"] == 0.92


def test_what_was_not_measured_is_none_and_never_zero():
    row = outcome_row(cell_of(), outcome_of([], 1.0), BUDGET)
    for name in (
        "validation_accuracy",
        "validation_loss",
        "test_accuracy",
        "train_loss",
        "time_to_target_s",
        "samples_to_target",
        "updates_to_target",
        "bubble_fraction",
        "bytes_sent_per_step",
        "dram_tensors_peak_bytes",
        "dram_allocated_peak_bytes",
        "dram_reserved_peak_bytes",
    ):
        assert row.get(name) is None, name


def test_a_run_whose_validation_rose_again_has_overfitted():
    losses = [2.0, 1.0, 0.4, 0.2, 0.1]
    steps = [step(k, float(k), loss=loss) for k, loss in enumerate(losses)]
    marks = zip([2.0, 0.8, 1.1, 1.2, 1.3], range(1, 6), strict=True)
    evaluations = [Evaluation(32 * k, k, float(k), loss, 0.5) for loss, k in marks]
    outcome = outcome_of(steps, 5.0, evaluations=evaluations, samples=160, updates=5)
    assert outcome_row(cell_of(), outcome, BUDGET)["fitting"] == "overfit"
    assert "fitting" not in outcome_row(cell_of(), replace(outcome, evaluations=evaluations[:2]), BUDGET)


def test_devices_cost_while_they_train_where_a_price_is_known():
    outcome = outcome_of([step(0, 0.0)], 1800.0, samples=32, updates=1)
    assert "cost" not in outcome_row(cell_of(), outcome, BUDGET)
    priced = cell_of(cost={"per_gpu_hour": "3 EUR"}, sweep__gpus=[4], sweep__strategy="sync-ddp")
    assert outcome_row(priced, outcome, BUDGET)["cost"] == pytest.approx(4 * 3 / 2)


def test_numbers_that_a_strategy_recorded_become_columns():
    row = outcome_row(
        cell_of(), outcome_of([], 1.0, recorded={"rounds": 3.0}, dram=CountedDram({"a": 5, "b": 7}, 11)), BUDGET
    )
    assert row["x_rounds"] == 3.0
    assert row["dram_tensors_peak_bytes"] == 11


# -- identity ----------------------------------------------------------------------------------------------------------


def test_cells_that_must_train_alike_share_a_trajectory_and_others_do_not():
    single, ddp, local = (
        cell_of(sweep__strategy=name, sweep__gpus=[gpus])
        for name, gpus in (("single", 1), ("sync-ddp", 2), ("local-sgd", 2))
    )
    assert trajectory_id(single) == trajectory_id(ddp) != trajectory_id(local)
    assert trajectory_id(single) != trajectory_id(replace(single, seed=1))


def test_identity_names_the_clock_of_the_engine():
    simulated, real = (identity_row(cell_of(engine=engine), "env") for engine in ("virtual", "real"))
    assert (simulated["engine"], simulated["clock"]) == ("virtual", "simulated")
    assert (real["engine"], real["clock"]) == ("real", "wall")
    assert real["environment"] == "env"


# -- speed-up ----------------------------------------------------------------------------------------------------------


def result(strategy: str, gpus: int, throughput: float | None, **columns_: Any) -> dict[str, Any]:
    row = {"strategy": strategy, "gpus": gpus, "throughput_samples_per_s": throughput, "engine": "real"}
    row |= {"device": "cpu", "precision": "fp32", "environment": "here", "global_batch_size": 32, "batch_size": 32}
    return row | columns_


def test_speedup_is_against_the_median_of_single_with_the_same_global_batch():
    rows = [result("single", 1, t) for t in (90.0, 100.0, 130.0)] + [result("sync-ddp", 2, 150.0, batch_size=16)]
    last = with_speedups(rows)[-1]
    assert last["speedup"] == pytest.approx(1.5)
    assert (last["speedup_base"], last["scaling"]) == ("single on 1, same global_batch_size", "strong")


def test_speedup_is_weak_where_only_the_batch_of_a_rank_is_the_same():
    rows = [result("single", 1, 100.0), result("sync-ddp", 2, 180.0, global_batch_size=64)]
    last = with_speedups(rows)[-1]
    assert (last["speedup_base"], last["scaling"]) == ("single on 1, same batch_size", "weak")


def test_speedup_without_single_is_against_the_fewest_devices_of_the_same_strategy():
    rows = [result("sync-ddp", n, 100.0 * n, batch_size=32 // n) for n in (2, 4)]
    speedups = with_speedups(rows)
    assert [row["speedup"] for row in speedups] == [1.0, 2.0]
    assert speedups[1]["speedup_base"] == "sync-ddp on 2, same global_batch_size"


@pytest.mark.parametrize("key", ["engine", "device", "precision", "environment", "swept cluster.inter_node"])
def test_speedup_never_compares_across(key):
    rows = [result("single", 1, 100.0, **{key: "one"}), result("sync-ddp", 2, 150.0, **{key: "other"})]
    assert with_speedups(rows)[1]["speedup_base"].startswith("sync-ddp on 2")


def test_a_row_without_throughput_has_no_speedup():
    assert "speedup" not in with_speedups([result("single", 1, None)])[0]


@given(st.lists(st.tuples(st.integers(1, 4), st.floats(0.1, 1e5)), min_size=1, max_size=12))
def test_every_speedup_is_positive_and_names_its_base(points):
    rows = with_speedups([result("single" if gpus == 1 else "sync-ddp", gpus, speed) for gpus, speed in points])
    for row in rows:
        assert row["speedup"] > 0
        assert " on " in row["speedup_base"]
        assert row["scaling"] in ("strong", "weak")
    ones = [row["speedup"] for row in rows if row["gpus"] == 1]
    assert not ones or statistics.median(ones) == pytest.approx(1.0, rel=1e-6) or len(ones) % 2 == 0


def test_the_target_is_read_off_a_rising_curve_that_ends_with_the_second_evaluation_at_it() -> None:
    seen = [(320, 0.5), (640, 0.7), (960, 0.91), (1280, 0.92)]
    goes_on = [*seen, (1600, 0.6), (1920, 0.95)]  # an asynchronous run does not stop at its target
    budget = Budget(10_000, None, None, 320, target_accuracy=0.9)
    rows = []
    for points in (seen, goes_on):
        evaluations = [Evaluation(s, s // 32, s * 1e-3, 0.5, accuracy) for s, accuracy in points]
        rows.append(convergence_row(Outcome(evaluations=evaluations), budget))
    assert rows[0]["samples_to_target"] == 960
    assert rows[0]["samples_to_target_fit"] == rows[1]["samples_to_target_fit"] == pytest.approx(942, abs=1)
    missed = Outcome(evaluations=[Evaluation(320, 10, 0.3, 0.5, 0.5)])
    assert "samples_to_target_fit" not in convergence_row(missed, budget)


def test_how_far_the_weights_moved_by_the_first_evaluation_is_kept_for_the_exam() -> None:
    first, second = Evaluation(320, 10, 0.3, 0.5, 0.5, 0.06), Evaluation(640, 20, 0.6, 0.4, 0.6)
    row = convergence_row(Outcome(evaluations=[first, second]), Budget(640, None, None, 320))
    assert (row["early_displacement"], row["early_samples"]) == (0.06, 320)
    assert "early_displacement" not in convergence_row(Outcome(evaluations=[second]), Budget(640, None, None, 320))
