"""A model of the user's own trains as plain PyTorch would: its weights after steps in fp64, against loops of ours."""

from __future__ import annotations

import numpy as np
import pytest
from plain_loops import SAME, apart, executed, plain, points, sgd
from trained import real, virtual

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
@pytest.mark.parametrize("model", ["unused", "reentrant_unused", "complex", "counter", "branches"])
def test_ddp_trains_what_has_no_gradient_as_torch_leaves_it(model):
    changes = points(model, gpus=2)
    measured = real("sync-ddp", **changes)
    assert np.abs(np.asarray(measured.weights) - executed("sync-ddp", changes)).max() < SAME
    if model != "counter":  # its statistics are each replica's own
        assert apart(measured.weights, plain(changes, sgd)) < SAME
