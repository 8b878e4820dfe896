"""The forms in which people bring data, each read into the same splits of arrays.

Arrays, tensors, lists, pandas' columns and tables, torch's data sets and DataLoaders, Hugging Face's data sets,
iterables. Imports torch only where torch's own data sets are collated.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast

import numpy as np

from harness.core.words import counted, listed
from harness.workloads.found_data import TARGET_NAMES, Remarks, Split, Unfit, alternatives, by_name

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from harness.workloads.entries import Arrays

    Array = npt.NDArray[np.generic]

DATA_FORMS = (
    "four values (train inputs, train targets, test inputs, test targets), two data sets (train, test) or one; inputs "
    "are an array or a dict of arrays by the model's keywords, data sets are torch's (map-style), DataLoaders or "
    "Hugging Face's"
)
READ_AT_ONCE = 256
"""Samples that are collated together: enough that the call costs little, few enough for large images; chosen."""
LARGEST_READ = 4 * 2**30
"""Bytes of an iterable that are written to a temporary file; chosen: a disk has that, and reading it takes a minute."""

MOST_VALUES = 16
"""A list of more is one of samples; chosen: no function returns so many inputs and splits."""

TEST_SPLITS = ("test", "validation", "valid", "val", "dev")
"""What a split to test with is called, in this order."""


class MapStyle(Protocol):
    """What torch calls a map-style data set: it has a length, and gives a sample for each number."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> object: ...


class HubTable(Protocol):
    """What is used of a data set of Hugging Face."""

    column_names: list[str]
    features: Mapping[str, object]
    format: Mapping[str, list[str]]

    def with_format(self, type: str, columns: list[str]) -> HubTable:  # as they call it
        """Return it with its rows as arrays of a library."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | list[int], /) -> Mapping[str, Iterable[object]]: ...


class MapSet:
    """A data set whose samples are read by their numbers.

    Args:
        samples: has a length and gives one sample for each number: (inputs, targets), or a dict with a target.
        collate: joins samples to a batch; torch's own where there is none.
    """

    def __init__(self, samples: MapStyle, collate: Callable[[list[object]], object] | None = None) -> None:
        self.samples, self.collate = samples, collate

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, rows: npt.NDArray[np.intp] | range, before: Callable[[int], None] | None = None) -> Split:
        """Return the samples of these numbers, collated.

        Args:
            before: called with each number before the sample is read.

        Raises:
            Unfit: they are no samples, or cannot be joined.
        """
        return self.joined([self._one(int(row), before) for row in rows])

    def _one(self, row: int, before: Callable[[int], None] | None) -> object:
        if before is not None:
            before(row)
        return self.samples[row]

    def joined(self, samples: list[object]) -> Split:
        """Return samples as one split."""
        return _batch(_collated(samples, self.collate))

    @property
    def all_targets(self) -> Array | None:
        """The targets of all samples where the data set keeps them, as torchvision's do; else None."""
        found = getattr(self.samples, "targets", None)
        if found is None and hasattr(self.samples, "indices") and hasattr(self.samples, "dataset"):  # torch's Subset
            whole = MapSet(self.samples.dataset).all_targets
            return None if whole is None else whole[np.asarray(self.samples.indices, np.intp)]
        tensors = getattr(self.samples, "tensors", None)  # of a TensorDataset
        if found is None and isinstance(tensors, tuple) and len(tensors) == 2:
            found = tensors[1]
        try:
            targets = None if found is None else as_array(found)
        except Unfit:
            return None
        return targets if targets is not None and len(targets) == len(self) else None


class HubSet(MapSet):
    """The columns of a data set of Hugging Face: one is the target, the others are the model's keywords.

    A single column of images is the input itself. With `set_format(columns=...)` only those columns are read.
    """

    def __init__(self, samples: HubTable, remarks: Remarks) -> None:
        names = list(samples.format["columns"] or samples.column_names)
        self.target = _target_among(names, "a data set with the columns")
        self.table = samples.with_format("numpy", columns=names)
        self.only_targets = samples.with_format("numpy", columns=[self.target])
        first = self.table[[0]]
        found = {name: _stacked(first[name], name) for name in names if name != self.target}
        self.names = list(_numeric(found, remarks))
        images = [name for name in self.names if type(samples.features.get(name)).__name__ == "Image"]
        self.alone = images[0] if len(images) == len(self.names) == 1 else ""

    def __len__(self) -> int:
        return len(self.table)

    def read(self, rows: npt.NDArray[np.intp] | range, before: Callable[[int], None] | None = None) -> Split:
        """Return the samples of these numbers; nothing is drawn on the way, so that `before` is not called.

        Raises:
            Unfit: they have different shapes.
        """
        columns = self.table[[int(row) for row in rows]]
        inputs = {name: _stacked(columns[name], name) for name in self.names}
        return Split(inputs[self.alone] if self.alone else inputs, _stacked(columns[self.target], self.target))

    @property
    def all_targets(self) -> Array:
        """The targets of all samples."""
        return _stacked(self.only_targets[:][self.target], self.target)


