"""Rows of memory, and of what a model's arithmetic amounts to."""

from __future__ import annotations

import re
from dataclasses import replace

from harness.api.schedules import KEPT, find_schedule, most_kept
from harness.commands.validate.as_pipeline import SCHEDULES
from harness.commands.validate.case_layers import FULL_BYTES, computing_lines
from harness.commands.validate.case_models import parameter_bytes
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.linear import calibration_row, reference_of
from harness.commands.validate.published import (
    SPLIT_STRATEGIES,
    LayerLine,
    TableRow,
    Tables,
    TomlTable,
    stated,
    words_of,
)
from harness.commands.validate.traced_models import traced_model
from harness.core.cell import Named
from harness.core.errors import NotForetold
from harness.core.number_formats import AS_USUAL, Formats, scalar_bytes
from harness.core.units import GIB, MIB
from harness.costs.memory import state_bytes
from harness.costs.profiles import Constants, LayerShape

MIXED = Formats(framework="megatron")
"""What the tables call mixed beside a pipeline is Megatron-LM's."""

OPERATIONS_PER_MULTIPLY_ADD = 2

UNITS = {"MiB": MIB, "GiB": GIB, "GB": 1e9, "MB": 1e6}

MICROBATCHES_PER_STAGE = 4
"""Where a table gives memory without their number: enough that every stage keeps the most it ever does; chosen."""


