"""Why steps differ: the one parameter that would account for it, recovered from steps that were made with it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.analysis.explain import explain_cells, explain_difference, solve
from harness.analysis.more_devices import explain_scaling, scaling_title
from harness.analysis.parameters import PARAMETERS
from harness.analysis.points import PART_NAMES, mean_update_s
from harness.core.words import figure

GIGABIT = 1e9 / 8
NODES, BUS = "cluster.inter_node.bandwidth", "cluster.intra_node.bandwidth"
NODES_LATENCY, BUS_LATENCY = "cluster.inter_node.latency", "cluster.intra_node.latency"
SPEED, SERVER, JITTER = "cluster.device.samples_per_second", "cluster.server.bandwidth", "faults.compute_jitter"
BY_KEY = {parameter.key: parameter for parameter in PARAMETERS}

CONFIGURED = {
    NODES: 25 * GIGABIT,
    BUS: 12e9,
    NODES_LATENCY: 30e-6,
    BUS_LATENCY: 0.0,
    SPEED: 50.0,
    JITTER: 0.0,
}
SAMPLES, GPUS, GRADIENT_BYTES = 256, 16, 1.34e9


def step(values: dict[str, float]) -> float:
    """A step of 16 devices, four to a node: computing in part hides the exchange, the slowest worker ends it."""
    compute = SAMPLES / GPUS / values[SPEED]
    inside = 2 * 3 / 4 * GRADIENT_BYTES / values[BUS] + 6 * values[BUS_LATENCY]
    between = 2 * 3 / 4 * GRADIENT_BYTES / values[NODES] + 60 * values[NODES_LATENCY]
    return compute * (1 + 1.77 * values[JITTER]) + max(0.0, inside + between - compute / 2)


def predict(overrides: Any) -> float:
    return step({**CONFIGURED, **overrides})


# -- one parameter -----------------------------------------------------------------------------------------------------


@settings(max_examples=200, derandomize=True)
@given(key=st.sampled_from(list(CONFIGURED)), share=st.floats(0.05, 0.95), slower=st.booleans())
def test_a_step_made_with_another_value_gives_that_value_back(key, share, slower):
    parameter, configured = BY_KEY[key], CONFIGURED[key]
    bound = parameter.bound(configured, slower)
    if bound == configured:  # less than none
        return
    made = (
        configured * (bound / configured) ** share if parameter.multiples else configured + share * (bound - configured)
    )
    observed = predict({key: made})
    accounts = {account.key: account for account in explain_difference(predict, CONFIGURED, observed)}
    if abs(observed - predict({})) <= 0.005 * predict({}):
        assert accounts == {}
        return
    # What the exchange hides changes nothing: then another value gives the same step, and that is an answer too.
    assert predict({key: accounts[key].value}) == pytest.approx(observed, rel=1e-4)
    assert accounts[key].configured == configured
    assert 0 <= accounts[key].plausibility <= 1


@settings(max_examples=100, derandomize=True)
@given(factor=st.floats(0.5, 3.0))
def test_every_account_gives_the_observed_step_and_stays_within_its_bounds(factor):
    observed = predict({}) * factor
    accounts = explain_difference(predict, CONFIGURED, observed)
    for account in accounts:
        assert predict({account.key: account.value}) == pytest.approx(observed, rel=1e-4)
        parameter = BY_KEY[account.key]
        ends = sorted(parameter.bound(account.configured, slower) for slower in (False, True))
        assert ends[0] <= account.value <= ends[1]
    assert [a.plausibility for a in accounts] == sorted((a.plausibility for a in accounts), reverse=True)


def test_the_finding_is_worded_with_both_values_and_where_to_look():
    observed = predict({NODES: 14 * GIGABIT})
    found = {a.key: a for a in explain_difference(predict, CONFIGURED, observed, samples=SAMPLES)}
    rate = figure(SAMPLES / observed)
    assert found[NODES].sentence == (f"14 Gb/s between nodes would explain {rate} samples/s (configured: 25 Gb/s).")
    assert "ethtool" in found[NODES].look_at
    assert found[JITTER].sentence.startswith("A compute jitter of ")
    assert found[JITTER].sentence.endswith("(configured: none).")


def test_how_a_value_came_about_is_said():
    (account,) = explain_difference(predict, {SPEED: 50.0}, 1.2 * predict({}), origins={SPEED: "measured here"})
    assert account.sentence.startswith("A device speed of ")
    assert " would explain a step of " in account.sentence
    assert account.sentence.endswith("(measured here: 50.0 samples/s).")


def test_a_slightly_lower_speed_is_believed_before_a_link_at_a_quarter():
    def mostly_computing(overrides: Any) -> float:
        values = {SPEED: 50.0, NODES: 25 * GIGABIT, **overrides}
        return 10 / values[SPEED] + 0.005 * 25 * GIGABIT / values[NODES]

    accounts = explain_difference(mostly_computing, {SPEED: 50.0, NODES: 25 * GIGABIT}, 1.08 * mostly_computing({}))
    assert [account.key for account in accounts] == [SPEED, NODES]
    assert accounts[0].value == pytest.approx(46.2, abs=0.1)


def test_what_nobody_would_believe_is_left_out():
    """A thousand times slower is no link, no clock and no jitter of this machine."""
    assert explain_difference(predict, CONFIGURED, 1000 * predict({})) == []


def test_what_does_not_act_on_the_step_is_left_out():
    accounts = explain_difference(predict, {**CONFIGURED, SERVER: 25 * GIGABIT}, 1.1 * predict({}))
    assert accounts
    assert SERVER not in {account.key for account in accounts}


def test_a_faster_step_than_predicted_is_explained_by_more_not_by_less():
    accounts = {a.key: a for a in explain_difference(predict, CONFIGURED, 0.97 * predict({}))}
    assert accounts[NODES].value > CONFIGURED[NODES]
    assert accounts[SPEED].value > CONFIGURED[SPEED]
    assert JITTER not in accounts  # less than none is nothing


def test_agreement_needs_no_explanation():
    assert explain_difference(predict, CONFIGURED, 1.004 * predict({})) == []


def test_solving_takes_few_predictions():
    """A prediction may interpret a pipeline table: a bisection's forty for each parameter would be felt."""
    calls = []

    def counted(overrides: Any) -> float:
        calls.append(overrides)
        return predict(overrides)

    explain_difference(counted, CONFIGURED, 1.3 * predict({}))
    assert len(calls) <= 8 * len(CONFIGURED)


