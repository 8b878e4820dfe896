"""`ensemble`: predictions are averaged, not weights, and both engines judge the same."""

from __future__ import annotations

import pytest
from cells import make_cell
from hypothesis import given, settings
from hypothesis import strategies as st
from lazy import lazy
from trained import BATCHNORM, FP64, difference, real, seen, virtual

from harness.engines.shared.setup import make_setup

torch = lazy("torch")
losses = lazy("harness.workloads.losses")
virtual_engine = lazy("harness.engines.virtual.engine")

FEW = {"workload": FP64, "sweep__learning_rate": [0.05], "goal__max_epochs": 1.2}


def logits(seed: int, *shape: int) -> torch.Tensor:
    return 5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=20)
@given(seed=st.integers(0, 99), models=st.integers(1, 5), tokens=st.integers(1, 3), last=st.booleans())
def test_probabilities_of_classes_are_averaged_along_their_axis(seed, models, tokens, last):
    """Pixels have their classes second, tokens last."""
    each = [logits(seed + k, 4, tokens, 3) for k in range(models)]
    targets = torch.zeros(4, tokens, dtype=torch.int64)
    if not last:
        targets = torch.zeros(4, tokens, 2, dtype=torch.int64)
        each = [logits(seed + k, 4, 3, tokens, 2) for k in range(models)]
    axis = -1 if last else 1
    mean = losses.mean_prediction(each, targets, "cross-entropy")
    expected = torch.stack([torch.softmax(one, axis) for one in each]).mean(0)
    assert torch.allclose(torch.softmax(mean, axis), expected, rtol=1e-10)
    assert mean.shape == each[0].shape


def test_probabilities_of_yes_are_averaged_and_numbers_themselves():
    each, targets = [logits(k, 6) for k in range(3)], torch.zeros(6, dtype=torch.float64)
    mean = losses.mean_prediction(each, targets, "bce-with-logits")
    assert torch.allclose(torch.sigmoid(mean), torch.stack([torch.sigmoid(one) for one in each]).mean(0), rtol=1e-10)
    assert torch.equal(losses.mean_prediction(each, targets, "mse"), torch.stack(each).mean(0))


def test_an_ensemble_is_no_worse_than_its_members_on_average_and_is_not_their_mean():
    """The logarithm is concave: the loss of the mean prediction is at most the mean of the losses.

    Source: Jensen 1906; for squared errors Krogh and Vedelsby 1995, "Neural Network Ensembles", equation 6.
    """
    engine = virtual_engine.build(make_setup(make_cell(sweep__strategy="ensemble", sweep__gpus=[4], **FEW)))
    outcome, executor = engine.run(), engine.executor
    members = engine.model.members
    assert len(members) == 4
    alone = [executor.evaluate(member, "test")[0] for member in members]
    assert len(set(alone)) == 4
    assert outcome.test[0] < sum(alone) / 4
    mean_of_weights = executor.mean_model(members)
    assert executor.evaluate(mean_of_weights, "test") != outcome.test
    assert executor.evaluate(engine.model, "test") == outcome.test  # whatever was evaluated meanwhile


@pytest.mark.dist
@pytest.mark.parametrize("model", ["lenet5", BATCHNORM])
def test_both_engines_judge_the_same_predictions(model):
    changes = FEW | {"workload": FP64 | {"model": model}, "sweep__gpus": [2]}
    measured, simulated = real("ensemble", **changes), virtual("ensemble", **changes)
    assert difference(measured, simulated) == 0.0
    assert seen(measured) == seen(simulated)
    assert measured.test == pytest.approx(simulated.test, rel=1e-12)


def test_one_worker_is_plain_training():
    one, single = virtual("ensemble", sweep__gpus=[1], **FEW), virtual("single", sweep__gpus=[1], **FEW)
    assert difference(one, single) == 0.0
    assert one.test == single.test
