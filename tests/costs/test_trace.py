"""Models traced with fake tensors, against the same models run with real ones."""

from __future__ import annotations

import json
import time

import pytest
from lazy import lazy

from harness.core.records import from_json, to_json
from harness.costs.profiles.shape import ModelShape
from harness.workloads import harness_models
from harness.workloads.entries import DataShape, seen_shape

torch = lazy("torch")
nn = lazy("torch.nn")
flop_counter = lazy("torch.utils.flop_counter")
trace = lazy("harness.costs.tracing.trace")
losses = lazy("harness.workloads.losses")

MODELS = {model.name: model for model in harness_models()}
DIGITS, COLOURS = DataShape(1, 28, 28, 10), DataShape(3, 32, 32, 10)
TEXT = DataShape(1, 1, 12, 11, 11, labels_per_token=True)
KIND = DataShape(1, 1, 12, 2, 11)
TINY = {"layers": 6, "hidden": 16, "heads": 4}
CASES = [
    ("softmax", DIGITS, {}),
    ("mlp", DIGITS, {"activation": "maxout"}),
    ("lenet5", DIGITS, {}),
    ("lenet5", DIGITS, {"form": "1998"}),
    ("resnet18", COLOURS, {}),
    ("resnet50", COLOURS, {}),
    ("gpt", TEXT, TINY),
    ("gpt", TEXT, {**TINY, "attention": "eager"}),
    ("bert-large", KIND, {**TINY, "dropout": 0.1, "vocabulary": 11, "positions": 12}),
]


def traced(name, shape, options, rules=None):
    model = MODELS[name]
    seen = seen_shape(shape, model)
    return trace.trace_model(lambda: model.build(model.Options(**options), seen), seen, rules)


def real_batch(shape: DataShape, samples: int) -> tuple[torch.Tensor, torch.Tensor]:
    targets = torch.zeros((samples, shape.width) if shape.labels_per_token else samples, dtype=torch.int64)
    if shape.vocabulary:
        return torch.zeros(samples, shape.width, dtype=torch.int64), targets
    return torch.randn(samples, shape.channels, shape.height, shape.width), targets


def counted(module: nn.Module, shape: DataShape, samples: int, autocast: bool = False) -> list[int]:
    """Count by address what real tensors autograd keeps, a storage at the first layer that keeps it."""
    inputs, targets = real_batch(shape, samples)
    known = {t.untyped_storage().data_ptr() for t in (*module.parameters(), *module.buffers(), inputs, targets)}
    kept, saved = [], []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(storage)
            saved[-1] += storage.nbytes()
        return tensor

    lower = torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), lower:
        for _, layer in module.named_children():
            saved.append(0)
            inputs = layer(inputs)
        losses.weighted_loss("cross-entropy")(inputs, targets, 1 / samples)
    return saved


@pytest.mark.parametrize(("name", "shape", "options"), CASES, ids=str)
@pytest.mark.parametrize("samples", [2, 5])
def test_a_trace_counts_what_real_tensors_take(name, shape, options, samples):
    model = MODELS[name]
    found, seen = traced(name, shape, options), seen_shape(shape, model)
    module = model.build(model.Options(**options), seen)
    assert [layer.name for layer in found.layers] == [name for name, _ in module.named_children()]
    assert [layer.activation_bytes.at(samples) for layer in found.layers] == counted(module, seen, samples)
    assert "fake tensors" in found.origin


def test_under_autocast_copies_of_weights_are_told_from_activations():
    model, seen = MODELS["gpt"], TEXT
    found = traced("gpt", TEXT, TINY, trace.Rules(precision="bf16"))
    module = model.build(model.Options(**TINY), seen)
    both = [layer.activation_bytes.at(3) + layer.copies_bytes for layer in found.layers]
    assert both == counted(module, seen, 3, autocast=True)
    weights = sum(part.weight.numel() for part in module.modules() if isinstance(part, nn.Linear))
    assert sum(layer.copies_bytes for layer in found.layers) == 2 * weights  # the head's too, tied as it is


@pytest.mark.parametrize(("name", "shape", "options"), CASES, ids=str)
def test_sizes_and_operations_are_the_models_own(name, shape, options):
    model = MODELS[name]
    found, seen = traced(name, shape, options), seen_shape(shape, model)
    module = model.build(model.Options(**options), seen)
    first = {p: name.partition(".")[0] for name, p in module.named_parameters()}  # a tied tensor counts once
    held = [[p for p in layer.parameters() if first[p] == name] for name, layer in module.named_children()]
    assert [layer.tensors for layer in found.layers] == [tuple(p.numel() for p in own) for own in held]
    assert [layer.rows for layer in found.layers] == [tuple(len(p) for p in own) for own in held]
    inputs, _ = real_batch(seen, 3)
    outputs = module(inputs)
    assert found.layers[-1].output_bytes.at(3) == outputs.numel() * 4
    if options.get("attention") == "eager" or not seen.vocabulary:  # torch does not count attention fused on CPU
        with flop_counter.FlopCounterMode(display=False) as counter:
            module(inputs)
        assert sum(layer.forward_flops.at(3) for layer in found.layers) == counter.get_total_flops()