def predict_memory(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of memory, in its unit.

    Raises:
        Unpredictable: the architecture is neither traced here nor known by a calibration row.
    """
    num_bytes = _bytes(published, row, constants)
    if row.unit not in UNITS:
        raise Unpredictable(f"unit {row.unit!r}: expected one of {', '.join(UNITS)}")
    return num_bytes / UNITS[row.unit]


def _bytes(published: Tables, row: TableRow, constants: Constants) -> float:
    block = block_of(published, row)
    if row.metric == "parameter_memory":
        return parameter_bytes(published, row, block)
    if row.metric == "static_memory":
        return parameter_bytes(published, row, block) / FULL_BYTES * _static_bytes(row, block)
    if row.metric == "feature_memory":
        return _feature_bytes(published, row)
    if row.metric == "peak_memory":
        return _peak_bytes(published, row, block, constants)
    raise Unpredictable(f"{row.metric}: no profile or traced model says what {row.model} keeps")


def predict_arithmetic(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the multiply-adds of one forward pass over one sample, in billions.

    Raises:
        Unpredictable: no profile lists the layers, and the model is not traced here.
    """
    found = computing_lines(published, row.model)
    if found is None:
        shape = traced_model(published, row.model, row.precision)
        return sum(layer.forward_flops.at(1) for layer in shape.layers) / OPERATIONS_PER_MULTIPLY_ADD / 1e9
    lines, batch = found
    return sum(_multiply_adds(line, batch) for line in lines) / 1e9


def _feature_bytes(published: Tables, row: TableRow) -> float:
    """Return the bytes of all tensors that one sample's forward pass makes, as networks are drawn.

    A traced layer without weights counts with what it hands on: indices and masks are no features.
    """
    found = computing_lines(published, row.model)
    if found is not None:
        lines, batch = found
        return sum(line.activation_bytes for line in lines if "inplace" not in line.name and line.kind != "Add") / batch
    shape = traced_model(published, row.model, row.precision)
    assert shape.timeline is not None
    total = 0.0
    for number, layer in enumerate(shape.layers):
        made = sum(e.fixed + e.per_sample for e in shape.timeline.of(number).forward if e.kind == "tensor")
        total += made if layer.tensors else min(made, layer.output_bytes.at(1))
    return total


def _multiply_adds(line: LayerLine, batch: float) -> float:
    outputs = line.activation_bytes / FULL_BYTES / batch
    if found := re.match(r"Conv2d\((\d+), \d+, kernel_size=\((\d+), (\d+)\)", line.name):
        return outputs * int(found[1]) * int(found[2]) * int(found[3])
    if found := re.match(r"Linear\(in_features=(\d+)", line.name):
        return outputs * int(found[1])
    return 0.0


def _static_bytes(row: TableRow, block: TomlTable) -> int:
    name, mixed = block.get("optimizer", "adam" if row.precision == "mixed" else "sgd"), row.precision == "mixed"
    each = scalar_bytes("mixed" if mixed else "fp32", MIXED if mixed else AS_USUAL)
    try:
        return each.lasting + state_bytes(LayerShape("", (1,)), Named(name), each.states)
    except NotForetold as error:
        raise Unpredictable(str(error)) from None


# -- peaks -------------------------------------------------------------------------------------------------------------


def _peak_bytes(published: Tables, row: TableRow, block: TomlTable, constants: Constants) -> float:
    if row.strategy in SPLIT_STRATEGIES:
        return _pipeline_bytes(published, row, constants)
    context = _context_bytes(published, row)
    if context is None:
        reference = reference_of(row, published.inputs)
        if reference is None or reference.batch_per_gpu != row.batch_per_gpu:
            raise Unpredictable("the context's size is not known, and there is no calibration row of the same batch")
        # Replicas hold what one device holds.
        return reference.value * UNITS[row.unit]
    if row.batch_per_gpu is None:
        return context + parameter_bytes(published, row, block)
    return _traced_bytes(published, row, block, context)


def _context_bytes(published: Tables, row: TableRow) -> float | None:
    """Return what a process takes before its first tensor: a calibration row without batch or optimizer."""
    for other in published.inputs:
        same = (other.case, other.metric, other.batch_per_gpu) == (row.case, "peak_memory", None)
        if same and other.strategy == "single" and block_of(published, other).get("optimizer") == "none":
            return other.value * UNITS[other.unit]
    return None


def _traced_bytes(published: Tables, row: TableRow, block: TomlTable, context: float) -> float:
    from harness.api.strategy import Layout
    from harness.costs.memory import CUDA, Work, device_memory

    shape = traced_model(published, row.model, row.precision)
    work = Work(Named(block.get("optimizer", "sgd")), round(row.batch_per_gpu or 1), row.microbatches or 1)
    # Optimizers of that time stepped tensor by tensor, and zeroed gradients in place.
    device = replace(CUDA, context_bytes=round(context), multi_tensor=False)
    layout = Layout(recompute=block.get("recompute", "none") != "none")
    return device_memory(shape, layout, work, device).fullest.total_bytes


def _pipeline_bytes(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return a schedule's memory as the calibration row's times the ratio of what the law says of both.

    Raises:
        Unpredictable: no calibration row.
    """
    reference = calibration_row(published, row)
    law = _stage_bytes(published, row, constants) / _stage_bytes(published, reference, constants)
    return reference.value * UNITS[reference.unit] * law


def _stage_bytes(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the bytes of the fullest stage of a transformer: parameters with their state, and stashed activations.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", equation 1.
    """
    text, block = words_of(published, row.model), block_of(published, row)
    patterns = (r"hidden (\d+)", r"(\d+) layers", r"(\d+) heads", r"(\d+) tokens")
    found = [number for pattern in patterns if (number := stated(text, pattern))]
    if len(found) < len(patterns):
        raise Unpredictable("hidden size, layers, heads and tokens of the model are not all stated")
    hidden, layers, heads, tokens = found
    stages = row.gpus or 1
    per_layer = tokens * hidden * (34 + 5 * heads * tokens / hidden) * _micro_batch(published, row)
    interleaved = row.strategy == "1f1b-interleaved"
    name = SCHEDULES[row.strategy]
    schedule, chunks = find_schedule(name, int(block.get("chunks_per_stage", 2)) if interleaved else None)
    table = schedule(stages, MICROBATCHES_PER_STAGE * stages)
    # Schedules that know what they may keep make use of it.
    stash = KEPT[name] * stages if name in KEPT else max(most_kept(actions) for actions in table)
    static = parameter_bytes(published, row, block) / FULL_BYTES / stages * _static_bytes(row, block)
    return static + stash * per_layer * -(-layers // stages) / chunks


def _micro_batch(published: Tables, row: TableRow) -> float:
    """Return the micro-batch of the case's other rows of the model, where the row has none."""
    rows = (row, *(r for r in published.inputs if (r.case, r.model) == (row.case, row.model)))
    for other in rows:
        if other.batch_per_gpu and other.microbatches:
            return other.batch_per_gpu / other.microbatches
    raise Unpredictable("the micro-batch is not stated")
