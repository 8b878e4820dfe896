"""Traces of models that nobody here wrote, against the same models run with real tensors."""

from __future__ import annotations

import pytest
from lazy import lazy

from harness.workloads.entries import DataShape, Feature

torch = lazy("torch")
trace = lazy("harness.costs.tracing.trace")
samples = lazy("harness.costs.tracing.samples")
losses = lazy("harness.workloads.losses")
batches = lazy("harness.workloads.batches")

pytestmark = pytest.mark.slow

IMAGES, TEXT = DataShape(1, 32, 32, 10), DataShape(1, 1, 16, 64, 64, labels_per_token=True)
KIND = DataShape(1, 1, 16, 10, 64)
PAIR = DataShape(
    *(1, 1, 8, 64),
    features=(Feature("input_ids", (12,), "int64", 64), Feature("decoder_input_ids", (8,), "int64", 64)),
    target=Feature("", (8,), "int64", 64),
)
SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = {"vocab_size": 64, "pad_token_id": 0}
CASES = {
    "ViT": (IMAGES, "ForImageClassification", {**SMALL, "image_size": 32, "patch_size": 8, "num_channels": 1}),
    "ConvNext": (
        IMAGES,
        "ForImageClassification",
        {"num_channels": 1, "depths": [1, 1, 2, 1], "hidden_sizes": [8] * 4},
    ),
    "Bert": (KIND, "ForSequenceClassification", {**SMALL, **WORDS}),
    "GPT2": (TEXT, "LMHeadModel", {"vocab_size": 64, "n_positions": 32, "n_embd": 32, "n_layer": 4, "n_head": 4}),
    "Llama": (TEXT, "ForCausalLM", {**SMALL, **WORDS}),
    "Mixtral": (TEXT, "ForCausalLM", {**SMALL, **WORDS, "num_key_value_heads": 2, "num_local_experts": 4}),
    "T5": (PAIR, "ForConditionalGeneration", {**WORDS, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 4}),
}


def built(name):
    transformers = pytest.importorskip("transformers")
    _, head, options = CASES[name]
    classes = {"num_labels": 10} if head.endswith("Classification") else {}
    config = getattr(transformers, f"{name}Config")(**options, **classes)
    return getattr(transformers, name + head)(config)


def kept_bytes(model, shape, number):
    """Count by address what autograd keeps of one forward pass and its loss with real tensors."""
    inputs, targets = samples.drawn(shape, number, torch.float32)
    given = (*model.parameters(), *model.buffers(), *batches.tensors_of(inputs), targets)
    known = {tensor.untyped_storage().data_ptr() for tensor in given}
    kept = []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(storage)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        outputs = batches.outputs_of(batches.call(model, inputs))
        losses.weighted_loss("cross-entropy")(outputs, targets, 1 / number)
    return sum(storage.nbytes() for storage in kept)


@pytest.mark.parametrize("name", CASES)
def test_a_foreign_model_is_traced_block_by_block(name):
    shape = CASES[name][0]
    found = trace.trace_model(lambda: built(name), shape)
    assert "fake tensors" in found.origin
    model = built(name).train()
    assert found.parameters == sum(p.numel() for p in model.parameters())  # ties once
    blocks = [layer for layer in found.layers if layer.forward_flops.at(1) > 0]
    assert len(blocks) >= 4
    assert max(layer.parameters for layer in found.layers) < found.parameters / 2
    assert sum(len(layer.tensors) for layer in found.layers) == len(list(model.parameters()))
    assert sum(layer.activation_bytes.at(3) for layer in found.layers) == kept_bytes(model, shape, 3)