SplitOrSet = Split | MapSet
"""A split: read already, or to be read by numbers."""


def splits_of(result: object, remarks: Remarks) -> tuple[SplitOrSet, SplitOrSet | None]:
    """Return the training and the test split that a data function returned; None where it returned no test split.

    Raises:
        Unfit: it is none of the forms.
    """
    if _has_bfloat16(result):
        remarks.add("data: bfloat16 became float32, which holds the same numbers")
    if isinstance(result, Mapping) and "train" in result:  # a DatasetDict, or a dict of splits
        return _part(result["train"], remarks), _test_part(result, remarks)
    if isinstance(result, tuple | list):
        return _splits_of_values(result, remarks)
    if _is_set(result) or isinstance(result, Mapping) or hasattr(result, "iloc"):
        return _part(result, remarks), None
    raise Unfit(f"{type(result).__name__}, expected {DATA_FORMS}")


def _test_part(splits: Mapping[object, object], remarks: Remarks) -> SplitOrSet | None:
    """Return the split to test with; published test splits often have -1 for every target, and are none."""
    for name in (name for name in TEST_SPLITS if name in splits):
        part = _part(splits[name], remarks)
        if isinstance(part, Split) and part.targets.dtype.kind == "i" and len(part) and (part.targets == -1).all():
            remarks.add(f"data: the split {name} has -1 for every target, and is not used")
            continue
        _say_left([str(other) for other in splits if other not in ("train", *TEST_SPLITS[:1], name)], remarks)
        return part
    return None


def _splits_of_values(
    values: tuple[object, ...] | list[object], remarks: Remarks
) -> tuple[SplitOrSet, SplitOrSet | None]:
    if len(values) == 4:
        return pair_of_arrays(values[0], values[1]), pair_of_arrays(values[2], values[3])
    if len(values) == 3 and all(_is_set(value) for value in values):
        _say_left(["the second of three"], remarks)
        return _part(values[0], remarks), _part(values[2], remarks)
    if len(values) == 2 and (_is_set(values[0]) or isinstance(values[0], tuple)):
        return _part(values[0], remarks), _part(values[1], remarks)
    if len(values) == 2 and not np.isscalar(values[0]):
        if _has_target(values[0]) and _has_target(values[1]):
            return _part(values[0], remarks), _part(values[1], remarks)
        return pair_of_arrays(values[0], values[1]), None
    raise Unfit(f"{counted(len(values), 'value')}, expected {DATA_FORMS}")


def _has_bfloat16(value: object) -> bool:
    """Whether tensors that were returned are in a type that numpy does not know."""
    if isinstance(value, Mapping):
        value = [*value.values()]
    if isinstance(value, tuple | list) and len(value) <= MOST_VALUES:
        return any(_has_bfloat16(each) for each in value)
    return hasattr(value, "detach") and not _plain(value)


def _has_target(value: object) -> bool:
    """Whether these are columns with a target among them."""
    columns = value if isinstance(value, Mapping) else getattr(value, "columns", ())
    return any(name in columns for name in TARGET_NAMES)


def _say_left(left: list[str], remarks: Remarks) -> None:
    if left:
        remarks.add(
            f"data: the split {listed(left)} is not used; validation samples are held out of the training split "
            "(goal.validation_fraction)"
        )


def _part(value: object, remarks: Remarks) -> SplitOrSet:
    """Read one split in any form."""
    if isinstance(value, tuple | list) and len(value) == 2:
        return pair_of_arrays(*value)
    if hasattr(value, "iloc") and hasattr(value, "columns"):
        return _of_frame(value, remarks)
    if isinstance(value, Mapping):
        return _of_mapping(value, "columns")
    if _is_set(value):
        return _of_set(value, remarks)
    raise Unfit(f"{type(value).__name__} as a split, expected {DATA_FORMS}")


