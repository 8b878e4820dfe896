"""A cell's layers: looked up where they were traced before, else traced now and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.api.host import describe
from harness.core.errors import HarnessError
from harness.core.not_known import Hurdle, NotKnown
from harness.core.number_formats import traced_in
from harness.core.text import Text
from harness.costs.cells import kept_or_traced, seen_by, shape_key
from harness.costs.profiles import LayerShape, Linear, ModelShape
from harness.costs.tracing import WHOLE, Rules, trace_model

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.engines.shared.setup import Setup
    from harness.workloads.entries import DataShape, Model

_known: dict[str, ModelShape | NotKnown] = {}
"""Of this process, by key: cells of one sweep share their model."""


def shape_of(setup: Setup) -> ModelShape | NotKnown:
    """Return the layers of a cell's model."""
    return _shape(setup.cell, setup.model, setup.shape)


def trace_cell(cell: Cell, host: Host, plugins: Sequence[str] = ()) -> ModelShape | NotKnown:
    """Return the layers of a cell's model; data is loaded only where nothing else tells the shape of a sample."""
    from harness.engines.shared.setup import make_setup

    seen = seen_by(cell, host)
    if seen is not None:
        return _shape(cell, *seen)
    try:
        setup = make_setup(cell, plugins)
    except Exception as error:  # the user's own code: running the cell words it
        reason = str(error) if isinstance(error, HarnessError) else describe(error)
        return NotKnown(Hurdle.LOAD, Text(reason))
    return shape_of(setup)


def _shape(cell: Cell, model: Model, seen: DataShape) -> ModelShape | NotKnown:
    key = shape_key(cell, model, seen)
    name = json.dumps(key, sort_keys=True)
    if name not in _known:
        _known[name] = kept_or_traced(key, lambda: _trace(cell, model, seen))
    return _known[name]


def counted_whole(module: nn.Module, inputs: Sequence[torch.Tensor], dtype: torch.dtype) -> ModelShape:
    """Return what is known of a model that cannot be traced: what it holds, as one layer."""
    layer = LayerShape(
        WHOLE,
        tensors=tuple(p.numel() for p in module.parameters() if p.requires_grad),
        buffers_bytes=sum(b.numel() * b.element_size() for b in module.buffers()),
    )
    samples = sum(tensor[0].numel() * tensor.element_size() for tensor in inputs)
    return ModelShape((layer,), Linear(0.0, float(samples)), dtype.itemsize, "counted here", activations_known=False)


def _trace(cell: Cell, model: Model, seen: DataShape) -> ModelShape | NotKnown:
    work = cell.workload
    options = model.Options(**work.model.options)
    rules = Rules(work.loss, traced_in(work.precision, cell.scalar_bytes), cell.device)
    files = [str(model.file.path)] if model.file else []
    return trace_model(lambda: model.build(options, seen), seen, rules, files)
