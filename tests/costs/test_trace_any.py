"""Traces of modules that are no plain sequence: block by block, and never a reason for anything to fail."""

from __future__ import annotations

import random

import pytest
from lazy import lazy

from harness.core.not_known import Hurdle, NotKnown
from harness.workloads.entries import DataShape, Feature

np = lazy("numpy")
torch = lazy("torch")
nn = lazy("torch.nn")
functional = lazy("torch.nn.functional")
checkpoint = lazy("torch.utils.checkpoint")
trace = lazy("harness.costs.tracing.trace")

VECTOR = DataShape(1, 1, 16, 4)
"""Samples of 16 numbers."""
WIDTH = 16


def traced(build, shape=VECTOR, **rules):
    return trace.trace_model(build, shape, trace.Rules(**rules))


def block():
    return nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))


def residual(inner):
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = inner

        def forward(self, values):
            return values + self.inner(values)

    return Residual()


def as_sequence(depth=6):
    layers = [nn.Flatten(), nn.Linear(16, WIDTH), *(residual(block()) for _ in range(depth)), nn.Linear(WIDTH, 4)]
    return nn.Sequential(*layers)


def as_list(depth=6, repeat=None, wrap=lambda outputs: outputs):
    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry = nn.Sequential(nn.Flatten(), nn.Linear(16, WIDTH))
            self.blocks = nn.ModuleList(residual(block()) for _ in range(depth))
            self.head = nn.Linear(WIDTH, 4)

        def forward(self, values):
            values = self.entry(values)
            for one in self.blocks:
                values = repeat(one, values) if repeat else one(values)
            return wrap(self.head(values))

    return Listed()


def figures(layer):
    kept = (layer.tensors, layer.rows, layer.activation_bytes, layer.output_bytes)
    return (*kept, layer.workspace_bytes, layer.forward_flops)


def names(found):
    return [layer.name for layer in found.layers]


def test_blocks_of_a_list_are_traced_as_those_of_a_sequence():
    chain, listed = traced(as_sequence), traced(as_list)
    assert names(listed) == ["entry", *(f"blocks.{k}" for k in range(6)), "head"]
    assert [figures(layer) for layer in listed.layers[1:]] == [figures(layer) for layer in chain.layers[2:]]
    assert listed.parameters == chain.parameters
    assert listed.timeline.layers[2:6] == (listed.timeline.layers[2],) * 4  # equal ones share what is kept
    moments = [
        sum(
            event.kind == "gradient"
            for passes in shape.timeline.layers
            for event in shape.timeline.passes[passes].backward
        )
        for shape in (listed, chain)
    ]
    assert moments == [2 * 2 + 6 * 6] * 2


@pytest.mark.parametrize("kind", ["logits", "dict", "tuple"])
def test_what_a_model_returns_may_be_an_object_a_dict_or_a_tuple(kind):
    class Output:
        def __init__(self, logits):
            self.logits = logits

    wrap = {"logits": Output, "dict": lambda x: {"logits": x}, "tuple": lambda x: (x, None)}[kind]
    assert traced(lambda: as_list(wrap=wrap)).layers == traced(as_list).layers


@pytest.mark.parametrize("reentrant", [False, True])
def test_a_checkpointed_block_keeps_only_its_input(reentrant):
    def repeat(one, values):
        return checkpoint.checkpoint(one, values, use_reentrant=reentrant)

    plain, saving = traced(as_list), traced(lambda: as_list(repeat=repeat))
    kept = [sum(layer.activation_bytes.at(8) for layer in shape.layers) for shape in (saving, plain)]
    assert kept[0] < kept[1] / 4
    assert [layer.forward_flops for layer in saving.layers] == [layer.forward_flops for layer in plain.layers]
    assert saving.parameters == plain.parameters


