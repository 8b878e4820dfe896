"""What a cell is judged by: its metric, its direction, its target, and the words for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from plain_loops import FILE, executed, plain, points, sgd
from trained import virtual

from harness.analysis.answer import target_in_words
from harness.analysis.cell_row import curve_table, identity_row, outcome_row
from harness.analysis.judged_rows import judged_in_words, judged_value, metric_of
from harness.core.budget import Budget, Evaluation, Goal
from harness.core.errors import InputError, PluginError, Untrainable
from harness.core.metrics import Judged
from harness.engines.shared.setup import make_setup

torch = lazy("torch")
losses = lazy("harness.workloads.losses")
virtual_engine = lazy("harness.engines.virtual.engine")


def regression(**changes: Any) -> dict[str, Any]:
    given = {"dataset": f"{FILE}:numbers", "loss": "mse"} | changes.pop("workload_changes", {})
    return points("regressor", workload_changes=given, sweep__global_batch_size=[10], **changes)


def judged_row(**changes: Any) -> tuple[Any, dict[str, Any], Any]:
    cell = make_cell(engine="virtual", sweep__strategy="single", **changes)
    setup = make_setup(cell)
    outcome = virtual_engine.run_virtual(setup, merge=False)
    outcome.facts |= setup.model_facts()
    return setup, identity_row(cell, "env") | outcome_row(cell, outcome, setup.budget), outcome


def test_numbers_are_judged_by_their_squared_error_and_have_no_accuracy():
    goal = {"target": {"metric": "mse", "value": 1e-9}, "max_epochs": 2, "evaluate_every": "1 epoch"}
    setup, row, outcome = judged_row(**regression(goal=goal))
    module = setup.replica().module
    assert (row["validation_accuracy"], row["test_accuracy"]) == (None, None)
    assert (row["metric"], row["better"]) == ("mse", "lower")
    assert row["validation_metric"] == pytest.approx(row["validation_loss"])
    assert judged_in_words(row) == f"mean squared error {row['validation_metric']:.3g}"
    assert "accuracy" not in judged_in_words(row)
    table = curve_table(outcome)
    assert table["validation_metric"][-1] == row["validation_metric"]
    assert "validation_accuracy" not in table
    assert len(list(module.parameters())) == 4


def test_errors_are_means_over_all_numbers():
    samples = lazy("harness.workloads.batches").Samples(
        torch.arange(12.0).reshape(6, 2), torch.tensor([[0.0, 0], [2, 3], [4, 5], [6, 7], [8, 9], [10, 12]])
    )
    module = torch.nn.Identity()
    for name, wanted in {"mse": 2 / 12, "mae": 2 / 12}.items():
        metric = losses.Metric(Judged.of(name), asked=True)
        _, found = losses.evaluate(module, samples, "mse", chunk=4, metric=metric)
        assert found == pytest.approx(wanted)


def test_perplexity_is_of_the_targets_that_count():
    logits = torch.randn(4, 3, 5)
    targets = torch.tensor([[0, 1, -100], [2, -100, -100], [4, 4, 4], [1, 2, 3]])
    samples = lazy("harness.workloads.batches").Samples(logits, targets)
    metric = losses.Metric(Judged.of("perplexity"), asked=True)
    loss, found = losses.evaluate(torch.nn.Identity(), samples, "cross-entropy", chunk=3, metric=metric)
    wanted = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    assert found == pytest.approx(math.exp(wanted), rel=1e-5)
    assert loss == pytest.approx(float(wanted), rel=1e-5)


def test_a_metric_of_ones_own_sees_a_whole_split_at_once():
    given = {"metric": {"name": f"{FILE}:worst", "better": "lower"}}
    goal = {"max_epochs": 1, "evaluate_every": "1 epoch"}
    setup, row, _ = judged_row(**regression(workload_changes=given, goal=goal))
    assert (row["metric"], row["better"]) == (f"{FILE}:worst", "lower")
    assert judged_in_words(row).startswith("worst ")
    replica = setup.replica()
    with torch.no_grad():
        outputs = replica.module.eval()(setup.data.test.inputs).flatten()
    wanted = (outputs - setup.data.test.targets.flatten()).abs().max()
    assert replica.evaluate("test")[1] == pytest.approx(float(wanted))
    bad = regression(workload_changes={"metric": {"name": f"{FILE}:no_number", "better": "lower"}})
    with pytest.raises(PluginError, match="no_number: returned str, expected a number"):
        make_setup(make_cell(sweep__strategy="single", **bad)).replica().evaluate("test")


def test_a_target_is_met_from_the_side_that_is_better():
    lower = Budget.of(Goal(target_metric=12.0, evaluate_every=32), 100, Judged.of("perplexity"))
    assert lower.has_target
    assert lower.met_by(Evaluation(32, 1, 1.0, 2.0, 11.0))
    assert not lower.met_by(Evaluation(32, 1, 1.0, 2.0, 13.0))
    assert not lower.met_by(Evaluation(32, 1, 1.0, 2.0, math.nan))
    higher = Budget.of(Goal(target_metric=0.5, evaluate_every=32), 100, Judged.of("m.py:f1", "higher"))
    assert higher.met_by(Evaluation(32, 1, 1.0, 2.0, 0.6))
    assert not higher.met_by(Evaluation(32, 1, 1.0, 2.0, 0.4))


def test_one_form_of_the_target_says_what_three_keys_say():
    def goal_of(**target: Any) -> Any:
        return make_cell(sweep__strategy="single", goal={"target": target, "max_epochs": 1}).goal

    assert goal_of(metric="accuracy", value=0.9).target_accuracy == 0.9
    assert goal_of(metric="loss", value=0.3).target_loss == 0.3
    perplexity = make_cell(sweep__strategy="single", goal={"target": {"metric": "perplexity", "value": 3.0}})
    assert (perplexity.goal.target_metric, perplexity.workload.metric) == (3.0, "perplexity")
    assert perplexity.goal.target_accuracy is None  # not the data set's own beside it
    assert target_in_words([perplexity]) == "a perplexity of 3"
    with pytest.raises(InputError, match="did you mean perplexity"):
        goal_of(metric="perplexty", value=3)
    with pytest.raises(InputError, match="not several"):
        make_cell(sweep__strategy="single", goal={"target": {"metric": "loss", "value": 3.0}, "target_accuracy": 0.9})
    with pytest.raises(InputError, match=r"which is workload.metric, or \"loss\""):
        make_cell(
            sweep__strategy="single",
            workload={"metric": "perplexity"},
            goal={"target": {"metric": "mse", "value": 1.0}},
        )
    with pytest.raises(InputError, match=r"workload.metric is perplexity; write goal\.target"):
        make_cell(sweep__strategy="single", workload={"metric": "perplexity"}, goal={"target_accuracy": 0.9})
    with pytest.raises(InputError, match='better = "higher"'):
        make_cell(sweep__strategy="single", workload={"metric": f"{FILE}:worst"})


def test_an_accuracy_of_numbers_is_refused_with_what_to_write():
    changes = regression(goal={"target_accuracy": 0.9})
    with pytest.raises(
        Untrainable, match=r'numbers, of which there is no accuracy; write goal.target = \{ metric = "mse"'
    ):
        make_setup(make_cell(sweep__strategy="single", **changes))


def test_rows_without_a_metric_are_judged_by_accuracy():
    row = {"validation_accuracy": 0.9}
    assert (metric_of(row), judged_value(row), judged_in_words(row)) == (Judged(), 0.9, "accuracy 0.900")
    assert judged_in_words({"metric": "mse", "better": "lower", "validation_metric": None}) == ""
    assert Judged.of("mse").rank(1.0) < Judged.of("mse").rank(2.0) < Judged.of("mse").rank(None)
    assert Judged().rank(0.9) < Judged().rank(0.5)


def test_a_regression_trains_as_a_plain_loop_does():
    changes = regression()
    wanted = plain(changes, sgd, lambda o, t: torch.nn.functional.mse_loss(o.flatten(), t.flatten()))
    from plain_loops import SAME, apart

    assert apart(executed("single", changes), wanted) < SAME
    assert apart(executed("sync-ddp", changes | {"sweep__gpus": [2]}), wanted) < SAME
    assert virtual("single", **changes).test[1] > 0
