"""The heart: one strategy file, two clocks, the same weights."""

from __future__ import annotations

from functools import partial

import pytest
from cells import make_cell
from lazy import lazy
from places import TESTS
from trained import BATCHNORM, DROPOUT, FIFTY_STEPS, FP64, difference, real, seen, virtual

from harness.core.budget import Decision
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

virtual_engine = lazy("harness.engines.virtual.engine")

BROKEN = str(TESTS / "plugins" / "broken_programs.py")
AVERAGES = str(TESTS / "plugins" / "averages.py")

pytestmark = pytest.mark.dist

SYNCHRONOUS = {
    "single": {"sweep__gpus": [1]},
    "sync-ddp": {"sweep__gpus": [2]},
    "sync-ps": {"sweep__gpus": [2]},
    "local-sgd": {"sweep__gpus": [2]},
    "model-split": {"sweep__gpus": [2], "sweep__micro_batch_size": 8},
    "fsdp": {"sweep__gpus": [2]},
    "hybrid": {"sweep__gpus": [2], "sweep__micro_batch_size": 8, "strategy__hybrid": {"pipeline": 2}},
}


@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_real_equals_virtual_bit_for_bit_where_gradients_are_not_merged(strategy):
    changes = SYNCHRONOUS[strategy] | FIFTY_STEPS
    measured, simulated = real(strategy, **changes), virtual(strategy, **changes)
    assert measured.updates == simulated.updates == 82
    assert difference(measured, simulated) == 0.0
    assert seen(measured) == seen(simulated)
    assert measured.test == simulated.test


@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_real_equals_virtual_to_rounding_where_gradients_are_merged(strategy):
    changes = SYNCHRONOUS[strategy] | FIFTY_STEPS
    assert difference(real(strategy, **changes), virtual(strategy, merge=True, **changes)) < 1e-12


@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps", "model-split"])
def test_three_processes_equal_virtual_to_rounding(strategy):
    # 30 is 3 x 10; the last batch of an epoch has 3 samples, and 1,293 = 43 x 30 + 3.
    changes = {"sweep__gpus": [3], "sweep__global_batch_size": [30], "workload": FP64, "goal__max_epochs": 1.2}
    measured = real(strategy, **changes)
    assert measured.updates >= 50
    assert difference(measured, virtual(strategy, **changes)) < 1e-12


@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps", "model-split"])
def test_strategies_that_claim_to_equal_single_do(strategy):
    changes = SYNCHRONOUS[strategy] | FIFTY_STEPS
    single = virtual("single", **(FIFTY_STEPS | {"sweep__gpus": [1]}))
    assert difference(real(strategy, **changes), single) < 1e-12


def test_adam_clipping_and_accumulation_agree_on_both():
    changes = {
        "workload": FP64 | {"optimizer": {"name": "adam"}, "clip_norm": 0.5, "lr_schedule": "cosine", "lr_warmup": 0.5},
        "sweep__learning_rate": [0.003],
        "sweep__micro_batch_size": 4,
    }
    for strategy in ("single", "sync-ddp", "model-split", "local-sgd"):
        points = changes | {"sweep__gpus": [1 if strategy == "single" else 2]}
        assert difference(real(strategy, **points), virtual(strategy, **points)) < 1e-12, strategy


@pytest.mark.parametrize("workload", [FP64, FP64 | {"model": BATCHNORM}], ids=["lenet5", "batchnorm"])
def test_updates_are_logged_alike_on_both(workload):
    changes = {"sweep__gpus": [2], "workload": workload}
    measured, simulated = (run("sync-ps", **changes).updates_log for run in (real, virtual))
    for column in ("update", "base_version", "staleness", "samples", "parts"):
        assert simulated[column] == measured[column], column
    for column in ("small_square", "big_square"):
        one, other = ([square for square in log[column] if square is not None] for log in (measured, simulated))
        assert len(one) == 80
        assert other == pytest.approx(one, rel=1e-12), column


# -- asynchrony --------------------------------------------------------------------------------------------------------

THREE_WORKERS = {"sweep__gpus": [3], "sweep__learning_rate": [0.05], "workload": FP64}


def test_log_of_a_real_asynchronous_run_replays_bit_for_bit():
    measured = real("async-ps", **THREE_WORKERS)
    replayed = virtual("async-ps", script=measured.deliveries, **THREE_WORKERS)
    assert len(set(measured.updates_log["worker"])) == 3
    assert difference(measured, replayed) == 0.0
    for column in ("worker", "step", "base_version", "staleness", "samples", "parts", "small_square", "big_square"):
        assert replayed.updates_log[column] == measured.updates_log[column]
    assert seen(replayed) == seen(measured)


def test_order_of_messages_matters_to_the_replay():
    """Guards the test above: were any order good enough, it would prove nothing."""
    measured = real("async-ps", **THREE_WORKERS)
    assert difference(measured, virtual("async-ps", **THREE_WORKERS)) > 1e-6