@settings(max_examples=60, derandomize=True)
@given(kink=st.floats(0.0, 0.9), wanted=st.floats(0.05, 0.95))
def test_solving_finds_its_way_round_a_kink(kink, wanted):
    parameter = BY_KEY[NODES]

    def flat_then_steep(overrides: Any) -> float:
        slowness = 1 / overrides[NODES]  # 1 as configured, 20 at the bound
        return 1.0 + max(0.0, (slowness - 1) / 19 - kink) ** 2

    most = (1 - kink) ** 2
    value = solve(flat_then_steep, parameter, 1.0, 0.05, 1.0 + wanted * most)
    assert value is not None
    assert flat_then_steep({NODES: value}) == pytest.approx(1.0 + wanted * most, rel=1e-4)


# -- two cells ---------------------------------------------------------------------------------------------------------


def row(engine: str = "real", gpus: int = 4, batch: int = 256, steps: int = 10, **parts: float) -> dict[str, Any]:
    """A row of cells.csv; parts are seconds per update."""
    total = sum(parts.values())
    return {
        "strategy": "sync-ddp",
        "engine": engine,
        "device": "cuda",
        "gpus": gpus,
        "global_batch_size": batch,
        "steps": steps,
        "throughput_samples_per_s": batch / total,
        **{part: seconds * steps for part, seconds in parts.items()},
    }


