"""Models that do not take their data: which layer raised, what it got, and what to change."""

from __future__ import annotations

from pathlib import Path

import pytest
from cells import make_cell
from lazy import lazy

from harness.core.errors import Misfit
from harness.engines.shared.setup import make_setup

torch = lazy("torch")
misfit = lazy("harness.engines.shared.misfit")

TRAIN = """
import torch
from torch import nn


class Gpt(nn.Module):
    def __init__(self, vocabulary, places):
        super().__init__()
        self.tokens, self.head = nn.Embedding(vocabulary, 8), nn.Linear(8, vocabulary)
        self.places = nn.Embedding(places, 8)

    def forward(self, x):
        return self.head(self.tokens(x) + self.places(torch.arange(x.shape[1])))


class Added(Gpt):
    def __init__(self, vocabulary, places):
        super().__init__(vocabulary, places)
        self.places = nn.Parameter(torch.zeros(places, 8))

    def forward(self, x):
        return self.head(self.tokens(x) + self.places[: x.shape[1]])


class Asserting(Gpt):
    def forward(self, x):
        assert x.shape[1] <= 20, "too long"
        return super().forward(x)


def few_places(vocabulary):
    return Gpt(vocabulary, 48)


def added(vocabulary):
    return Added(vocabulary, 47)


def asserting(vocabulary):
    return Asserting(vocabulary, 64)


def few_rows():
    return Gpt(63, 64)


def fractions():
    return nn.Linear(64, 64)


def colours():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))


def other_size():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(2704, 10))


def seven():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))


def of_tokens():
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(256, 10))


def lazy():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(10))


def normal():
    return nn.Sequential(nn.Flatten(), nn.BatchNorm1d(32), nn.Linear(64, 10))
"""

SAID = {
    ("few_places", "tokens"): ("places (Embedding) got (64,)", "at most 48 places", "set sequence = 48 in workload"),
    ("added", "tokens"): ("its own forward got (2, 64) int64", "at most 47 places", "set sequence = 47 in workload"),
    ("asserting", "tokens"): ("AssertionError: too long", "at most 20 places"),
    ("few_rows", "tokens"): ("tokens (Embedding)", "it has 63 rows and was asked for row 63", "`vocabulary`"),
    ("fractions", "tokens"): ("got (2, 64) int64", "computes with fractions and got whole numbers", "Embedding"),
    ("colours", "digits"): ("layer 0 (Conv2d) got (2, 1, 8, 8)", "takes 3 channels", "digits have 1", "`channels`"),
    ("other_size", "digits"): ("layer 2 (Linear) got (2, 144)", "takes 2704 features", "LazyLinear"),
    ("seven", "digits"): ("outputs of shape (2, 10)", "got (2, 7)", "10 outputs", "`classes`"),
    ("of_tokens", "digits"): ("layer 0 (Embedding)", "takes whole numbers and got fractions"),
    ("lazy", "digits"): ("fails on inputs of shape (2, 1, 8, 8)", "layer 0 (Conv2d)", "takes 3 channels"),
    ("normal", "digits"): ("layer 1 (BatchNorm1d) got (2, 64)", "takes 32 channels"),
}


@pytest.mark.parametrize(("model", "data"), SAID)
def test_a_model_that_does_not_take_its_data_is_told_where_and_what_to_change(model, data, tmp_path: Path):
    (tmp_path / "train.py").write_text(TRAIN)
    cell = make_cell(sweep__strategy="single", workload={"model": f"{tmp_path / 'train.py'}:{model}", "dataset": data})
    with pytest.raises(Misfit) as caught:
        make_setup(cell).refuse_misfit()
    for words in SAID[model, data]:
        assert words in str(caught.value)


def test_the_most_places_are_found_by_trying_and_none_where_length_is_not_the_matter():
    class Short(torch.nn.Module):
        def forward(self, input_ids, attention_mask):
            assert input_ids.shape[1] <= 11
            assert input_ids.shape == attention_mask.shape

    class Moody(torch.nn.Module):
        def forward(self, x):
            raise ValueError("never")

    ones = torch.ones(2, 32, dtype=torch.int64)
    assert misfit.most_places(Short(), {"input_ids": 7 * ones, "attention_mask": ones}) == 11
    assert misfit.most_places(Moody(), ones) == 0
    assert misfit.most_places(torch.nn.Embedding(7, 2), 9 * ones) == 0  # a matter of tokens
    assert misfit.most_places(torch.nn.Linear(3, 2), torch.ones(2, 32)) == 0
