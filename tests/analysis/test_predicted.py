"""Predicted beside measured: which rows belong together, and how far a prediction was off."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from cells import make_cell
from constant_costs import constant_costs
from lazy import lazy

from harness.analysis.cell_row import outcome_row, stated_row
from harness.analysis.predicted import (
    HEAD,
    QUANTITIES,
    compare_observed,
    compare_twins,
    in_cells,
    point_names,
    summary,
)
from harness.core.cell import Observation
from harness.core.given_cluster import LinkFigures
from harness.core.outcome import CountedDram
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.sizes import Sizes

virtual_engine = lazy("harness.engines.virtual.engine")


def row(engine: str, seed: int = 0, **changes: Any) -> dict[str, Any]:
    base = {
        "cell_id": f"{engine}-{seed}-{changes.get('gpus', 2)}-{changes.get('strategy', 'sync-ddp')}",
        "strategy": "sync-ddp",
        "options": "{}",
        "engine": engine,
        "device": "cpu",
        "precision": "fp32",
        "gpus": 2,
        "nodes": 1,
        "batch_size": 16,
        "micro_batch_size": 16,
        "global_batch_size": 32,
        "learning_rate": 0.1,
        "lr_rule": "",
        "seed": seed,
        "status": "ok",
        "step_time_s": 0.010,
        "throughput_samples_per_s": 3200.0,
    }
    return base | changes


def named(comparisons: Any, quantity: str) -> Any:
    (found,) = [c for c in comparisons if c.quantity.name == quantity]
    return found


def test_twins_are_compared_by_medians_over_seeds():
    real = [row("real", seed, step_time_s=seconds) for seed, seconds in enumerate((0.010, 0.012, 0.020))]
    virtual = [row("virtual", seed, step_time_s=0.009) for seed in range(3)]
    found = named(compare_twins([*virtual, *real]), "step time")
    assert (found.predicted, found.measured) == (0.009, 0.012)
    assert found.error == pytest.approx(-0.25)
    assert (found.num_predicted, found.num_measured, found.spread) == (3, 3, (0.010, 0.020))


def test_every_quantity_that_both_have_is_compared_and_no_other():
    both = {"time_to_target_s": 2.0, "dram_tensors_peak_bytes": 2**20}
    rows = [row("real", **both, dram_allocated_peak_bytes=2**21), row("virtual", **both)]
    assert [c.quantity.name for c in compare_twins(rows)] == [
        "step time",
        "throughput",
        "time to target",
        "counted DRAM",
    ]
    assert len(QUANTITIES) == 5


@pytest.mark.parametrize(
    "changes",
    [
        {"gpus": 4},
        {"strategy": "sync-ps"},
        {"options": '{"steps": 4}'},
        {"global_batch_size": 64},
        {"learning_rate": 0.2},
        {"micro_batch_size": 8},
        {"precision": "bf16"},
        {"swept workload.model": "mlp"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_different_points_are_no_twins(changes):
    assert compare_twins([row("real"), row("virtual", **changes)]) == []


def test_nodes_of_a_simulated_cluster_do_not_part_twins():
    assert compare_twins([row("real"), row("virtual", nodes=2)])


def test_a_point_with_one_engine_only_is_not_compared():
    assert compare_twins([row("virtual"), row("virtual", seed=1)]) == []


@pytest.mark.parametrize(("measured", "inside"), [(0.0119, True), (0.0084, True), (0.0121, False), (0.0079, False)])
def test_a_measurement_is_inside_within_two_standard_deviations(measured, inside):
    rows = [row("virtual", stated_error=0.1, step_time_s=0.010), row("real", step_time_s=measured)]
    assert named(compare_twins(rows), "step time").inside is inside


def test_nothing_is_inside_what_was_not_stated():
    rows = [row("virtual"), row("real")]
    assert named(compare_twins(rows), "step time").inside is None


def test_the_uncertainty_of_times_is_not_put_upon_memory():
    sizes = {"dram_tensors_peak_bytes": 2**20}
    rows = [row("virtual", stated_error=0.1, **sizes), row("real", **sizes)]
    assert named(compare_twins(rows), "counted DRAM").stated is None


def test_observed_values_stand_beside_the_simulated_point():
    virtual = [
        row("virtual", seed, throughput_samples_per_s=230.0, step_time_s=1.1, stated_error=0.05) for seed in (0, 1)
    ]
    seen = (Observation(throughput_samples_per_s=205.0, source="a ticket"),)
    (found,) = compare_observed(virtual, {cell["cell_id"]: seen for cell in virtual})
    assert (found.predicted, found.measured, found.num_predicted, found.num_measured) == (230.0, 205.0, 2, 1)
    assert found.error == pytest.approx(230 / 205 - 1)
    assert found.inside is False
    assert found.source == "a ticket"
    assert "a ticket" in " ".join(in_cells(found))


def test_observed_step_times_are_compared_too_and_real_cells_predict_nothing():
    seen = (Observation(step_time_s=0.02),)
    cells = [row("virtual"), row("real")]
    (found,) = compare_observed(cells, {cell["cell_id"]: seen for cell in cells})
    assert (found.quantity.name, found.predicted, found.measured) == ("step time", 0.010, 0.02)


def test_a_comparison_is_written_with_units_spread_and_verdict():
    real = [row("real", seed, step_time_s=seconds) for seed, seconds in enumerate((0.010, 0.012, 0.020))]
    found = named(compare_twins([row("virtual", stated_error=0.05, step_time_s=0.009), *real]), "step time")
    assert in_cells(found) == (
        "sync-ddp on 2 CPU cores, global batch 32",
        "step time",
        "9.00 ms",
        "12.0 ms (n = 3, 10.0 ms to 20.0 ms)",
        "-25.0 %",
        "±10 %",
        "no",
    )
    assert len(in_cells(found)) == len(HEAD)


def test_a_point_is_named_with_what_sets_it_apart_from_others_of_its_strategy():
    swept = [row("real", 0, options='{"steps": 4, "same": 1}'), row("real", 1, options='{"steps": 8, "same": 1}')]
    assert point_names(swept)["real-0-2-sync-ddp"] == "sync-ddp on 2 CPU cores, global batch 32, steps 4"
    assert point_names([row("virtual")]) == {
        "virtual-0-2-sync-ddp": "sync-ddp on 2 simulated CPU cores, global batch 32"
    }


def test_the_summary_counts_errors_and_what_lay_inside():
    rows = []
    for gpus, measured in ((1, 0.0100), (2, 0.0110), (4, 0.0200)):
        rows += [
            row("virtual", gpus=gpus, stated_error=0.06, step_time_s=0.010),
            row("real", gpus=gpus, step_time_s=measured),
        ]
    lines = summary(compare_twins(rows))
    assert lines[0] == (
        "step time: median error 9.1 %, worst 50.0 % (3 points); 2 of 3 measurements lie inside the stated uncertainty"
    )


def outcome_with(errors: Any) -> Any:
    return SimpleNamespace(facts={"errors": errors} if errors else {})


def test_errors_of_parts_add_up_as_independent_ones():
    parts = {"compute_s": 3.0, "communication_s": 4.0, "idle_s": 9.0}
    assert stated_row(outcome_with((0.1, 0.1)), parts) == {"stated_error": pytest.approx(0.5 / 16)}
    waiting = math.hypot(0.3, 0.4, 0.9) / 16
    assert stated_row(outcome_with((0.1, 0.1, 0.1)), parts) == {"stated_error": pytest.approx(waiting)}
    alone = {"compute_s": 1.0, "communication_s": 0.0}
    assert stated_row(outcome_with((0.03, 0.5)), alone) == {"stated_error": pytest.approx(0.03)}


@pytest.mark.parametrize("errors", [None, (0.0, 0.0)])
def test_what_states_no_uncertainty_gets_none(errors):
    assert stated_row(outcome_with(errors), {"compute_s": 1.0, "communication_s": 0.5}) == {}


def test_a_simulated_cell_states_what_its_costs_state():
    """Half computing known to 6 %, half communication known to 8 %: together 5 %."""
    setup = make_setup(
        make_cell(sweep__strategy="sync-ddp", sweep__gpus=[2], goal={"target_accuracy": "none", "max_steps": 4})
    )
    costs = constant_costs(1.0, 0.0, 0.0, LinkFigures(0.0, 1000.0), 1000)
    costs = replace(costs, profile=replace(costs.profile, error=0.06), cluster=replace(costs.cluster, error=0.08))
    outcome = virtual_engine.build(setup, costs=costs, executor=Sizes(setup, 1000, 0, CountedDram)).run()
    row = outcome_row(setup.cell, outcome, setup.budget)
    assert row["compute_s"] == pytest.approx(row["communication_s"])
    assert row["stated_error"] == pytest.approx(0.05)