def test_twins_stand_side_by_side_and_the_part_that_grew_is_named():
    virtual = row("virtual", compute_s=0.4, communication_s=0.2, idle_s=0.0)
    real = row("real", compute_s=0.41, communication_s=0.5, idle_s=0.01, other_s=0.02)
    found = explain_cells(virtual, real)
    assert [pair.name for pair in found.pairs] == [
        *("computing", "communication", "waiting for others", "other work", "whole step"),
    ]
    assert found.pairs[-1].first_s == pytest.approx(0.6)
    assert found.pairs[-1].second_s == pytest.approx(0.94)
    (sentence,) = found.sentences
    assert sentence == (
        "A step of sync-ddp on 4 GPUs takes 940 ms; one of sync-ddp on 4 simulated GPUs takes 600 ms. "
        "Most of the difference is communication (500 ms against 200 ms)."
    )


def test_parameters_of_the_part_that_was_measured_to_differ_come_first():
    virtual = row("virtual", gpus=16, compute_s=0.32, communication_s=predict({}) - 0.32)
    for grown, first in (("communication_s", NODES), ("compute_s", SPEED)):
        parts = {"compute_s": 0.32, "communication_s": predict({}) - 0.32}
        parts[grown] += 0.2 * predict({})
        accounts = explain_cells(virtual, row("real", gpus=16, **parts), predict, CONFIGURED).accounts
        acts_on = [BY_KEY[account.key].part == grown for account in accounts]
        assert acts_on == sorted(acts_on, reverse=True)
        assert first in {account.key for account, acts in zip(accounts, acts_on, strict=True) if acts}


def test_a_difference_that_no_figure_accounts_for_is_said_to_be_one():
    virtual = row("virtual", gpus=16, compute_s=0.32, communication_s=predict({}) - 0.32)
    far = explain_cells(virtual, row("real", gpus=16, compute_s=0.32, communication_s=900.0), predict, CONFIGURED)
    assert far.accounts == ()
    assert far.sentences[-1] == "No single plausible figure explains the difference."
    near = explain_cells(virtual, {**virtual, "engine": "real"}, predict, CONFIGURED)
    assert (near.accounts, len(near.sentences)) == ((), 1)


def test_two_measured_cells_get_no_account_of_a_misconfigured_cluster():
    found = explain_cells(row(gpus=4, compute_s=1.0), row(gpus=4, compute_s=2.0), predict, CONFIGURED)
    assert found.accounts == ()


def test_different_batches_are_compared_for_as_many_samples():
    small, large = row(batch=64, compute_s=0.1, communication_s=0.1), row(batch=256, compute_s=0.4, communication_s=0.1)
    found = explain_cells(small, large)
    assert found.pairs[-1].second_s == pytest.approx(0.125)
    assert "for the same number of samples" in found.sentences[0]
    assert "communication (25.0 ms against 100 ms)" in found.sentences[0]


def test_what_one_part_saves_and_another_adds_are_both_said():
    few, many = row(gpus=4, compute_s=2.0, communication_s=0.4), row(gpus=16, compute_s=0.5, communication_s=1.8)
    text = explain_cells(few, many).sentences[0]
    assert "communication adds 1.40 s" in text
    assert "Computing saves 1.50 s" in text


def test_nothing_is_said_of_what_was_not_measured():
    bare = {key: value for key, value in row(compute_s=1.0).items() if key not in PART_NAMES and key != "steps"}
    found = explain_cells(bare, row(compute_s=1.0))
    assert found.sentences == ()


def test_a_step_is_the_batch_over_the_throughput():
    assert mean_update_s(row(compute_s=2.0)) == pytest.approx(2.0)
    assert mean_update_s({"global_batch_size": 8}) is None


# -- more devices ------------------------------------------------------------------------------------------------------


