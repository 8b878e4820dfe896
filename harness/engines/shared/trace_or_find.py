"""A cell's layers: looked up where they were traced before, else traced now and kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from harness.costs.cells import kept_or_traced, seen_by, shape_key
from harness.costs.profiles import ModelShape
from harness.costs.tracing import Rules, trace_model

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.engines.shared.setup import Setup
    from harness.workloads.entries import DataShape, Model

_known: dict[str, ModelShape] = {}
"""Of this process, by key: cells of one sweep share their model."""


def shape_of(setup: Setup) -> ModelShape:
    """Return the layers of a cell's model."""
    return _shape(setup.cell, setup.model, setup.shape)


def trace_cell(cell: Cell, host: Host) -> ModelShape:
    """Return the layers of a cell's model; data is loaded only where nothing else tells the shape of a sample."""
    from harness.engines.shared.setup import make_setup

    seen = seen_by(cell, host)
    return _shape(cell, *seen) if seen is not None else shape_of(make_setup(cell))


def _shape(cell: Cell, model: Model, seen: DataShape) -> ModelShape:
    key = shape_key(cell, model, seen)
    name = json.dumps(key, sort_keys=True)
    if name not in _known:
        _known[name] = kept_or_traced(key, lambda: _trace(cell, model, seen))
    return _known[name]


def _trace(cell: Cell, model: Model, seen: DataShape) -> ModelShape:
    work = cell.workload
    options = model.Options(**work.model.options)
    rules = Rules(work.loss, work.precision, cell.device)
    return trace_model(lambda: model.build(options, seen), seen, rules)
