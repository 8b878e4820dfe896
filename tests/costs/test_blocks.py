"""The blocks of a module: what costs, sharding and pipelines take for its layers."""

from __future__ import annotations

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.costs.tracing.blocks import named_blocks


class Blocks(nn.Module):
    """Eight equal blocks in a list between two ends, an activation without parameters, and a position of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Linear(4, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)) for _ in range(8))
        self.head = nn.Linear(8, 2)
        self.act = nn.Tanh()
        self.place = nn.Parameter(torch.zeros(8))

    def forward(self, values):
        values = self.act(self.entry(values)) + self.place
        for block in self.blocks:
            values = values + block(values)
        return self.head(values)


def names(*args, **kwargs):
    return [name for name, _ in named_blocks(*args, **kwargs)]


def test_the_layers_of_a_sequential_are_its_blocks():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    assert names(layers, torch.zeros(2, 4)) == ["0", "1", "2"]


def test_a_list_is_opened_into_its_blocks_in_the_order_of_their_calls():
    expected = ["entry", "act", *(f"blocks.{k}" for k in range(8)), "head"]
    assert names(Blocks(), torch.zeros(3, 4)) == expected
    with FakeTensorMode():
        assert names(Blocks(), torch.zeros(3, 4)) == expected


def test_an_object_that_stands_twice_is_one_block():
    act = nn.Tanh()
    layers = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))
    assert names(layers, torch.zeros(2, 4)) == ["0", "1", "2", "4"]


def test_more_blocks_are_found_where_more_are_asked_for():
    model = Blocks()
    assert len(names(model, torch.zeros(3, 4), fewest=12)) > 11
    assert "blocks.3.0" in names(model, torch.zeros(3, 4), opened=["blocks.3.0"])


def test_what_cannot_be_opened_is_one_block():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(4))

        def forward(self, values):
            return values * self.weight

    assert names(Bare(), torch.zeros(2, 4)) == ["model"]


def test_finding_blocks_leaves_buffers_and_random_numbers_as_they_were():
    model = Blocks()
    before, generator = model.blocks[0][1].running_mean.clone(), torch.get_rng_state()
    named_blocks(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(model.blocks[0][1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), generator)
