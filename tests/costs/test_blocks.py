"""The blocks of a module: what costs, sharding and pipelines take for its layers."""

from __future__ import annotations

import random

from lazy import lazy

np, torch = lazy("numpy"), lazy("torch")
nn = lazy("torch.nn")
models = lazy("models.chain_models")
fake_tensor = lazy("torch._subclasses.fake_tensor")
tracing = lazy("harness.costs.tracing")


def names(*args, **kwargs):
    return [name for name, _ in tracing.named_blocks(*args, **kwargs)]


def test_the_layers_of_a_sequential_are_its_blocks():
    layers = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.Sequential(nn.Tanh(), nn.Linear(4, 2)))
    assert names(layers, torch.zeros(2, 4)) == ["0", "1", "2"]


def test_a_list_is_opened_into_its_blocks_in_the_order_of_their_calls():
    expected = ["entry", "act", *(f"blocks.{k}" for k in range(8)), "head"]
    assert names(models.Blocks(), torch.zeros(3, 4)) == expected
    with fake_tensor.FakeTensorMode():
        assert names(models.Blocks(), torch.zeros(3, 4)) == expected


def test_an_object_that_stands_twice_is_one_block():
    act = nn.Tanh()
    layers = nn.Sequential(nn.Linear(4, 4), act, nn.Linear(4, 4), act, nn.Linear(4, 2))
    assert names(layers, torch.zeros(2, 4)) == ["0", "1", "2", "4"]


def test_more_blocks_are_found_where_more_are_asked_for():
    model = models.Blocks()
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
    model = models.Blocks()
    before, generator = model.blocks[0][1].running_mean.clone(), torch.get_rng_state()
    tracing.named_blocks(model, torch.randn(3, 4, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(model.blocks[0][1].running_mean, before)
    assert torch.equal(torch.get_rng_state(), generator)


def test_finding_blocks_leaves_the_generators_of_numpy_and_python_as_they_were():
    class Noisy(nn.Sequential):
        def forward(self, values):
            return super().forward(values + np.random.normal() + random.random())

    before = str(np.random.get_state()), random.getstate()
    tracing.named_blocks(Noisy(nn.Linear(4, 4), nn.Linear(4, 2)), torch.zeros(2, 4))
    assert (str(np.random.get_state()), random.getstate()) == before


def test_finding_blocks_leaves_counters_as_they_were():
    class Counting(nn.Sequential):
        calls = 0

        def forward(self, values):
            self.calls += 1
            return super().forward(values)

    model = Counting(nn.Linear(4, 4), nn.Linear(4, 2))
    model.calls = 3
    tracing.named_blocks(model, torch.zeros(2, 4))
    assert model.calls == 3
