"""Pipelines of modules that are no plain list of layers, on real processes: they train what one device trains."""

from __future__ import annotations

from typing import Any

import pytest
from cells import make_cell
from lazy import lazy
from places import TESTS
from trained import FP64, difference, real, seen, virtual

from harness.core.endings import Status
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

sharded_layout = lazy("harness.engines.real.layouts.sharded")

FOREIGN = f"{TESTS}/models/foreign.py"

MODELS = ["tied", "skips", "again", "lstm", "shared_activation", "in_place"]


def changes(model: str, micro_batch_size: int = 20, **more: Any) -> dict[str, Any]:
    optimizer = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.01}
    return {
        "workload": FP64 | {"model": f"{FOREIGN}:{model}", "optimizer": optimizer, "clip_norm": 0.5},
        "sweep__learning_rate": [0.05],
        "sweep__global_batch_size": [60],
        "sweep__micro_batch_size": micro_batch_size,
        "goal": {"target_accuracy": 0.95, "max_steps": 10},
        **more,
    }


def pipeline(schedule: str = "1f1b", gpus: int = 2) -> dict[str, Any]:
    return {"sweep__gpus": [gpus], "strategy__model-split": {"schedule": schedule}}


@pytest.mark.dist
@pytest.mark.parametrize("model", MODELS)
def test_a_pipeline_of_any_module_trains_what_one_device_trains(model):
    alone = virtual("single", **changes(model))
    split = real("model-split", **changes(model), **pipeline())
    assert seen(split) == seen(alone)
    assert difference(split, alone) < 1e-9


@pytest.mark.dist
@pytest.mark.parametrize("model", ["tied", "skips"])
def test_uneven_micro_batches_are_cut_as_one_device_cuts_them(model):
    """The last batch of an epoch has 33 samples, which pass in 17 and 16."""
    many = changes(model, goal={"target_accuracy": 0.95, "max_steps": 24})
    assert difference(real("model-split", **many, **pipeline()), virtual("single", **many)) < 1e-9


@pytest.mark.dist
@pytest.mark.parametrize("schedule", ["gpipe", "interleaved-1f1b", "naive"])
@pytest.mark.parametrize("model", ["tied", "skips"])
def test_schedules_that_compute_whole_backward_passes_take_any_module(model, schedule):
    split = real("model-split", **changes(model, 10), **pipeline(schedule))
    assert difference(split, virtual("single", **changes(model, 10))) < 1e-9


@pytest.mark.dist
@pytest.mark.parametrize(
    ("model", "schedule", "reason"),
    [
        ("tied", "zb-1p", "zero-bubble schedules compute the gradients of weights apart"),
        ("alternating", "1f1b", "the order of calls changes between steps"),
        (
            "late",
            "1f1b",
            "the order of calls changed in training: call 1 was of b.1, in the trial before training of b.0",
        ),
    ],
)
def test_what_a_pipeline_cannot_do_is_said_and_is_no_crash(model, schedule, reason):
    cell = make_cell(engine="real", sweep__strategy="model-split", **changes(model), **pipeline(schedule))
    result = run_cell(cell)
    assert result.status is Status.NOT_POSSIBLE
    assert reason in str(result.reason)


@pytest.mark.dist
def test_random_draws_do_not_depend_on_where_the_model_is_cut():
    """Dropout by function between blocks, and by a layer inside of them: two and three stages draw the same masks."""
    two, three = (real("model-split", **changes("noisy"), **pipeline(gpus=gpus)) for gpus in (2, 3))
    assert difference(two, three) < 1e-9
    other = real("model-split", **changes("noisy", 30), **pipeline())
    assert difference(two, other) > 1e-3


@pytest.mark.dist
@pytest.mark.parametrize("model", ["tied", "skips"])
def test_replicated_pipelines_of_any_module_average_their_gradients(model):
    """Two replicas of two stages: weights that stages share are summed over stages and averaged over replicas."""
    spread = {"sweep__gpus": [4], "strategy__hybrid": {"data": 2, "pipeline": 2}}
    measured = real("hybrid", **changes(model, 10), **spread)
    assert difference(measured, virtual("hybrid", **changes(model, 10), **spread)) < 1e-9


@pytest.mark.dist
def test_recomputed_blocks_of_any_module_change_nothing():
    split = pipeline() | {"strategy__model-split": {"recompute": True}}
    assert difference(real("model-split", **changes("skips"), **split), virtual("single", **changes("skips"))) < 1e-9


# -- fsdp --------------------------------------------------------------------------------------------------------------


@pytest.mark.dist
@pytest.mark.parametrize("model", [*MODELS, "scaled"])
def test_fsdp_of_any_module_trains_what_one_device_trains(model):
    """BatchNorm's statistics are each replica's own: there the virtual cluster, which computes both, is the measure."""
    measured = real("fsdp", **changes(model, 15), sweep__gpus=[2])
    expected = (
        virtual("fsdp", **changes(model, 15), sweep__gpus=[2])
        if model == "skips"
        else virtual("single", **changes(model, 15))
    )
    assert difference(measured, expected) < 1e-9


@pytest.mark.parametrize(
    ("model", "units"),
    [
        ("tied", ["middle.1", "middle.2", "head"]),
        ("scaled", ["entry", "blocks.0", "blocks.2", "blocks.3", "head"]),
        ("lstm", ["1", "3"]),
    ],
)
def test_blocks_are_gathered_each_for_itself_unless_somebody_else_uses_their_weights(model, units):
    replica = make_setup(make_cell(sweep__strategy="single", **changes(model))).replica()
    assert [name for name, _ in sharded_layout.units_of(replica)] == units