def test_equal_layers_are_traced_once_and_count_as_if_all_were():
    few, many = (traced("gpt", TEXT, {**TINY, "layers": n, "attention": "eager"}) for n in (4, 40))
    assert len(many.layers) == 43
    blocks = {(layer.activation_bytes, layer.tensors, layer.workspace_bytes) for layer in many.layers[2:40]}
    assert len(blocks) == 1
    assert few.layers[2].activation_bytes == many.layers[20].activation_bytes
    assert len(many.timeline.passes) == 6


def test_equal_layers_that_shrink_their_input_are_all_traced():
    found = trace.trace_model(
        lambda: nn.Sequential(*[nn.MaxPool2d(2) for _ in range(5)], nn.Flatten(), nn.Linear(1, 2)),
        DataShape(1, 32, 32, 2),
    )
    assert "fake tensors" in found.origin
    assert [layer.output_bytes.at(1) for layer in found.layers[:5]] == [4 * 4**k for k in (4, 3, 2, 1, 0)]


def test_cuda_keeps_masks_of_a_byte_and_raises_softmax():
    shape = DataShape(1, 1, 12, 2, 11)
    options = {**TINY, "layers": 1, "dropout": 0.1, "vocabulary": 11, "positions": 12}
    block = {
        rules: traced("bert-large", shape, options, rules).layers[1].activation_bytes.per_sample
        for rules in (
            *(trace.Rules(), trace.Rules(device="cuda"), trace.Rules(precision="amp", device="cuda")),
            trace.Rules(device="cuda", keeps_softmax_input=True),
        )
    }
    scores, values = 4 * 12 * 12, 12 * 16
    cpu, cuda, amp, old = block.values()
    assert cpu - cuda == 3 * (scores + 2 * values)  # three masks, of four bytes and of one
    assert old - cuda == 4 * scores
    assert cuda == 9 * scores + (4 * 16 + 2) * values + 2 * 2 * 12 * 4  # probabilities, mask, what is left of them
    assert amp < cuda


def test_half_precision_parameters_are_traced_in_half():
    single, half = (traced("lenet5", DIGITS, {}, trace.Rules(precision=p)) for p in ("fp32", "fp16"))
    assert (single.element_bytes, half.element_bytes) == (4, 2)
    assert half.parameter_bytes * 2 == single.parameter_bytes
    assert traced("lenet5", DIGITS, {}, trace.Rules(precision="fp64")).element_bytes == 8


def test_tensor_parallelism_divides_a_block_but_not_what_stands_around_it():
    found = traced("gpt", TEXT, TINY)
    assert (found.layers[0].split, found.layers[0].activation_split) == (0.0, 0.0)
    h, s = 16, 12
    cut, whole = 12 * h * h + 7 * h, 12 * h * h + 13 * h
    assert found.layers[2].split == cut / whole
    # Korthikanti et al. 2022, section 4.2.1: inside attention and mlp is divided, norms and their inputs are not.
    kept = found.layers[2].activation_bytes.per_sample
    assert 0.5 < found.layers[2].activation_split < 1
    assert found.layers[2].activation_split * kept >= 4 * s * (3 * h + h + 8 * h)


def test_a_tied_tensor_counts_once_and_is_known_where_it_is_used_again():
    tied, own = (traced("gpt", TEXT, TINY | {"tied": tied}) for tied in (True, False))
    assert (tied.layers[-1].tensors, tied.layers[-1].shared) == ((), ((0, 0),))
    assert tied.layers[0].tensors[0] == 11 * 16
    assert all(layer.shared == () for layer in own.layers)
    assert own.parameters - tied.parameters == 11 * 16


def test_a_model_that_needs_real_tensors_is_run_with_them():
    class Looks(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, values):
            return self.linear(values.flatten(1)) * (1.0 if values.sum().item() == 0 else 2.0)

    state = torch.get_rng_state()
    found = trace.trace_model(Looks, DataShape(1, 2, 2, 2))
    assert (found.parameters, len(found.layers)) == (10, 1)
    assert "real tensors" in found.origin
    assert torch.equal(torch.get_rng_state(), state)


def test_a_shape_survives_json():
    found = traced("lenet5", DIGITS, {})
    again = from_json(ModelShape, json.loads(json.dumps(to_json(found))))
    assert again == found
    assert again.timeline is not None


def test_the_largest_model_is_traced_without_its_memory():
    shape = DataShape(1, 1, 2048, 50257, 50257, labels_per_token=True)
    began = time.process_time()
    found = traced("gpt", shape, {"size": "175b"}, trace.Rules(precision="bf16", device="cuda"))
    assert time.process_time() - began < 20  # 1 to 3 s on one core; as many GB as it has parameters would not fit
    assert found.parameters == pytest.approx(174.6e9, rel=0.001)
    assert len(found.layers) == 99
