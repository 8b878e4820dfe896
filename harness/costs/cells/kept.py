"""Shapes that were traced before, kept on disk: looked up without importing torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from harness.core import cache
from harness.core.code_hash import text_hash
from harness.core.errors import HarnessError
from harness.core.not_known import NotKnown
from harness.core.number_formats import traced_in
from harness.core.records import Json, Unreadable, from_json, to_json
from harness.costs.cells.find import given_shape
from harness.costs.profiles.shape import ModelShape
from harness.workloads.entries import Dataset, DatasetSize, DataShape, Model, seen_shape

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell, Named

T = TypeVar("T")

_KIND, _FAILED = "shape", "untraced"

_SAMPLE = "dataset"

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
    return None if seen is None else _kept(ModelShape, _KIND, shape_key(cell, *seen))


def why_not_known(cell: Cell, host: Host) -> NotKnown | None:
    """Return why a cell's model could not be traced; None where it was, or where nobody has tried."""
    seen = seen_by(cell, host)
    return _kept(NotKnown, _FAILED, shape_key(cell, *seen)) if seen else _kept(NotKnown, _FAILED, _before(cell))


def keep_failure(cell: Cell, host: Host, why: NotKnown) -> None:
    """Keep why a cell's model could not be traced, for whoever asks later; a trace is tried again all the same."""
    seen = seen_by(cell, host)
    cache.save(_FAILED, shape_key(cell, *seen) if seen else _before(cell), to_json(why))


def _before(cell: Cell) -> Json:
    """Return what an attempt follows from that did not come to know the model or a sample."""
    workload = cell.workload
    return {"model": to_json(workload.model), "dataset": to_json(workload.dataset), "code": dict(cell.code)}


def kept_or_traced(key: Mapping[str, object], trace: Callable[[], ModelShape | NotKnown]) -> ModelShape | NotKnown:
    """Return the shape that was kept under a key, or trace it now and keep it for later runs."""
    kept = _kept(ModelShape, _KIND, key)
    if kept is not None:
        return kept
    found = trace()
    cache.save(_KIND if isinstance(found, ModelShape) else _FAILED, key, to_json(found))
    return found


def keep_shape(cell: Cell, host: Host, shape: ModelShape) -> None:
    """Keep a shape that was traced on another machine, unless the scenario gives it or it is known here."""
    seen = seen_by(cell, host)
    if seen is not None and given_shape(cell) is None:
        kept_or_traced(shape_key(cell, *seen), lambda: shape)


def _kept(kind: type[T], folder: str, key: Mapping[str, object]) -> T | None:
    content = cache.load(folder, key)
    try:
        return None if content is None else from_json(kind, content)
    except Unreadable:
        return None  # kept by another version


def seen_by(cell: Cell, host: Host) -> tuple[Model, DataShape] | None:
    """Return a cell's model and one sample as it sees it; None where only loading the data tells."""
    from harness.workloads.user import user_model
    from harness.workloads.user_files import is_user_function

    name = cell.workload.model.name
    try:
        model = user_model(name, Path(cell.folder)) if is_user_function(name) else host.models.get(name)
        size = size_of(cell, host)
        return None if model is None or size is None else (model, seen_shape(size.shape, model))
    except (HarnessError, OSError):
        return None  # running the cell words it


def size_of(cell: Cell, host: Host) -> DatasetSize | None:
    """Return what is known of a cell's data set without loading it: by its entry, or because it was loaded before.

    Raises:
        HarnessError: there is none of that name, or its options are refused.
        OSError: its file cannot be read.
    """
    from harness.workloads.user import user_dataset
    from harness.workloads.user_files import is_user_function

    chosen = cell.workload.dataset
    user = is_user_function(chosen.name)
    dataset = user_dataset(chosen.name, Path(cell.folder)) if user else host.datasets.get(chosen.name)
    if dataset is None:
        return None
    size = dataset.size(dataset.Options(**chosen.options))
    return size if size is not None else _kept(DatasetSize, _SAMPLE, _dataset_key(dataset, chosen))


def keep_size(dataset: Dataset, chosen: Named, size: DatasetSize) -> None:
    """Keep what loading a data set has told, where nothing else tells it: plans know it from then on.

    Args:
        chosen: the data set as a cell names it, with its options.
    """
    if dataset.size(dataset.Options(**chosen.options)) is not None:
        return
    key = _dataset_key(dataset, chosen)
    if _kept(DatasetSize, _SAMPLE, key) != size:
        cache.save(_SAMPLE, key, to_json(size))


def _dataset_key(dataset: Dataset, chosen: Named) -> Json:
    place = dataset.file.path.resolve().parent if dataset.file else Path.cwd()  # what it reads may lie beside it
    return {"dataset": to_json(chosen), "source": dataset.code_hash, "folder": str(place)}


def shape_key(cell: Cell, model: Model, seen: DataShape) -> Json:
    """Return everything that a model's shape follows from."""
    return {
        "model": to_json(cell.workload.model),
        "sample": asdict(seen),
        "loss": cell.workload.loss,
        "precision": traced_in(cell.workload.precision, cell.scalar_bytes),
        "device": cell.device,
        **_tracer_key(model),
    }


def _tracer_key(model: Model) -> dict[str, str]:
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