def _is_set(value: object) -> bool:
    """Whether this is a data set of samples rather than an array or a table."""
    array = hasattr(value, "detach") or hasattr(value, "dtype") or hasattr(value, "iloc")
    plain = isinstance(value, np.ndarray | str | bytes | Mapping | tuple | list)
    reads = hasattr(value, "column_names") or hasattr(value, "__getitem__") or hasattr(value, "__iter__")
    return reads and not (array or plain)


def _of_set(samples: object, remarks: Remarks) -> SplitOrSet:
    collate = None
    if hasattr(samples, "dataset") and hasattr(samples, "collate_fn"):
        remarks.add("data: of a DataLoader its data set and collate function are used, not its sampler and batch size")
        from torch.utils.data import default_collate

        collate = None if samples.collate_fn is default_collate else samples.collate_fn
        samples = samples.dataset
    if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
        if not isinstance(samples, Iterable):
            raise Unfit(f"{type(samples).__name__} as a split, expected {DATA_FORMS}")
        return _of_iterable(samples, collate, remarks)
    if not len(samples):
        raise Unfit("a data set without samples")
    if collate is None and getattr(samples, "column_names", None) and _format_of(samples) != "custom":
        return HubSet(cast("HubTable", samples), remarks)
    return MapSet(samples, collate)


def _format_of(samples: object) -> object:
    """Return what a data set of Hugging Face gives its rows as: "custom" where a transform of the user's does."""
    return getattr(samples, "format", {}).get("type")


# -- columns -----------------------------------------------------------------------------------------------------------


def _of_frame(frame: pd.DataFrame, remarks: Remarks) -> Split:
    """Read a pandas table: the numbers of a row are one vector."""
    names = [str(name) for name in frame.columns]
    target = _target_among(names, "a table with the columns")
    rest = frame.drop(columns=target)
    text = [str(name) for name in rest.columns if rest[name].dtype.kind not in "biuf"]
    if text:
        raise Unfit(f"a table whose {listed(text)} are no numbers; encode them, or use the data set table")
    remarks.add(f"data: each row of {len(names) - 1} columns is one vector, in their order; {target} is the target")
    return pair_of_arrays(rest.to_numpy(), frame[target])


def _of_mapping(columns: Mapping[object, object], what: str) -> Split:
    names = [str(name) for name in columns]
    target = _target_among(names, what)
    rest = {str(name): as_array(value, str(name)) for name, value in columns.items() if name != target}
    if not rest:
        raise Unfit(f"{what} of which {target} is the only one; there are no inputs")
    return Split(dict(rest), target_array(columns[target]))


def _target_among(names: list[str], what: str) -> str:
    target = next((name for name in TARGET_NAMES if name in names), None)
    if target is None:
        raise Unfit(f"{what} {', '.join(names)}; one of them must be called {alternatives(TARGET_NAMES)}")
    if len(names) == 1:
        raise Unfit(f"{what} {target} only; there are no inputs")
    return target


def _numeric(found: dict[str, Array], remarks: Remarks) -> dict[str, Array]:
    """Leave out columns that hold no numbers."""
    inputs = {name: array for name, array in found.items() if array.dtype.kind in "biuf"}
    left = [name for name in found if name not in inputs]
    if not inputs:
        raise Unfit(f"columns of text ({', '.join(found)}); tokenize them first: models take numbers")
    if left:
        remarks.add(f"data: {listed(left)} {'hold' if len(left) > 1 else 'holds'} no numbers and is left out")
    return inputs


def _stacked(column: Iterable[object], name: str) -> Array:
    array = np.asarray(column)
    if array.dtype.kind != "O" or not len(array) or isinstance(array[0], str):
        return array
    try:
        return np.stack([np.asarray(each) for each in column])
    except ValueError:
        raise Unfit(f"rows of different shapes in the column {name}; pad, crop or resize them to one") from None


# -- samples -----------------------------------------------------------------------------------------------------------


def _collated(samples: list[object], collate: Callable[[list[object]], object] | None) -> object:
    if collate is not None:
        return collate(samples)
    from torch.utils.data import default_collate

    try:
        return default_collate([_without_pictures(sample) for sample in samples])
    except RuntimeError as error:
        raise Unfit(f"samples of different shapes ({error}); pad, crop or resize them to one") from None
    except TypeError as error:
        raise Unfit(f"samples that cannot be joined to a batch: {error}") from None


