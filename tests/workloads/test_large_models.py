"""Models that are worth several devices, and the text that language models read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from lazy import lazy
from pydantic import ValidationError

from harness.core.errors import InputError
from harness.workloads import harness_datasets, harness_models
from harness.workloads.entries import GPT_SIZES, DataShape, Model, seen_shape
from harness.workloads.large import TOKENS

torch = lazy("torch")
nn = lazy("torch.nn")
workload_data = lazy("harness.workloads.data")
batches = lazy("harness.workloads.batches")
losses = lazy("harness.workloads.losses")
transformers = lazy("harness.workloads.transformers")

MODELS = {model.name: model for model in harness_models()}
IMAGENET = DataShape(3, 224, 224, 1000)
TEXTS = DataShape(1, 1, 512, 2, 30522)
SMALL = {"layers": 2, "hidden": 16, "heads": 4}


def built(name: str, shape: DataShape, **options: Any) -> nn.Module:
    model = MODELS[name]
    return model.build(model.Options(**options), shape)


def next_tokens(width: int = 8, vocabulary: int = 11) -> DataShape:
    return DataShape(1, 1, width, vocabulary, vocabulary, labels_per_token=True)


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("alexnet", IMAGENET, 61_100_840),
        ("vgg16", IMAGENET, 138_357_544),
        ("resnet50", IMAGENET, 25_557_032),
        ("resnet101", IMAGENET, 44_549_160),
        ("resnet152", IMAGENET, 60_192_808),
        ("squeezenet1.0", IMAGENET, 1_248_424),
        ("bert-large", TEXTS, 335_143_938),
    ],
)
def test_parameters_are_those_that_were_published(name, shape, expected):
    with torch.device("meta"):
        assert sum(p.numel() for p in built(name, shape).parameters()) == expected


@pytest.mark.parametrize("name", sorted(MODELS))
def test_whether_a_model_has_batch_norm_is_told_of_what_it_builds(name):
    shape = {"bert-large": TEXTS, "gpt": next_tokens()}.get(name, DataShape(3, 64, 64, 10))
    options = {"gpt": {"vocabulary": 11, "sequence": 8}}.get(name, {})
    with torch.device("meta"):
        parts = built(name, shape, **options).modules()
        assert MODELS[name].batch_norm == any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in parts)


@pytest.mark.parametrize(
    ("size", "billions"),
    [
        *(("small", 0.125), ("medium", 0.35), ("large", 0.76), ("xl", 1.3)),
        *(("2.7b", 2.7), ("6.7b", 6.7), ("13b", 13), ("175b", 175)),
    ],
)
def test_gpt_sizes_have_their_published_counts(size, billions):
    shape = next_tokens(2048, 50257)
    with torch.device("meta"):
        module = built("gpt", shape, size=size)
    assert sum(p.numel() for p in module.parameters()) == pytest.approx(billions * 1e9, rel=0.05)


def test_gpt_small_is_gpt_2s_to_the_last_parameter_and_an_untied_head_has_its_own():
    shape = next_tokens(1024, 50257)
    with torch.device("meta"):
        tied, own = built("gpt", shape), built("gpt", shape, tied=False)
    assert sum(p.numel() for p in tied.parameters()) == 124_439_808
    assert tied.head.weight is tied.embedding.tokens.weight
    assert sum(p.numel() for p in own.parameters()) == 124_439_808 + 50257 * GPT_SIZES["small"].hidden


@pytest.mark.parametrize(("name", "side"), [("alexnet", 63), ("vgg16", 32), ("resnet50", 32), ("squeezenet1.0", 21)])
def test_image_models_train_on_the_smallest_images_they_take_and_on_none_below(name, side):
    model = MODELS[name]
    shape = seen_shape(DataShape(1, side, side, 3), model)
    outputs = built(name, shape)(torch.randn(2, 1, side, side))
    assert outputs.shape == (2, 3)
    outputs.square().sum().backward()
    with pytest.raises(InputError, match=rf"{side - 1} x {side - 1} pixels are too small for {name}"):
        seen_shape(DataShape(1, side - 1, side - 1, 3), model)


@pytest.mark.parametrize("name", ["gpt", "bert-large"])
@pytest.mark.parametrize("attention", ["fused", "eager"])
def test_language_models_are_cut_between_any_two_layers(name, attention):
    shape = next_tokens() if name == "gpt" else DataShape(1, 1, 8, 2, 11)
    options = {"vocabulary": 11, "positions": 8} if name == "bert-large" else {}
    torch.manual_seed(0)
    module = built(name, shape, attention=attention, **SMALL, **options).eval()
    values = tokens = torch.randint(11, (3, 8))
    for layer in module:
        values = layer(values)
    assert torch.equal(values, module(tokens))
    assert values.shape == ((3, 8, 11) if name == "gpt" else (3, 2))


def test_both_kinds_of_attention_compute_the_same_and_look_back_only():
    torch.manual_seed(0)
    fused, eager = (transformers.Attention(16, 4, 0.0, True, kind) for kind in ("fused", "eager"))
    eager.load_state_dict(fused.state_dict())
    values = torch.randn(2, 6, 16)
    torch.testing.assert_close(fused(values), eager(values))
    later = values.clone()
    later[:, 4:] += 1
    torch.testing.assert_close(fused(later)[:, :4], fused(values)[:, :4])
    assert not torch.allclose(fused(later)[:, 4:], fused(values)[:, 4:])


@pytest.mark.parametrize("ways", [2, 4])
@pytest.mark.parametrize("kind", ["fused", "eager"])
def test_attention_cut_by_heads_adds_up_to_the_whole(ways, kind):
    torch.manual_seed(0)
    whole = transformers.Attention(16, 4, 0.0, True, kind)
    values = torch.randn(2, 6, 16)
    total = torch.zeros(2, 6, 16)
    for part in range(ways):
        piece = transformers.Attention(16, 4, 0.0, True, kind)
        rows = 48 // ways
        piece.qkv.weight = nn.Parameter(whole.qkv.weight[part * rows : (part + 1) * rows])
        piece.qkv.bias = nn.Parameter(whole.qkv.bias[part * rows : (part + 1) * rows])
        columns = 16 // ways
        piece.out.weight = nn.Parameter(whole.out.weight[:, part * columns : (part + 1) * columns])
        piece.out.bias = nn.Parameter(whole.out.bias / ways)
        total = total + piece(values)
    torch.testing.assert_close(total, whole(values))


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="a width of 100 is not a multiple of 12 heads"):
        MODELS["gpt"].Options(hidden=100)


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("gpt", DataShape(1, 1, 8, 2, 11), 'set labels = "next"'),
        ("bert-large", next_tokens(), 'set labels = "kind"'),
        (
            "bert-large",
            DataShape(1, 1, 513, 2, 100),
            "have 513 tokens, and bert-large has 512 positions; set sequence = 512",
        ),
    ],
)
def test_data_that_does_not_fit_a_language_model_is_named(name, shape, said):
    with pytest.raises(InputError, match=said), torch.device("meta"):
        built(name, shape)


@pytest.mark.parametrize(("model", "shape"), [("gpt", IMAGENET), ("resnet50", TEXTS), ("mlp", TEXTS)])
def test_images_and_tokens_are_not_mixed_up(model, shape):
    entry: Model = MODELS[model]
    with pytest.raises(InputError, match=f"the model {model} reads {entry.takes}, the data set holds"):
        seen_shape(shape, entry)


# -- tokens ------------------------------------------------------------------------------------------------------------


def tokens(**options: Any):
    return TOKENS.load(TOKENS.Options(**options))


def test_tokens_are_what_their_size_says_and_the_same_every_time():
    options = TOKENS.Options(samples=30, test_samples=7, sequence=9, vocabulary=5)
    raw, size = TOKENS.load(options), TOKENS.size(options)
    assert (raw.shape, len(raw.train_inputs), len(raw.test_targets)) == (size.shape, 30, 7)
    assert raw.checksum == TOKENS.checksum(options)
    assert np.array_equal(raw.train_inputs, TOKENS.load(options).train_inputs)
    assert not np.array_equal(raw.train_inputs, tokens(samples=30, sequence=9, vocabulary=5, seed=1).train_inputs)


def test_labels_are_the_next_tokens_and_mostly_follow():
    raw = tokens(samples=200, sequence=50, vocabulary=20)
    assert np.array_equal(raw.train_inputs[:, 1:], raw.train_targets[:, :-1])
    pairs = np.zeros((20, 20))
    np.add.at(pairs, (raw.train_inputs.ravel(), raw.train_targets.ravel()), 1)
    assert pairs.max(axis=1).sum() / pairs.sum() == pytest.approx(0.75 + 0.25 / 20, abs=0.02)


def test_kinds_are_even_and_told_apart_by_their_chains():
    raw = tokens(samples=90, sequence=40, vocabulary=10, labels="kind", classes=3)
    assert raw.train_targets.shape == (90,)
    assert np.bincount(raw.train_targets).tolist() == [30, 30, 30]
    assert raw.shape == DataShape(1, 1, 40, 3, 10)


def test_data_keeps_tokens_as_numbers():
    data = workload_data.prepare(tokens(samples=20, sequence=6), None, 0.1, torch.float64)
    assert (data.train.inputs.dtype, data.train.inputs.shape) == (torch.int64, (18, 6))
    assert (data.train.targets.shape, data.validation.inputs.shape) == ((18, 6), (2, 6))
    assert (data.classes, data.vocabulary) == (64, 64)


def test_registered_beside_the_others():
    assert TOKENS.name in [dataset.name for dataset in harness_datasets()]


# -- losses over tokens ------------------------------------------------------------------------------------------------


def per_sample_loss(name):
    """Return each sample's loss, (n,): a weighted sum with all weight on one sample."""
    loss = losses.weighted_loss(name)
    return lambda outputs, targets: torch.stack([loss(outputs, targets, row) for row in torch.eye(len(targets))])