def test_a_weight_that_two_layers_share_is_counted_once():
    class Tied(nn.Module):
        def __init__(self, tied):
            super().__init__()
            self.words, self.middle = nn.Embedding(11, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
            self.head = nn.Linear(8, 11, bias=False)
            if tied:
                self.head.weight = self.words.weight

        def forward(self, tokens):
            values = self.words(tokens)
            for one in self.middle:
                values = torch.relu(one(values))
            return self.head(values)

    text = DataShape(1, 1, 6, 11, 11, labels_per_token=True)
    tied, apart = (traced(lambda kind=kind: Tied(kind), text) for kind in (True, False))
    assert tied.parameters == apart.parameters - 88 == 88 + 4 * 72
    assert sum("head" in layer.name for layer in tied.layers) == 1

    def sequence():
        layers = nn.Sequential(nn.Flatten(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Linear(16, 4))
        layers[3].weight = layers[1].weight
        return layers

    assert traced(sequence).parameters == 16 * 16 + 16 + 16 + 16 * 4 + 4


def test_what_is_frozen_has_no_gradient_and_is_no_trainable_tensor():
    def frozen():
        model = as_list()
        for parameter in model.blocks[2].parameters():
            parameter.requires_grad_(False)
        return model

    found, whole = traced(frozen), traced(as_list)
    assert found.layers[3].tensors == ()
    assert found.layers[3].buffers_bytes == 4 * sum(whole.layers[3].tensors)
    of_block = found.timeline.of(3)
    assert not [event for event in of_block.backward if event.kind == "gradient"]


def test_parameters_outside_of_blocks_belong_to_the_block_that_uses_them_first():
    class Loose(nn.Module):
        def __init__(self):
            super().__init__()
            self.entry, self.body = nn.Linear(16, 16), nn.ModuleList(nn.Linear(16, 16) for _ in range(8))
            self.place, self.never = nn.Parameter(torch.zeros(5, 16)), nn.Parameter(torch.zeros(3))
            self.head = nn.Linear(16, 4)

        def forward(self, values):
            values = self.entry(values.flatten(1))
            for number, one in enumerate(self.body):
                values = one(values) + (self.place[0] if number == 3 else 0)
            return self.head(values)

    found = traced(Loose)
    held = dict(zip(names(found), (layer.tensors for layer in found.layers), strict=True))
    assert held["body.3"] == (256, 16, 80)
    assert held["entry"] == (256, 16, 3)
    assert found.parameters == sum(p.numel() for p in Loose().parameters())


def test_a_block_that_is_called_again_and_again_counts_each_time_but_holds_its_weights_once():
    class Albert(nn.Module):
        def __init__(self, calls):
            super().__init__()
            self.entry, self.block, self.head = nn.Linear(16, WIDTH), residual(block()), nn.Linear(WIDTH, 4)
            self.calls = calls

        def forward(self, values):
            values = self.entry(values.flatten(1))
            for _ in range(self.calls):
                values = self.block(values)
            return self.head(values)

    once, often = traced(lambda: Albert(1)), traced(lambda: Albert(5))
    assert often.parameters == once.parameters
    flops = [sum(layer.forward_flops.at(1) for layer in shape.layers) for shape in (once, often)]
    of_block = 2 * 2 * 4 * WIDTH * WIDTH
    assert flops[1] - flops[0] == 4 * of_block


def test_what_skips_blocks_is_handed_on_by_all_of_them():
    class Unet(nn.Module):
        def __init__(self):
            super().__init__()
            for name, inputs in (("down", 16), ("deep", 16), ("mid", 16), ("up", 32)):
                setattr(self, name, nn.Linear(inputs, 16))
            self.join = nn.Bilinear(16, 16, 4)

        def forward(self, values):
            first = self.down(values.flatten(1))
            values = self.mid(self.deep(first))
            return self.join(self.up(torch.cat([values, values], 1)), first)

    found = {layer.name: layer for layer in traced(Unet).layers}
    assert {name: found[name].output_bytes.at(1) for name in ("down", "deep", "mid", "up", "join")} == {
        "down": 64, "deep": 128, "mid": 128, "up": 128, "join": 16,
    }  # fmt: skip
    assert [event.kind for event in traced(Unet).timeline.of(0).backward].count("gradient") == 2


def test_recurrent_layers_hand_tuples_on():
    class Last(nn.Module):
        def forward(self, pair):
            return pair[0][:, -1]

    found = traced(lambda: nn.Sequential(nn.Flatten(2), nn.LSTM(16, 8, batch_first=True), Last(), nn.Linear(8, 4)))
    assert [layer.parameters for layer in found.layers] == [0, 4 * 8 * (16 + 8 + 2), 0, 36]
    assert "fake tensors" in found.origin


@pytest.mark.parametrize("dtype", ["fp32", "fp64", "bf16"])
def test_lazy_layers_find_their_sizes_first(dtype):
    def build():
        return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(4))

    found = traced(build, precision=dtype)
    assert [layer.parameters for layer in found.layers] == [0, 136, 16, 0, 36]


def test_parameters_in_other_types_are_converted_as_a_cell_converts_them():
    found = traced(lambda: as_list().half())
    assert found.layers == traced(as_list).layers
    assert traced(lambda: as_list().double()).element_bytes == 4


def test_sparse_gradients_are_gradients():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(50, 8, sparse=True), nn.Linear(8, 4)

        def forward(self, tokens):
            return self.head(self.words(tokens).mean(1))

    assert traced(Words, DataShape(1, 1, 6, 4, 50)).parameters == 50 * 8 + 36


def test_complex_weights_are_two_numbers_each():
    class Waves(nn.Module):
        def __init__(self):
            super().__init__()
            self.wave, self.head = nn.Parameter(torch.ones(9, dtype=torch.complex64)), nn.Linear(16, 4)

        def forward(self, values):
            return self.head(torch.fft.irfft(torch.fft.rfft(values.flatten(1)) * self.wave, n=16))

    for precision in ("fp32", "fp64"):
        assert traced(Waves, precision=precision).parameters == 2 * 9 + 68


def test_inputs_by_keyword_and_numbers_to_be_met():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.numbers, self.head = nn.Embedding(30, 8), nn.Linear(5, 8), nn.Linear(8, 2)

        def forward(self, numbers, tokens, mask):
            return {"logits": self.head(self.numbers(numbers) + (self.words(tokens) * mask[..., None]).sum(1))}

    features = (Feature("numbers", (5,)), Feature("tokens", (7,), "int64", 30), Feature("mask", (7,), "bool"))
    shape = DataShape(1, 1, 7, 0, features=features, target=Feature("", (2,)))
    for looks in (False, True):
        found = traced(lambda looks=looks: by_value(Mixed()) if looks else Mixed(), shape, loss="mse")
        assert ("real tensors" in found.origin) == looks
        assert names(found)[0] == "numbers"
        assert found.parameters == 240 + 48 + 18
        assert found.input_bytes.at(10) == 10 * (5 * 4 + 7 * 8 + 7)


def by_value(model):
    """Return a model that cannot be run without values."""
    forward = model.forward

    def looking(*args, **kwargs):
        float(sum(value.sum() for value in (*args, *kwargs.values())).item())
        return forward(*args, **kwargs)

    model.forward = looking
    return model


def test_pixels_may_have_a_class_each():
    class Unet(nn.Module):
        def __init__(self):
            super().__init__()
            self.down, self.norm = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4)
            self.up, self.out = nn.ConvTranspose2d(4, 4, 2, 2), nn.Conv2d(5, 3, 1)

        def forward(self, image):
            return self.out(torch.cat([self.up(torch.relu(self.norm(self.down(image)))), image], 1))

    shape = DataShape(1, 8, 8, 3, target=Feature("", (8, 8), "int64", 3))
    found = traced(Unet, shape)
    assert names(found) == ["down", "norm", "up", "out"]
    assert "fake tensors" in found.origin