def _without_pictures(value: object) -> object:
    """Return a sample with Pillow's images as arrays, which torch can collate."""
    if isinstance(value, Mapping):
        return {name: _without_pictures(each) for name, each in value.items()}
    if isinstance(value, tuple | list) and not hasattr(value, "_fields"):
        return tuple(_without_pictures(each) for each in value)
    return np.array(value) if hasattr(value, "getbands") else value


def _batch(batch: object) -> Split:
    """Return a collated batch as a split: a pair of (inputs, targets), or a dictionary with a target."""
    if isinstance(batch, Mapping):
        return _of_mapping(batch, "samples with the keys")
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return Split(inputs_of(batch[0], collated=True), target_array(batch[1]))
    got = counted(len(batch), "value") if isinstance(batch, tuple | list) else type(batch).__name__
    raise Unfit(f"samples of {got}, expected pairs (inputs, target) or dicts with a target")


def read_whole(part: SplitOrSet) -> Split:
    """Return all samples of a split as arrays.

    Raises:
        Unfit: they have different shapes, or are no samples.
    """
    if isinstance(part, Split):
        return part
    size = len(part)
    return joined_splits(
        [part.read(range(start, min(start + READ_AT_ONCE, size))) for start in range(0, size, READ_AT_ONCE)]
    )


def joined_splits(parts: list[Split]) -> Split:
    """Return several batches as one split.

    Raises:
        Unfit: they do not belong together.
    """
    first = parts[0]
    if any(by_name(each.inputs).keys() != by_name(first.inputs).keys() for each in parts):
        raise Unfit("samples with different keys; every sample must have the same ones")
    try:
        arrays = {
            name: np.concatenate([by_name(each.inputs)[name] for each in parts]) for name in by_name(first.inputs)
        }
        targets = np.concatenate([each.targets for each in parts])
    except ValueError as error:
        raise Unfit(f"samples of different shapes ({error}); pad, crop or resize them to one") from None
    return Split(arrays if isinstance(first.inputs, dict) else arrays[""], targets)


def _of_iterable(
    samples: Iterable[object], collate: Callable[[list[object]], object] | None, remarks: Remarks
) -> Split:
    """Read an iterable once, into files that are mapped into memory.

    Raises:
        Unfit: it holds more than LARGEST_READ bytes, or no samples.
    """
    remarks.add("data: an iterable was read once, into a temporary file that is mapped into memory")
    reader, waiting, stored = MapSet((), collate), [], _Stored()
    with closing(stored):
        for sample in samples:
            waiting.append(sample)
            if len(waiting) == READ_AT_ONCE:
                stored.add(reader.joined(waiting))
                waiting = []
        if waiting:
            stored.add(reader.joined(waiting))
        return stored.whole()


class _Stored:
    """Arrays that grow on disk: an iterable does not say beforehand how much it holds."""

    def __init__(self) -> None:
        self.first: Split | None = None
        self.files: dict[str, BinaryIO] = {}
        self.rows = self.held = 0

    def add(self, split: Split) -> None:
        if self.first is None:
            self.first = split.at(slice(0, 1))
        arrays = _with_targets(split)
        like = _with_targets(self.first)
        if arrays.keys() != like.keys() or any(arrays[k].shape[1:] != like[k].shape[1:] for k in arrays):
            raise Unfit("samples of different shapes or keys; pad, crop or resize them to one")
        for name, array in arrays.items():
            content = np.ascontiguousarray(array.astype(like[name].dtype, copy=False))
            self.held += content.nbytes
            if self.held > LARGEST_READ:
                raise Unfit(f"an iterable of more than {LARGEST_READ / 2**30:g} GiB; return a map-style data set")
            if name not in self.files:
                self.files[name] = tempfile.TemporaryFile()  # noqa: SIM115 - open until all is read
            self.files[name].write(content.data)
        self.rows += len(split)

    def whole(self) -> Split:
        if self.first is None:
            raise Unfit("a data set without samples")
        arrays: dict[str, Array] = {}
        for name, array in _with_targets(self.first).items():
            self.files[name].flush()
            # The mapping keeps the file, which has no name any more, for as long as the array lives.
            arrays[name] = np.memmap(self.files[name], array.dtype, "r", shape=(self.rows, *array.shape[1:]))
        targets = arrays.pop(_TARGETS)
        return Split(arrays if isinstance(self.first.inputs, dict) else arrays[""], targets)

    def close(self) -> None:
        for file in self.files.values():
            file.close()