@pytest.mark.parametrize("name", ["cross-entropy", "mse"])
def test_a_samples_loss_is_the_mean_over_its_tokens(name):
    torch.manual_seed(0)
    outputs, targets = torch.randn(3, 4, 5, dtype=torch.float64), torch.randint(5, (3, 4))
    each = torch.stack([per_sample_loss(name)(o, t).mean() for o, t in zip(outputs, targets, strict=True)])
    torch.testing.assert_close(per_sample_loss(name)(outputs, targets), each)
    for weight in (1 / 3, 0.1, torch.tensor([0.5, 0.0, 0.25], dtype=torch.float64)):
        expected = (each * weight).sum()
        torch.testing.assert_close(losses.weighted_loss(name)(outputs, targets, weight), expected)


def test_accuracy_is_of_tokens():
    module = nn.Embedding(6, 6)
    module.weight = nn.Parameter(torch.eye(6))  # predicts the token itself
    inputs = torch.randint(6, (10, 4))
    targets = inputs.clone()
    targets[:, 0] = (targets[:, 0] + 1) % 6
    loss, accuracy = losses.evaluate(module, batches.Samples(inputs, targets), "cross-entropy", chunk=6)
    assert accuracy == 0.75
    expected = nn.functional.cross_entropy(module(inputs).flatten(0, 1), targets.flatten()).item()
    assert loss == pytest.approx(expected, rel=1e-6)


def test_a_small_gpt_learns_what_follows():
    torch.manual_seed(0)
    data = workload_data.prepare(tokens(samples=300, sequence=16, vocabulary=8), None, 0.1)
    module = built("gpt", next_tokens(16, 8), **SMALL)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        losses.weighted_loss("cross-entropy")(
            module(data.train.inputs), data.train.targets, 1 / data.num_train
        ).backward()
        optimizer.step()
    _, accuracy = losses.evaluate(module, data.validation, "cross-entropy")
    assert accuracy > 0.6  # guessing gives 0.125, knowing the chain 0.78
