"""Steps that are compiled or captured, fused updates and other orders in memory: they train what eager steps train."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from places import TESTS

from harness.analysis.cell_row import outcome_row
from harness.core.budget import Budget
from harness.core.cell import Cell, Named
from harness.core.errors import Impossible
from harness.engines.processes.launch import Result, run_cell
from harness.engines.processes.status import StatusBoard, StatusLine
from harness.engines.shared.setup import Setup, make_setup

torch = lazy("torch")
choose = lazy("harness.engines.real.layouts.choose")
captured = lazy("harness.engines.real.layouts.captured")
clock = lazy("harness.engines.real.clock")
execution = lazy("harness.engines.real.layouts.execution")
flat = lazy("harness.engines.shared.flat")
optimizers = lazy("harness.engines.shared.optimizers")
pieces_of = lazy("harness.engines.shared.pieces")
sample_order = lazy("harness.engines.shared.sample_order")
trained = lazy("trained")

EXACT = 1e-12
"""Largest difference of a weight after some steps in double precision, where sums are taken in another order."""

ROUNDING = 1e-6
"""The same in single precision, of weights below 1: a few units in the last place for each step."""


def setup_of(**workload: Any) -> Setup:
    sweep = {"sweep__strategy": "single", "sweep__global_batch_size": [30], "sweep__micro_batch_size": [15]}
    return make_setup(make_cell(engine="real", workload={"precision": "fp64", **workload}, **sweep))


def steps_of(setup: Setup, number: int = 6) -> Any:
    """Return the weights and buffers after steps at growing rates: as a process takes them, warm-up included."""
    runner = choose.make_runner(
        setup, clock.Ledger(torch.device("cpu"), 0, 0, StatusLine(StatusBoard(1).descriptor, 0, 1)), 0, 0
    )
    batches = list(itertools.islice(sample_order.shared_batches(0, setup.num_train, 30, 0, 1), 43 + 1))
    before = runner.replica.snapshot()
    runner.warm_up(batches[0])
    runner.replica.load(before)
    runner.settle()
    # The last batch of a pass has three samples: a size that the warm-up has not seen.
    for step, batch in enumerate([*batches[:number], batches[-1]]):
        gradients, loss, _ = runner.gradient(batch)
        assert loss.isfinite()
        value = flat.Flat(gradients, runner.replica.buffer_vector(), num_samples=len(batch.indices))
        runner.step(value, (step + 1) / 128)  # exact in single precision, in which a graph reads it
    final = runner.replica.snapshot()
    return torch.cat([final.tensor(), *([] if final.buffers is None else [final.buffers])])


def apart(one: Any, other: Any) -> float:
    return float((one - other).abs().max())


# -- CUDA graphs, on a stand-in for a device that has them -------------------------------------------------------------


@pytest.fixture
def graphs(monkeypatch):
    import recorded_graphs  # late: it imports torch

    monkeypatch.setattr("torch.get_device_module", lambda _: recorded_graphs)


OPTIMIZERS = {
    "sgd": {"name": "sgd"},
    "momentum": {"name": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "adam": {"name": "adam"},
    "adamw": {"name": "adamw"},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_captured_step_trains_what_an_eager_one_trains(optimizer, graphs):
    workload = {"model": "mlp", "optimizer": OPTIMIZERS[optimizer]}
    assert apart(steps_of(setup_of(**workload, step="cuda-graph")), steps_of(setup_of(**workload))) < EXACT


@pytest.mark.parametrize("model", ["batchnorm", "dropout"])
def test_a_graph_keeps_statistics_and_draws_as_eager_steps_do(model, graphs):
    workload = {"model": f"{TESTS}/models/small.py:{model}", "clip_norm": 0.1}
    assert apart(steps_of(setup_of(**workload, step="cuda-graph")), steps_of(setup_of(**workload))) < EXACT


def test_a_model_that_asks_for_values_is_not_captured(graphs):
    looks = setup_of(model=f"{TESTS}/models/own_models.py:by_value", step="cuda-graph")
    with pytest.raises(Impossible, match=r'workload.step = "cuda-graph": .*decides in Python'):
        steps_of(looks)
    loss = f"{TESTS}/models/own_models.py:smoothed"  # a mean: rows are picked by their weights
    with pytest.raises(Impossible, match="cannot be captured: operation not permitted when stream is capturing"):
        steps_of(setup_of(model="mlp", loss=loss, step="cuda-graph"))


# -- fused updates, order in memory, TF32 ------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, "adagrad"])
def test_a_fused_update_is_the_same(optimizer):
    chosen = OPTIMIZERS.get(optimizer, {"name": optimizer})
    fused = setup_of(model="mlp", optimizer={**chosen, "fused": True})
    assert fused.replica().optimizer.param_groups[0]["fused"] is True
    assert apart(steps_of(fused), steps_of(setup_of(model="mlp", optimizer=chosen))) < EXACT


def test_a_kernel_that_torch_does_not_have_ends_the_cell_in_words():
    module = torch.nn.Linear(2, 2, dtype=torch.complex64)
    with pytest.raises(Impossible, match=r"torch has no fused sgd for complex64 on cpu: .* Set fused = false"):
        optimizers.make_optimizer(module, Named("sgd", {"fused": True}))


@pytest.mark.parametrize("fused", [False, True])
def test_another_order_in_memory_trains_the_same(fused):
    workload = {"model": "lenet5", "optimizer": {"name": "sgd", "momentum": 0.9, "fused": fused}}
    other = setup_of(**workload, channels_last=True)
    replica = other.replica()
    inputs, _, _ = replica.gather(pieces_of.make_pieces(sample_order.first_rows(4, 100), 0.25, 4, pad=False)[0])
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in (inputs, *convolutions(replica)))
    assert not all(t.is_contiguous() for t in convolutions(replica))
    assert apart(steps_of(other), steps_of(setup_of(**workload))) < EXACT


def convolutions(replica: Any) -> list[Any]:
    return [p for p in replica.parameters if p.dim() == 4]


def test_weights_in_another_order_travel_as_all_others_do():
    """Averages, and gradients through a server, are flat: each finds its own numbers again."""
    for strategy in ("local-sgd", "sync-ps"):
        changes = {"sweep__gpus": [2], "goal": {"target_accuracy": "none", "max_steps": 10}}
        plain, other = (
            trained.virtual(strategy, workload={"model": "lenet5", "precision": "fp64", **more}, **changes)
            for more in ({}, {"channels_last": True})
        )
        assert trained.difference(plain, other) < EXACT


def test_tf32_is_torchs_own_switch():
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        for allowed in (True, False):
            captured.allow_tf32(allowed)
            assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is allowed
            captured.allow_tf32(None)
            assert torch.backends.cuda.matmul.allow_tf32 is allowed
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


# -- compiled steps ----------------------------------------------------------------------------------------------------


def cell_of(strategy: str, gpus: int, **workload: Any) -> Cell:
    goal = {"target_accuracy": "none", "max_steps": 45, "evaluate_every": "1 epoch"}
    sweep = {"sweep__strategy": strategy, "sweep__gpus": [gpus], "sweep__learning_rate": [0.02]}
    return make_cell(engine="real", workload=workload, goal=goal, **sweep)


def run(cell: Cell) -> Result:
    return run_cell(cell, options={"keep_weights": True})


def test_a_model_that_torch_does_not_compile_ends_its_cell_in_words(monkeypatch):
    from torch._dynamo.exc import TorchDynamoException

    def step() -> None:
        raise TorchDynamoException("no such thing")

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "set here, so that it is put back")
    monkeypatch.setattr("harness.engines.real.layouts.private.compile_each_size", lambda alone: None)
    monkeypatch.setattr("harness.engines.real.layouts.private.compiled_graphs", lambda: 0)
    compiled = execution.Compiled("mlp", [], torch.device("cpu"))
    with pytest.raises(Impossible, match=r"torch.compile fails on mlp: .*no such thing.* Set workload.step"):
        compiled.first(step)
    with pytest.raises(ZeroDivisionError):
        compiled.first(lambda: 1 / 0)  # of the model's own
    with pytest.raises(Impossible, match=r"torch.compile finds nothing in mlp"):
        compiled.settle()


@pytest.mark.dist
@pytest.mark.slow
def test_compiled_steps_train_what_eager_ones_train():
    """The 41st step is of 13 samples: computed eagerly, and nothing is compiled for it."""
    for strategy, gpus, model in (("single", 1, "lenet5"), ("sync-ddp", 2, "mlp")):
        cell = cell_of(strategy, gpus, model=model, step="compiled")
        compiled, eager = run(cell), run(cell_of(strategy, gpus, model=model))
        assert compiled.finished, compiled.reason
        assert trained.difference(compiled.outcome, eager.outcome) < ROUNDING
        row = outcome_row(cell, compiled.outcome, Budget.of(cell.goal, 1293))
        assert f"compiled: 1 graph of {model} before the clock started" in compiled.outcome.notes[-1]
        assert row["setup_s"] > row["compile_s"] > 10 * row["step_time_s"]
        assert "compile_s" not in eager.outcome.facts