@pytest.mark.parametrize("run", [real, virtual])
def test_applied_and_in_flight_staleness_add_up_exactly(run):
    """Every applied push makes the other workers' gradients older by one: the sum is (workers - 1) x pushes."""
    log = run("async-ps", **THREE_WORKERS).updates_log
    pushes = len(log["update"])
    last = {worker: update for worker, update in zip(log["worker"], log["update"], strict=True)}
    in_flight = sum(pushes - last.get(worker, 0) for worker in range(3))
    assert sum(log["staleness"]) + in_flight == (3 - 1) * pushes


def test_one_asynchronous_worker_equals_single_bit_for_bit():
    changes = {"sweep__gpus": [1], "workload": FP64}
    assert difference(real("async-ps", **changes), virtual("single", **changes)) == 0.0


# -- stops -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", SYNCHRONOUS)
def test_both_engines_stop_at_the_same_sample_at_the_target(strategy):
    changes = SYNCHRONOUS[strategy] | {"workload": FP64, "goal": {"target_accuracy": 0.5, "max_epochs": 6}}
    measured, simulated = real(strategy, **changes), virtual(strategy, **changes)
    assert measured.decision is simulated.decision is Decision.TARGET
    assert measured.samples == simulated.samples < 6 * 1293
    assert measured.samples == measured.evaluations[-1].samples
    assert difference(measured, simulated) == 0.0


@pytest.mark.parametrize("strategy", ["async-ps", "softsync"])
def test_an_asynchronous_run_stops_at_the_target_and_replays_up_to_it(strategy):
    changes = THREE_WORKERS | {"goal": {"target_accuracy": 0.5, "max_epochs": 20}}
    measured = real(strategy, **changes)
    replayed = virtual(strategy, script=measured.deliveries, **changes)
    assert measured.decision is replayed.decision is Decision.TARGET
    assert measured.samples == replayed.samples == measured.evaluations[-1].samples < 10 * 1293
    assert difference(measured, replayed) == 0.0
    assert seen(measured) == seen(replayed)
    assert len(measured.updates_log["update"]) == measured.updates


def test_workers_that_never_meet_end_where_their_mean_reached_the_target():
    changes = {"sweep__gpus": [2], "workload": FP64, "plugins": (AVERAGES,)}
    changes |= {"goal": {"target_accuracy": 0.5, "max_epochs": 6}, "sweep__strategy": "own-asynchronous"}
    measured = run_cell(make_cell(engine="real", **changes), [AVERAGES], options={"keep_weights": True})
    assert measured.finished, measured.reason
    simulated = virtual_engine.run_virtual(make_setup(make_cell(**changes), [AVERAGES]), merge=False)
    assert measured.outcome.decision is simulated.decision is Decision.TARGET
    assert measured.outcome.samples == simulated.samples == simulated.evaluations[-1].samples < 6 * 1293
    assert difference(measured.outcome, simulated) < 1e-12
    assert measured.outcome.training_s == measured.outcome.evaluations[-1].time_s


def test_a_deadlock_is_named_on_the_virtual_engine():
    setup = make_setup(make_cell(sweep__strategy="waits-forever", plugins=(BROKEN,)), [BROKEN])
    with pytest.raises(
        virtual_engine.Deadlock, match=r"worker 0 waits in receive\(-1\) from .*server waits in receive\(\) from"
    ):
        virtual_engine.run_virtual(setup)


def test_a_deadlock_is_named_on_the_real_engine():
    cell = make_cell(engine="real", sweep__strategy="waits-forever", plugins=(BROKEN,), limits={"cell_timeout": "60 s"})
    result = run_cell(cell, [BROKEN])
    assert (result.status, result.cause) == ("crashed", "deadlock")
    assert "worker 0 waits in receive(-1)" in result.reason
    assert "server waits in receive()" in result.reason


# -- layers that look across samples, or draw --------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["single", "sync-ddp", "sync-ps", "local-sgd"])
def test_batchnorm_agrees_on_both_buffers_included(strategy):
    changes = {"sweep__gpus": [1 if strategy == "single" else 2], "workload": FP64 | {"model": BATCHNORM}}
    measured, simulated = real(strategy, **changes), virtual(strategy, merge=True, **changes)
    assert difference(measured, simulated) == 0.0
    # The evaluation uses running statistics: equal accuracies at all marks need equal buffers.
    assert seen(measured) == seen(simulated)
    assert [e.validation_loss for e in measured.evaluations] == pytest.approx(
        [e.validation_loss for e in simulated.evaluations], rel=1e-12
    )


def test_batchnorm_in_an_asynchronous_run_replays_with_its_buffers():
    changes = {"sweep__gpus": [2], "workload": FP64 | {"model": BATCHNORM}}
    measured = real("async-ps", **changes)
    replayed = virtual("async-ps", script=measured.deliveries, **changes)
    assert difference(measured, replayed) == 0.0
    assert seen(measured) == seen(replayed)


