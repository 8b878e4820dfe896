"""Rows of memory, and of what a model's arithmetic amounts to."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from harness.costs.constants import Constants
from harness.schedules import most_kept
from harness.validation.layers import FULL_BYTES, computing_lines
from harness.validation.linear import reference_of
from harness.validation.models import parameter_bytes
from harness.validation.pipelines import KEPT, cut_of, schedule_of
from harness.validation.systems import Unpredictable, block_of
from harness.validation.tables import GIB, MIB, SPLIT_STRATEGIES, LayerLine, Published, Row

if TYPE_CHECKING:
    from harness.costs.shape import ModelShape

STATIC_BYTES = {"none": 8, "sgd": 8, "momentum": 12, "rmsprop": 12, "adam": 16, "adamw": 16, "lamb": 16}
"""By optimizer and fp32 parameter: weight, gradient and moments. Source: oracles of the published tables, section 8."""

MIXED_BYTES = 18
"""Of a parameter under Adam with fp32 master weights: 6 of weights, 4 of gradient, 8 of moments; section 8 there."""

UNITS = {"MiB": MIB, "GiB": GIB, "GB": 1e9, "MB": 1e6}

KEEPS_SOFTMAX_INPUT = True
"""The published measurements are of 2017 to early 2022, before torch 1.11 stopped keeping it."""

MICROBATCHES_PER_STAGE = 4
"""Where a table gives memory without their number: enough that every stage keeps the most it ever does; chosen."""


def predict_memory(published: Published, row: Row, constants: Constants) -> float:
    """Return the prediction for a row of memory, in its unit.

    Raises:
        Unpredictable: the architecture is neither traced here nor known by a calibration row.
    """
    num_bytes = _bytes(published, row, constants)
    if row.unit not in UNITS:
        raise Unpredictable(f"unit {row.unit!r}: expected one of {', '.join(UNITS)}")
    return num_bytes / UNITS[row.unit]


def _bytes(published: Published, row: Row, constants: Constants) -> float:
    block = block_of(published, row)
    if row.metric == "parameter_memory":
        return parameter_bytes(published, row, block)
    if row.metric == "static_memory":
        return parameter_bytes(published, row, block) / FULL_BYTES * _static_bytes(row, block)
    if row.metric == "feature_memory":
        lines, batch = _lines(published, row)
        return sum(line.activation_bytes for line in lines if "inplace" not in line.name and line.kind != "Add") / batch
    if row.metric == "peak_memory":
        return _peak_bytes(published, row, block, constants)
    raise Unpredictable(f"{row.metric}: no profile or traced model says what {row.model} keeps")


def predict_arithmetic(published: Published, row: Row, constants: Constants) -> float:
    """Return the multiply-adds of one forward pass over one sample, in billions.

    Raises:
        Unpredictable: no profile lists the layers.
    """
    lines, batch = _lines(published, row)
    return sum(_multiply_adds(line, batch) for line in lines) / 1e9


def _lines(published: Published, row: Row) -> tuple[Sequence[LayerLine], float]:
    found = computing_lines(published, row.model)
    if found is None:
        raise Unpredictable(f"no profile lists the layers of {row.model}")
    return found


def _multiply_adds(line: LayerLine, batch: float) -> float:
    outputs = line.activation_bytes / FULL_BYTES / batch
    if found := re.match(r"Conv2d\((\d+), \d+, kernel_size=\((\d+), (\d+)\)", line.name):
        return outputs * int(found[1]) * int(found[2]) * int(found[3])
    if found := re.match(r"Linear\(in_features=(\d+)", line.name):
        return outputs * int(found[1])
    return 0.0


def _static_bytes(row: Row, block: Mapping[str, Any]) -> int:
    name = block.get("optimizer", "sgd")
    if row.precision == "mixed":
        return MIXED_BYTES
    if name not in STATIC_BYTES:
        raise Unpredictable(f"bytes of a parameter under {name} are not known")
    return STATIC_BYTES[name]


# -- peaks -------------------------------------------------------------------------------------------------------------


def _peak_bytes(published: Published, row: Row, block: Mapping[str, Any], constants: Constants) -> float:
    if row.strategy in SPLIT_STRATEGIES:
        return _pipeline_bytes(published, row, constants)
    context = _context_bytes(published, row)
    if context is None:
        reference = reference_of(row, published.inputs)
        if reference is None or reference.batch_per_gpu != row.batch_per_gpu:
            raise Unpredictable("neither the context's size nor a calibration row of the same batch is there")
        # Replicas hold what one device holds.
        return reference.value * UNITS[row.unit]
    if row.batch_per_gpu is None:
        return context + parameter_bytes(published, row, block)
    return _traced_bytes(published, row, block, context)


def _context_bytes(published: Published, row: Row) -> float | None:
    """Return what a process takes before its first tensor: a calibration row without batch or optimizer."""
    for other in published.inputs:
        same = (other.case, other.metric, other.batch_per_gpu) == (row.case, "peak_memory", None)
        if same and other.strategy == "single" and block_of(published, other).get("optimizer") == "none":
            return other.value * UNITS[other.unit]
    return None


def _traced_bytes(published: Published, row: Row, block: Mapping[str, Any], context: float) -> float:
    from harness.costs.memory import CUDA, Work, device_memory
    from harness.strategy import Layout

    shape = _traced(row.model, str(published.models.get(row.model, {}).get("input", "")), row.precision)
    work = Work(
        {"name": block.get("optimizer", "sgd"), "options": {}}, round(row.batch_per_gpu or 1), row.microbatches or 1
    )
    # Optimizers of that time stepped tensor by tensor, and zeroed gradients in place.
    device = replace(CUDA, context_bytes=round(context), multi_tensor=False)
    layout = Layout(recompute=block.get("recompute", "none") != "none")
    return device_memory(shape, layout, work, device).fullest.total_bytes


@lru_cache(maxsize=16)
def _traced(model: str, text: str, precision: str) -> ModelShape:
    """Return the shape of a model of ours that goes by the beginning of the published name.

    Raises:
        Unpredictable: there is none.
    """
    from harness.training.trace import Rules, trace_model
    from harness.workloads.catalogue import DataShape
    from harness.workloads.large import BertLargeOptions

    build: Callable[[DataShape], Any]
    tokens, image = re.search(r"(\d+) tokens", text), re.search(r"(\d+)x(\d+)x(\d+)", text)
    if model.startswith("bert-large") and tokens:
        from harness.workloads.transformers import bert_large

        options = BertLargeOptions()
        data = DataShape(1, 1, int(tokens[1]), 2, options.vocabulary)
        build = lambda shape: bert_large(shape, options)  # noqa: E731
    elif model.startswith(("resnet50", "vgg16", "alexnet")) and image:
        from harness.workloads import convolutional

        data = DataShape(int(image[1]), int(image[2]), int(image[3]), 1000)
        name = next(name for name in ("resnet50", "vgg16", "alexnet") if model.startswith(name))
        build = getattr(convolutional, name)
    else:
        raise Unpredictable(f"{model} is no model that is traced here")
    rules = Rules(precision=precision, device="cuda", keeps_softmax_input=KEEPS_SOFTMAX_INPUT)
    return trace_model(lambda: build(data), data, rules)


def _pipeline_bytes(published: Published, row: Row, constants: Constants) -> float:
    """Return a schedule's memory as the calibration row's times the ratio of what the law says of both.

    Raises:
        Unpredictable: no calibration row.
    """
    reference = reference_of(row, published.inputs)
    if reference is None:
        raise Unpredictable("no calibration row of the same model and metric")
    law = _stage_bytes(published, row, constants) / _stage_bytes(published, reference, constants)
    return reference.value * UNITS[reference.unit] * law


def _stage_bytes(published: Published, row: Row, constants: Constants) -> float:
    """Return the bytes of the fullest stage of a transformer: parameters with their state, and stashed activations.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", equation 1.
    """
    figures, block = published.models.get(row.model, {}), block_of(published, row)
    text = f"{figures.get('name', '')} {figures.get('input', '')}"
    found = {word: re.search(rf"{word} (\d+)", text) for word in ("hidden",)}
    found |= {word: re.search(rf"(\d+) {word}", text) for word in ("layers", "heads", "tokens")}
    if not all(found.values()):
        raise Unpredictable("hidden size, layers, heads and tokens of the model are not all stated")
    hidden, layers, heads, tokens = (int(match[1]) for match in found.values() if match)
    stages = row.gpus or 1
    cut = cut_of(published, row, block, constants)
    per_layer = tokens * hidden * (34 + 5 * heads * tokens / hidden) * _micro_batch(published, row)
    table = schedule_of(row.strategy, block, cut.weight)(stages, MICROBATCHES_PER_STAGE * stages)
    chunks = max(1, round(1 + max(action.stage for actions in table for action in actions)) // stages)
    # Schedules that know what they may keep make use of it.
    stash = KEPT[row.strategy] * stages if row.strategy in KEPT else max(most_kept(actions) for actions in table)
    static = parameter_bytes(published, row, block) / FULL_BYTES / stages * _static_bytes(row, block)
    return static + stash * per_layer * -(-layers // stages) / chunks


def _micro_batch(published: Published, row: Row) -> float:
    """Return the micro-batch of the case's other rows of the model, where the row has none."""
    rows = (row, *(r for r in published.inputs if (r.case, r.model) == (row.case, row.model)))
    for other in rows:
        if other.batch_per_gpu and other.microbatches:
            return other.batch_per_gpu / other.microbatches
    raise Unpredictable("the micro-batch is not stated")