# -- what fake tensors cannot do ---------------------------------------------------------------------------------------


def looking_build():
    model = as_list()
    model.rate = float(torch.linspace(0, 1, 3)[1])  # a value, while it is built
    return model


def test_a_build_that_looks_at_values_is_traced_without_them():
    found = traced(looking_build)
    assert "fake tensors" in found.origin
    assert found.layers == traced(as_list).layers


class Experts:
    """Two experts, each for the samples that a gate sends it: by `nonzero`, whose length only values tell."""

    def __new__(cls):
        class Mixture(nn.Module):
            def __init__(self):
                super().__init__()
                self.gate, self.experts = nn.Linear(16, 2), nn.ModuleList(nn.Linear(16, 16) for _ in range(2))
                self.head = nn.Linear(16, 4)

            def forward(self, values):
                values = values.flatten(1)
                chosen, mixed = self.gate(values).argmax(1), torch.zeros_like(values)
                for number, expert in enumerate(self.experts):
                    rows = (chosen == number).nonzero().flatten()
                    mixed = mixed.index_add(0, rows, expert(values[rows]))
                return self.head(mixed)

        return Mixture()


def by_item(values):
    return float(values.sum().item())


def by_numpy(values):
    return float(np.abs(values.detach().numpy()).sum())


@pytest.mark.parametrize("look", [by_item, by_numpy])
def test_a_model_that_needs_values_is_run_with_them(look):
    found = traced(lambda: as_list(wrap=lambda outputs: outputs * (1.0 + 0.0 * look(outputs))))
    assert "real tensors" in found.origin
    assert names(found) == names(traced(as_list))
    assert found.parameters == traced(as_list).parameters


def test_experts_are_traced_with_samples_that_differ():
    found = traced(Experts)
    assert "real tensors" in found.origin
    assert found.parameters == 34 + 2 * 272 + 68
    assert found.layers[0].name == "gate"
    assert len(found.layers) == 4


def test_a_model_that_cannot_run_is_not_known_and_says_why():
    def broken():
        raise KeyError("weights.bin")

    found = traced(broken)
    assert isinstance(found, NotKnown)
    assert found.hurdle is Hurdle.BUILD
    assert "weights.bin" in found.reason
    found = traced(lambda: nn.Linear(7, 4))
    assert isinstance(found, NotKnown)
    assert found.hurdle is Hurdle.STEP
    assert "shapes" in found.reason


@pytest.mark.parametrize("build", [looking_build, Experts, as_list], ids=["looks", "experts", "list"])
def test_a_trace_leaves_generators_and_a_module_that_is_handed_out_as_they_were(build):
    with torch.random.fork_rng(devices=[]):
        model = build()
    norm = nn.BatchNorm1d(16)
    model.add_module("norm", norm)
    model.eval()
    original = model.forward
    model.forward = lambda values: original(norm(values.flatten(1)) + 0.0 * float(random.random()))
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    before = {name: (value, value.clone()) for name, value in tensors.items()}
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    found = traced(lambda: model, precision="fp64")
    assert found.element_bytes == 8
    after = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, (tensor, value) in before.items():
        assert after[name] is tensor
        assert torch.equal(tensor, value)
        assert tensor.grad is None
    assert not any(part.training for part in model.modules())
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
