"""What one training step tells of a model and its data, before anybody has written a scenario."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import host
from lazy import lazy

from harness.core.errors import PluginError

np, torch = lazy("numpy"), lazy("torch")

TRAIN = """
import torch
from torch import nn

def plain(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, classes))

def colours():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 100))

class Tied(nn.Module):
    def __init__(self, vocabulary):
        super().__init__()
        self.embed, self.head = nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary)
        self.blocks = nn.ModuleList(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(3))
        self.head.weight, self.unused = self.embed.weight, nn.Linear(2, 2)
        self.blocks[0][1].bias.requires_grad_(False)

    def forward(self, tokens):
        values = self.embed(tokens)
        for block in self.blocks:
            values = values + block(values)
        return {"logits": self.head(values)}

def text(vocabulary):
    return Tied(vocabulary)

class Anything(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.out = nn.LazyLinear(classes)

    def forward(self, samples):
        return self.out(samples.float().flatten(1))

class Read(Anything):
    def __init__(self, classes, vocabulary):
        super().__init__(classes)

def row():
    return nn.Linear(20, 3)

def broken():
    raise KeyError("no such size")
"""

DATA = """
import numpy as np

def numbers():
    return np.ones((40, 20)), np.linspace(0, 1, 120).reshape(40, 3), np.ones((8, 20)), np.ones((8, 3)) / 3

def several():
    marks = np.arange(40)[:, None] % np.array([2, 3, 5]) == 0
    return np.ones((40, 20)), marks.astype(float), np.ones((8, 20)), marks[:8].astype(float)

def classes():
    return np.ones((40, 20)), np.arange(40) % 3, np.ones((8, 20)), np.arange(8) % 3
"""


@pytest.fixture
def look(tmp_path: Path):
    """Return a look at functions of the two files above."""
    from harness.engines.shared.look_at import look_at

    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "data.py").write_text(DATA)
    return lambda model, data=None: look_at(f"train.py:{model}", data and (f"data.py:{data}", {}), tmp_path, host())


def test_a_plain_sequence_on_the_digits(look):
    found = look("plain")
    model, data = found.model, found.data
    assert (data.name, data.proposed, data.classes, data.inputs[0].shape) == ("digits", True, 10, (1, 8, 8))
    assert (model.parameters, model.tensors) == (64 * 8 + 8 + 16 + 90, 6)
    assert model.batch_norms == ("2",)
    assert model.draws
    assert [block.parameters for block in model.blocks] == [0, 520, 16, 0, 90]
    assert (model.chain, model.most_stages, model.outputs, model.result) == (True, 3, (10,), "")
    assert found.loss == "cross-entropy"


def test_the_data_proposed_have_the_channels_and_classes_of_the_model(look):
    found = look("colours")
    assert (found.data.name, found.data.options["channels"], found.data.classes) == ("synthetic", 3, 100)


def test_another_class_of_the_file_that_asks_for_a_vocabulary_makes_no_text_of_it(look):
    assert look("Anything").data.name == "digits"
    assert look("Read").data.name == "tokens"  # which would train on images too


def test_ties_frozen_and_unused_parameters_of_a_model_of_text(look):
    found = look("text")
    model = found.model
    assert found.data.name == "tokens"
    assert model.ties == (("embed.weight", "head.weight"),)
    assert model.frozen == ("blocks.0.1.bias",)
    assert model.without_gradient == ("unused.weight", "unused.bias")
    assert [block.name for block in model.blocks] == ["embed", "blocks.0", "blocks.1", "blocks.2", "head"]
    assert (model.chain, model.result, model.normalises, model.draws) == (False, '["logits"]', True, False)


@pytest.mark.parametrize(
    ("data", "loss"), [("numbers", "mse"), ("several", "bce-with-logits"), ("classes", "cross-entropy")]
)
def test_the_loss_fits_the_targets(look, data, loss):
    found = look("row", data)
    assert found.loss == loss
    assert found.data.inputs[0].shape == (20,)
    assert found.step_s > 0


def test_a_model_that_takes_no_built_in_data_says_so_for_each(look):
    with pytest.raises(PluginError, match="takes none of the data that ship with the harness") as refused:
        look("row")
    assert all(name in str(refused.value) for name in ("digits", "synthetic", "tokens", "--data FILE.py:FUNCTION"))


def test_a_model_that_fails_by_itself_says_its_line_once(look):
    with pytest.raises(PluginError, match=r"train\.py:\d+: KeyError: 'no such size'") as refused:
        look("broken")
    assert "takes none" not in str(refused.value)


def test_a_look_leaves_the_random_generators_alone(look):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    look("plain")
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