@pytest.mark.parametrize("strategy", ["single", "sync-ddp", "local-sgd"])
def test_dropout_draws_the_same_masks_on_both(strategy):
    changes = {"sweep__gpus": [1 if strategy == "single" else 2], "workload": FP64 | {"model": DROPOUT}}
    assert difference(real(strategy, **changes), virtual(strategy, merge=True, **changes)) == 0.0


# -- mutations: each of these mistakes must show -----------------------------------------------------------------------


def test_naive_averaging_over_uneven_shards_is_caught(monkeypatch):
    from harness.engines.virtual import executor

    changes = {"sweep__gpus": [2], "workload": FP64}
    measured = real("sync-ps", **changes)
    assert difference(measured, virtual("sync-ps", **changes)) == 0.0

    class Naive(executor.Gradient):
        def __init__(self, compute, weights, indices, weight, origin, merged):
            even = 1 / max(1, len(indices))
            compute = partial(compute.func, weights, indices, even, origin)
            super().__init__(compute, weights, indices, even, origin, merged)

    monkeypatch.setattr(executor, "Gradient", Naive)
    assert difference(measured, virtual("sync-ps", **changes)) > 1e-6


def test_a_forgotten_buffer_is_caught(monkeypatch):
    from harness.engines.shared.replica import Replica

    changes = {"sweep__gpus": [2], "workload": FP64 | {"model": BATCHNORM}}
    measured = real("sync-ps", **changes)
    monkeypatch.setattr(Replica, "set_buffers", lambda self, vector: None)
    assert seen(measured) != seen(virtual("sync-ps", **changes))


def test_an_update_applied_after_the_stop_is_caught(monkeypatch):
    from harness.engines.virtual.endpoints import VirtualServer

    measured = real("async-ps", **THREE_WORKERS)
    apply = VirtualServer.apply

    def too_late(self, gradient, scale=1.0):
        if self.stopped:
            self.take_step(gradient, scale)
            self.arbiter.model = self.state
        return apply(self, gradient, scale)

    monkeypatch.setattr(VirtualServer, "apply", too_late)
    assert difference(measured, virtual("async-ps", script=measured.deliveries, **THREE_WORKERS)) > 1e-6


def test_averaging_by_samples_agrees_on_both():
    """The shards of 13 samples over 2 workers are 7 and 6: the weights differ from a plain mean."""
    changes = {"sweep__gpus": [2], "workload": FP64, "plugins": (AVERAGES,)}
    cell = make_cell(engine="real", sweep__strategy="by-samples", **changes)
    measured = run_cell(cell, [AVERAGES], options={"keep_weights": True})
    assert measured.finished, measured.reason
    setup = make_setup(make_cell(sweep__strategy="by-samples", **changes), [AVERAGES])
    simulated = virtual_engine.run_virtual(setup, merge=False)
    assert difference(measured.outcome, simulated) < 1e-12
    assert seen(measured.outcome) == seen(simulated)


@pytest.mark.parametrize("strategy", ["own-synchronous", "own-asynchronous"])
def test_batches_of_ones_own_without_a_server_see_the_same_marks_on_both(strategy):
    """Shards of 647 and 646 samples: marks and the end must still be common ones."""
    changes = {"sweep__gpus": [2], "workload": FP64, "plugins": (AVERAGES,)}
    cell = make_cell(engine="real", sweep__strategy=strategy, **changes)
    measured = run_cell(cell, [AVERAGES], options={"keep_weights": True})
    assert measured.finished, measured.reason
    setup = make_setup(make_cell(sweep__strategy=strategy, **changes), [AVERAGES])
    simulated = virtual_engine.run_virtual(setup, merge=False)
    assert [s for s, _, _ in seen(measured.outcome)] == [s for s, _, _ in seen(simulated)]
    assert difference(measured.outcome, simulated) < 1e-12


@pytest.mark.parametrize("strategy", ["elastic", "elastic-mean"])
def test_limits_hold_for_a_server_that_never_applies_a_gradient(strategy):
    changes = {"sweep__gpus": [2], "workload": FP64, "plugins": (AVERAGES,), "limits": {"cell_timeout": "60 s"}}
    cell = make_cell(engine="real", sweep__strategy=strategy, **changes)
    measured = run_cell(cell, [AVERAGES])
    assert measured.finished, measured.reason
    setup = make_setup(make_cell(sweep__strategy=strategy, **changes), [AVERAGES])
    simulated = virtual_engine.run_virtual(setup)
    if strategy == "elastic-mean":
        marks = [samples for samples, _, _ in seen(simulated)]
        assert [samples for samples, _, _ in seen(measured.outcome)] == marks
        assert marks[-1] == 2 * 1293
        assert simulated.evaluations[-1].validation_metric > 0.3