_TARGETS = "\0targets"
"""No keyword of a model is called so."""


def _with_targets(split: Split) -> dict[str, Array]:
    return {**by_name(split.inputs), _TARGETS: split.targets}


# -- arrays ------------------------------------------------------------------------------------------------------------


def pair_of_arrays(inputs: object, targets: object) -> Split:
    """Return inputs and targets as a split.

    Raises:
        Unfit: one of them is no array.
    """
    found = target_array(targets)
    return Split(inputs_of(inputs, rows=len(found)), found)


def inputs_of(value: object, rows: int = 0, collated: bool = False) -> Arrays:
    """Return inputs as an array, or as arrays by name.

    Args:
        rows: number of samples, where it is known: a list of so many arrays has one for each sample.
        collated: a list is never one of samples.
    """
    if isinstance(value, Mapping):
        return {str(name): as_array(each, str(name)) for name, each in value.items()}
    if isinstance(value, tuple | list) and value and len(getattr(value[0], "shape", ())):
        if collated or len(value) != rows:
            raise Unfit("several inputs without names; give them as a dict by the keywords of the model's forward")
        arrays = [as_array(each) for each in value]
        if len({array.shape for array in arrays}) > 1:
            raise Unfit("samples of different shapes; pad, crop or resize them to one")
        return np.stack(arrays)
    return as_array(value)


def target_array(value: object) -> Array:
    """Return targets: numbers, or names of classes."""
    if hasattr(value, "astype") and str(getattr(value, "dtype", "")) == "category":
        return np.asarray(value.astype(str), dtype=np.str_)
    if hasattr(value, "iloc") and getattr(value, "shape", ())[1:] == (1,):
        value = value.iloc[:, 0]
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") and _plain(value) else value)
    except (TypeError, ValueError, RuntimeError):
        return as_array(value)
    words = array.dtype.kind in "UO" and array.size and all(isinstance(each, str) for each in array.ravel())
    return array.astype(np.str_) if words else as_array(value)


def _plain(tensor: object) -> bool:
    return str(getattr(tensor, "dtype", "")) != "torch.bfloat16"


def as_array(value: object, name: str = "") -> Array:
    """Return an array of numbers; bfloat16, which numpy does not know, becomes float32, exactly.

    Raises:
        Unfit: it is none.
    """
    where = f" as {name}" if name else ""
    try:
        if hasattr(value, "detach"):
            tensor = value.detach().cpu()
            if tensor.layout != _strided():
                tensor = tensor.to_dense()
            value = tensor if _plain(tensor) else tensor.float()
        elif isinstance(value, tuple | list) and value and hasattr(value[0], "detach"):
            value = np.stack([as_array(each) if each.ndim else np.asarray(each.item()) for each in value])
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise Unfit(f"{type(value).__name__}{where}, not an array: {error}") from error
    if array.dtype.kind == "O":
        array = _of_objects(array, where)
    if array.dtype.kind not in "biuf":
        if array.dtype.kind in "UST":
            raise Unfit(f"an array of text{where} ({array.dtype}); models take numbers")
        raise Unfit(f"an array of {array.dtype}{where}, expected numbers")
    if array.ndim == 0:
        raise Unfit(f"a single number{where}, expected one row for each sample")
    return array


def _strided() -> object:
    import torch

    return torch.strided


def _of_objects(array: Array, where: str) -> Array:
    """Return an array of Python's numbers, or of arrays, as one of numbers: pandas keeps mixed columns so."""
    try:
        rows: Array = np.stack([np.asarray(each) for each in array]) if array.size else array
        return rows.astype(np.float64) if rows.dtype.kind == "O" else rows
    except (TypeError, ValueError):
        raise Unfit(
            f"an array of objects{where}, expected numbers; rows of different lengths must be padded to one length"
        ) from None


def iterate(part: MapSet, rows: npt.NDArray[np.intp]) -> Iterator[Split]:
    """Yield the samples of these numbers, a few at a time."""
    return (part.read(rows[start : start + READ_AT_ONCE]) for start in range(0, len(rows), READ_AT_ONCE))
