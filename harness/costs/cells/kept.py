"""Shapes that were traced before, kept on disk: looked up without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.code_hash import text_hash
from harness.core.errors import HarnessError
from harness.core.records import Json, Unreadable, from_json, to_json
from harness.costs.cells.find import given_shape
from harness.costs.profiles.shape import ModelShape
from harness.workloads.entries import DataShape, Model, seen_shape

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell

_KIND = "shape"

_COSTS = Path(__file__).parents[1]
_TRACER = (
    *sorted((_COSTS / "tracing").glob("*.py")),
    _COSTS / "profiles" / "shape.py",
    _COSTS / "profiles" / "allocations.py",
)
"""What decides what a trace says: an edited one is another one."""


def find_shape(cell: Cell, host: Host) -> ModelShape | None:
    """Return a cell's model as it was traced, or given by the scenario; None where it was never traced."""
    given = given_shape(cell)
    if given is not None:
        return given
    seen = seen_by(cell, host)
    return None if seen is None else _kept(shape_key(cell, *seen))


def kept_or_traced(key: Mapping[str, object], trace: Callable[[], ModelShape]) -> ModelShape:
    """Return the shape that was kept under a key, or trace it now and keep it for later runs."""
    kept = _kept(key)
    if kept is not None:
        return kept
    shape = trace()
    cache.save(_KIND, key, to_json(shape))
    return shape


def _kept(key: Mapping[str, object]) -> ModelShape | None:
    content = cache.load(_KIND, key)
    try:
        return None if content is None else from_json(ModelShape, content)
    except Unreadable:
        return None  # kept by another version


def seen_by(cell: Cell, host: Host) -> tuple[Model, DataShape] | None:
    """Return a cell's model and one sample as it sees it; None where only loading the data tells."""
    from harness.workloads.user import user_model
    from harness.workloads.user_files import is_user_function

    names = {"model": cell.workload.model.name, "dataset": cell.workload.dataset.name}
    dataset = host.datasets.get(names["dataset"])
    try:
        user = is_user_function(names["model"])
        model = user_model(names["model"], Path(cell.folder)) if user else host.models.get(names["model"])
        if model is None or dataset is None:
            return None
        size = dataset.size(dataset.Options(**cell.workload.dataset.options))
        return None if size is None else (model, seen_shape(size.shape, model))
    except (HarnessError, OSError):
        return None  # running the cell words it


def shape_key(cell: Cell, model: Model, seen: DataShape) -> Json:
    """Return everything that a model's shape follows from."""
    return {
        "model": to_json(cell.workload.model),
        "sample": asdict(seen),
        "loss": cell.workload.loss,
        "precision": cell.workload.precision,
        "device": cell.device,
        **tracer_key(model),
    }


def tracer_key(model: Model) -> dict[str, str]:
    """Return what of the code a model's shape follows from: its own, the tracer's, and torch's."""
    return {"source": model.code_hash, "torch": _version(), "tracer": _tracer()}


@lru_cache(maxsize=1)
def _tracer() -> str:
    return "".join(sorted(text_hash(path.read_text(encoding="utf-8")) for path in _TRACER))


@lru_cache(maxsize=1)
def _version() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
