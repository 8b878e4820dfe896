"""A model of the user's own trains as plain PyTorch would: its weights after steps in fp64, against loops of ours."""

from __future__ import annotations

import numpy as np
import pytest
from cells import make_cell
from plain_loops import SAME, apart, executed, plain, points, sgd
from trained import real, virtual

from harness.core.endings import Cause
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

MODELS = (
    *("frozen", "unused", "branches", "by_value", "tied", "reentrant", "reentrant_unused", "counter", "parametrized"),
    *("complex", "scalars", "half", "double_out", "in_place", "lazy", "drops", "numpy_noise", "batchnorm"),
)


@pytest.mark.parametrize("model", MODELS)
def test_one_device_trains_as_a_plain_loop_does(model):
    changes = points(model)
    assert apart(executed("single", changes), plain(changes, sgd)) < SAME


OVER_DEVICES = ("frozen", "unused", "tied", "reentrant", "scalars", "half", "double_out", "in_place", "lazy")


@pytest.mark.parametrize("model", OVER_DEVICES)
def test_synchronous_strategies_train_as_a_plain_loop_does(model):
    changes = points(model, gpus=2)
    assert apart(executed("sync-ddp", changes), plain(changes, sgd)) < SAME


def test_a_server_trains_as_a_plain_loop_does():
    for model in ("unused", "tied"):
        changes = points(model, gpus=2)
        assert apart(virtual("sync-ps", **changes).weights, plain(changes, sgd)) < SAME, model


@pytest.mark.dist
@pytest.mark.parametrize(
    "model", ["unused", "reentrant_unused", "complex", "counter", "branches", "drops", "numpy_noise"]
)
def test_ddp_trains_what_has_no_gradient_as_torch_leaves_it(model):
    changes = points(model, gpus=2)
    measured = real("sync-ddp", **changes)
    assert np.abs(np.asarray(measured.weights) - executed("sync-ddp", changes)).max() < SAME
    if model not in ("counter", "drops", "numpy_noise"):  # statistics and masks are each replica's own
        assert apart(measured.weights, plain(changes, sgd)) < SAME


@pytest.mark.dist
def test_what_ddp_cannot_follow_is_not_possible_under_ddp_alone():
    changes = points("reentrant_branches", gpus=2)
    result = run_cell(make_cell(engine="real", sweep__strategy="sync-ddp", **changes))
    assert result.cause is Cause.IMPOSSIBLE
    assert "call it with use_reentrant=False" in result.reason
    assert apart(real("sync-ps", **changes).weights, plain(changes, sgd)) < SAME


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own, while its compiler is imported
def test_a_compiled_model_is_tried_as_it_was_written():
    setup = make_setup(make_cell(sweep__strategy="single", **points("compiled")))
    replica = setup.replica()
    plain_one = make_setup(make_cell(sweep__strategy="single", **points("body")))
    plain_one.replica()
    assert setup.trial == plain_one.trial
    assert [name.removeprefix("_orig_mod.") for name in replica.names][:2] == ["a.weight", "a.bias"]