def test_why_sixteen_are_no_faster_than_four():
    compute, exchange = SAMPLES / GPUS / 50.0, predict({}) - SAMPLES / GPUS / 50.0
    few = row(gpus=4, compute_s=4 * compute, communication_s=0.0, idle_s=0.05)
    many = row(gpus=16, compute_s=compute, communication_s=exchange)
    account = explain_scaling(few, many, predict, CONFIGURED)
    first, (bandwidth, batch) = account.reason, account.remedies
    assert account.sentences == (first, bandwidth, batch)
    assert first.startswith("Each step of 256 samples computes for 320 ms (1.28 s on 4 devices) and spends ")
    assert first.endswith(" (50.0 ms on 4 devices) on exchange and waiting.")
    assert scaling_title(few, many).startswith("Why sync-ddp is ")
    assert bandwidth.startswith("16 devices would be 90 % busy with ")
    needed = float(bandwidth.split("with ")[1].split(" Gb/s")[0])
    assert compute / predict({NODES: needed * GIGABIT}) == pytest.approx(0.9, rel=0.01)
    assert bandwidth.endswith(" Gb/s between nodes (configured: 25 Gb/s).")
    more = float(batch.split("busy at ")[1].split(" samples")[0].replace(",", ""))
    longer = compute * more / SAMPLES
    assert longer / (longer + exchange) == pytest.approx(0.9, rel=0.01)


def test_a_step_of_workers_that_take_turns_is_as_many_updates_long():
    few = row(gpus=1, compute_s=0.09, communication_s=0.01)
    many = row(gpus=2, compute_s=0.1, communication_s=0.008) | {"synchrony": "asynchronous", "workers": 2}
    assert explain_scaling(few, many).reason == (
        "Each worker's step of 256 samples computes for 200 ms (90.0 ms on 1 device) and spends 16.0 ms (10.0 ms on 1 "
        "device) on exchange and waiting."
    )


def test_stages_of_a_pipeline_wait_for_larger_steps_as_for_small_ones():
    few = row(gpus=1, compute_s=1.0, idle_s=0.0)
    one_at_a_time = row(gpus=2, compute_s=0.5, idle_s=0.5, communication_s=0.1) | {"pipeline": 2}
    assert explain_scaling(few, one_at_a_time).remedies == (
        "More samples per step would not help: stages wait in proportion to them. More micro-batches may.",
    )
    overlapped = row(gpus=2, compute_s=0.5, idle_s=0.02, communication_s=0.1) | {"pipeline": 2}
    (batch,) = explain_scaling(few, overlapped).remedies
    more = float(batch.split("busy at ")[1].split(" samples")[0].replace(",", "")) / SAMPLES
    assert 0.5 * more / (0.52 * more + 0.1) == pytest.approx(0.9, rel=0.01)


def test_what_no_bandwidth_buys_is_said():
    def latency_bound(overrides: Any) -> float:
        return 0.1 + 0.5 + 1e-3 * CONFIGURED[NODES] / overrides.get(NODES, CONFIGURED[NODES])

    few, many = row(gpus=4, compute_s=0.4), row(gpus=16, compute_s=0.1, communication_s=0.501)
    bandwidth, _ = explain_scaling(few, many, latency_bound, CONFIGURED).remedies
    assert bandwidth.startswith("More bandwidth would not help: latency alone keeps 16 devices below 90 % busy")


@pytest.mark.parametrize(
    ("seconds", "title"),
    [
        (2.0, "Why sync-ddp is slower on 16 devices than on 4 (0.5x)"),
        (0.5, "Why sync-ddp is only 2x as fast on 16 devices as on 4"),
    ],
)
def test_who_is_slower_is_not_called_hardly_faster(seconds, title):
    assert scaling_title(row(gpus=4, compute_s=1.0), row(gpus=16, compute_s=seconds)) == title


def test_devices_that_compute_most_of_the_time_need_nothing():
    few, many = row(gpus=4, compute_s=1.0, communication_s=0.01), row(gpus=16, compute_s=0.25, communication_s=0.02)
    account = explain_scaling(few, many, predict, CONFIGURED)
    assert account.reason
    assert not account.remedies


def test_weak_scaling_is_not_explained_as_if_it_were_strong():
    assert explain_scaling(row(gpus=4, batch=64, compute_s=1.0), row(gpus=16, batch=256, compute_s=1.0)).sentences == ()


@pytest.mark.parametrize(
    ("value", "text"), [(14.0, "14"), (205.4, "205"), (0.1234, "0.123"), (1234.5, "1,234"), (999.7, "1,000"), (0, "0")]
)
def test_figures_have_three_digits_and_no_exponent(value, text):
    assert figure(value) == text
    assert math.isfinite(value)
