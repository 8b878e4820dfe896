"""What a data function of the user's own may return, and how each form becomes the same four arrays.

Arrays, tensors, pandas columns, torch's map-style datasets and DataLoaders, Hugging Face's datasets. What was converted
on the way is said in the data's remarks; what cannot be meant is refused before anything is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.core.words import counted
from harness.workloads.entries import IGNORED, RawData

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import Arrays

DATA_FORMS = (
    "four values (train inputs, train targets, test inputs, test targets), two data sets (train, test) or one; inputs "
    "are an array or a dict of arrays by the model's keywords, data sets are torch's (map-style), DataLoaders or "
    "Hugging Face's"
)
TARGET_NAMES = ("labels", "label", "target", "targets", "y")
"""Columns that hold what a model's output is compared with, in the order in which they are looked for."""
TEST_SHARE = 0.1
"""Of a single data set, kept for the test split; chosen as usual."""
MOST_CLASSES = 100_000
"""More classes than this are row numbers or measurements; the largest published label sets have some 21,000. Chosen."""
LARGEST_READ = 2**31
"""Bytes of an iterable that are read into memory; chosen."""


class Unfit(ValueError):
    """What a data function returned cannot be trained on; the message goes on from "returned"."""


@dataclass
class Split:
    """Inputs and targets of one split, as they were found."""

    inputs: Arrays
    targets: npt.NDArray[np.generic]


@dataclass
class Remarks:
    """What was converted or left out on the way, each once."""

    lines: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        """Keep a line."""
        if line not in self.lines:
            self.lines.append(line)


def raw_data(result: Any) -> RawData:
    """Return what a data function returned as arrays.

    Raises:
        Unfit: it is in none of the forms, or no model could be trained on it.
    """
    from harness.workloads.datasets import content_checksum

    remarks = Remarks()
    train, test = _splits(result, remarks)
    targets = [_targets(split.targets, part, remarks) for split, part in ((train, "training"), (test, "test"))]
    train, test = Split(train.inputs, targets[0]), Split(test.inputs, targets[1])
    _check(train, "training")
    _check(test, "test")
    _check_alike(train, test)
    everything = [*_arrays(train.inputs), train.targets, *_arrays(test.inputs), test.targets]
    images = _bytes_as_images(train, test, remarks)
    classes = _classes(train.targets, test.targets)
    ready = images or (_ready(train.inputs), _ready(test.inputs))
    return RawData(
        ready[0],
        train.targets,
        ready[1],
        test.targets,
        classes=classes,
        full_scale=255.0 if images else None,
        checksum=content_checksum(everything),
        vocabulary=0 if images else _vocabulary(*ready),
        remarks=tuple(remarks.lines),
    )


# -- forms -------------------------------------------------------------------------------------------------------------


def _splits(result: Any, remarks: Remarks) -> tuple[Split, Split]:
    if isinstance(result, Mapping) and "train" in result:  # a DatasetDict, or a dict of splits
        test = next((result[name] for name in ("test", "validation") if name in result), None)
        result = (result["train"], test) if test is not None else result["train"]
    if isinstance(result, tuple | list) and len(result) == 4:
        inputs, targets, test_inputs, test_targets = result
        return Split(_inputs(inputs), _array(targets)), Split(_inputs(test_inputs), _array(test_targets))
    if isinstance(result, tuple | list) and len(result) == 2 and _is_set(result[0]):
        return _read(result[0], remarks), _read(result[1], remarks)
    if _is_set(result):
        return _cut(_read(result, remarks), remarks)
    got = counted(len(result), "value") if isinstance(result, tuple | list) else type(result).__name__
    raise Unfit(f"{got}, expected {DATA_FORMS}")


def _is_set(value: Any) -> bool:
    """Whether this is a data set of samples rather than an array."""
    return hasattr(value, "column_names") or (
        not isinstance(value, np.ndarray | str | bytes | Mapping)
        and not hasattr(value, "detach")
        and not hasattr(value, "dtype")
        and (hasattr(value, "__getitem__") or hasattr(value, "__iter__"))
        and not isinstance(value, tuple | list)
    )


def _cut(whole: Split, remarks: Remarks) -> tuple[Split, Split]:
    """Keep the last samples of a single data set for the test split."""
    number = len(whole.targets)
    train = number - max(1, round(TEST_SHARE * number))
    remarks.add(f"data: one data set was given; its last {number - train:,} of {number:,} samples are the test split")
    head, tail = slice(None, train), slice(train, None)
    return (
        Split(_sliced(whole.inputs, head), whole.targets[head]),
        Split(_sliced(whole.inputs, tail), whole.targets[tail]),
    )


def _sliced(inputs: Arrays, part: slice) -> Arrays:
    return {name: array[part] for name, array in inputs.items()} if isinstance(inputs, dict) else inputs[part]


def _read(samples: Any, remarks: Remarks) -> Split:
    """Return the arrays of a data set of any kind."""
    if hasattr(samples, "column_names"):
        return _of_columns(samples)
    collate = None
    if hasattr(samples, "dataset") and hasattr(samples, "collate_fn"):
        remarks.add("data: of a DataLoader its data set and collate function are used, not its sampler and batch size")
        samples, collate = samples.dataset, samples.collate_fn
        if hasattr(samples, "column_names"):
            return _of_columns(samples)
    return _of_batches(_batches(samples, collate, remarks))


def _of_columns(samples: Any) -> Split:
    """Return the columns of a Hugging Face data set: one is the target, the others are the model's keywords."""
    names = list(samples.column_names)
    target = next((name for name in TARGET_NAMES if name in names), None)
    if target is None:
        raise Unfit(f"a data set with the columns {', '.join(names)}; one of them must be called {_or(TARGET_NAMES)}")
    columns = samples.with_format("numpy")[:]
    found = {name: _stacked(columns[name], name) for name in names}
    targets = found.pop(target)
    if not found:
        raise Unfit(f"a data set whose only column is {target}; it has no inputs")
    inputs = {name: array for name, array in found.items() if array.dtype.kind in "biuf"}
    if not inputs:
        raise Unfit(f"columns of text ({', '.join(found)}); tokenize them first: models take numbers")
    return Split(inputs, targets)


def _batches(samples: Any, collate: Any, remarks: Remarks) -> Iterator[Any]:
    """Yield the samples of a data set, collated a few at a time."""
    from torch.utils.data import default_collate

    join, size = collate or default_collate, 256
    if hasattr(samples, "__getitem__") and hasattr(samples, "__len__"):
        for start in range(0, len(samples), size):
            yield join([samples[k] for k in range(start, min(start + size, len(samples)))])
        return
    remarks.add("data: an iterable was read once, into memory")
    waiting, held = [], 0
    for sample in samples:
        waiting.append(sample)
        if len(waiting) == size:
            batch = join(waiting)
            held += _bytes_of(batch)
            if held > LARGEST_READ:
                raise Unfit(f"an iterable of more than {LARGEST_READ / 2**30:g} GiB; return a map-style data set")
            yield batch
            waiting = []
    if waiting:
        yield join(waiting)


def _bytes_of(batch: Any) -> int:
    if hasattr(batch, "nbytes"):
        return int(batch.nbytes)
    if isinstance(batch, Mapping):
        batch = list(batch.values())
    return sum(_bytes_of(value) for value in batch) if isinstance(batch, tuple | list) else 0


def _of_batches(batches: Iterable[Any]) -> Split:
    """Join collated batches: pairs of (inputs, targets), or dictionaries with a target among them."""
    inputs: list[Arrays] = []
    targets: list[npt.NDArray[np.generic]] = []
    for batch in batches:
        found = _pair(batch)
        inputs.append(_inputs(found[0]))
        targets.append(_array(found[1]))
    if not targets:
        raise Unfit("a data set without samples")
    first = inputs[0]
    try:
        if isinstance(first, dict):
            joined: Arrays = {name: np.concatenate([each[name] for each in inputs]) for name in first}  # type: ignore[call-overload]
        else:
            joined = np.concatenate(inputs)  # type: ignore[arg-type]
        return Split(joined, np.concatenate(targets))
    except ValueError as error:
        raise Unfit(f"samples of different shapes ({error}); pad or crop them to one") from None


def _pair(batch: Any) -> tuple[Any, Any]:
    if isinstance(batch, Mapping):
        target = next((name for name in TARGET_NAMES if name in batch), None)
        if target is None:
            raise Unfit(f"samples with the keys {', '.join(map(str, batch))}; one must be called {_or(TARGET_NAMES)}")
        rest = {name: value for name, value in batch.items() if name != target}
        return rest, batch[target]
    if isinstance(batch, tuple | list) and len(batch) == 2:
        return batch[0], batch[1]
    got = counted(len(batch), "value") if isinstance(batch, tuple | list) else type(batch).__name__
    raise Unfit(f"samples of {got}, expected pairs (inputs, target) or dicts with a target")


def _or(names: Sequence[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


# -- arrays ------------------------------------------------------------------------------------------------------------


def _inputs(value: Any) -> Arrays:
    if isinstance(value, Mapping):
        return {str(name): _array(each, str(name)) for name, each in value.items()}
    if isinstance(value, tuple | list) and value and len(getattr(value[0], "shape", ())):
        raise Unfit("several inputs without names; give them as a dict by the keywords of the model's forward")
    return _array(value)


def _array(value: Any, name: str = "") -> npt.NDArray[np.generic]:
    """Return an array of numbers; bfloat16, which numpy does not know, becomes float32, exactly."""
    where = f" as {name}" if name else ""
    try:
        if hasattr(value, "detach"):
            tensor = value.detach().cpu()
            value = tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise Unfit(f"{type(value).__name__}{where}, not an array: {error}") from error
    if array.dtype.kind not in "biuf":
        if array.dtype.kind in "OUST":
            raise Unfit(f"an array of text or objects{where} ({array.dtype}); give classes the numbers 0, 1, 2, ...")
        raise Unfit(f"an array of {array.dtype}{where}, expected numbers")
    if array.ndim == 0:
        raise Unfit(f"a single number{where}, expected one row for each sample")
    return array


def _stacked(column: Any, name: str) -> npt.NDArray[np.generic]:
    array = np.asarray(column)
    if array.dtype.kind != "O":
        return array
    try:
        return np.stack([np.asarray(each) for each in column])
    except ValueError:
        raise Unfit(f"rows of different lengths in the column {name}; pad them to one length") from None


def _arrays(inputs: Arrays) -> list[npt.NDArray[np.generic]]:
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def _ready(inputs: Arrays) -> Arrays:
    """Return inputs in the types that tensors have: float32 (float64 stays), int64 for whole numbers.

    Whole numbers of two axes are tokens; of any other number of axes and without a name they are measurements.
    """

    def one(array: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        if array.dtype.kind == "f":
            return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
        return array if array.dtype in (np.bool_, np.uint8) else array.astype(np.int64)

    if not isinstance(inputs, dict) and inputs.dtype.kind in "iu" and inputs.ndim != 2:
        return inputs.astype(np.float32)
    return {name: one(array) for name, array in inputs.items()} if isinstance(inputs, dict) else one(inputs)


def _targets(targets: npt.NDArray[np.generic], part: str, remarks: Remarks) -> npt.NDArray[np.generic]:
    """Return classes as int64, and numbers to be met as float32."""
    if targets.dtype.kind in "iub":
        if targets.ndim == 2 and targets.shape[1] == 1:
            targets = targets[:, 0]
            remarks.add("data: targets of shape (n, 1) are read as (n,)")
        return targets.astype(np.int64, copy=False)
    return targets.astype(np.float32, copy=False)


def _bytes_as_images(train: Split, test: Split, remarks: Remarks) -> tuple[Arrays, Arrays] | None:
    """Return bytes of three or four axes as images, the channels first; None where inputs are no such bytes."""
    first, second = train.inputs, test.inputs
    if isinstance(first, dict) or isinstance(second, dict):
        return None
    if not (first.dtype == second.dtype == np.uint8 and first.ndim in (3, 4)):
        return None
    if first.ndim == 4 and first.shape[3] in (1, 3, 4) and first.shape[1] not in (1, 3, 4):
        remarks.add("data: images of (n, height, width, channels) were turned to (n, channels, height, width)")
        return first.transpose(0, 3, 1, 2), second.transpose(0, 3, 1, 2)
    return first, second


def _vocabulary(train: Arrays, test: Arrays) -> int:
    """Return how many tokens there are; 0 where inputs are no whole numbers."""
    whole = [a for a in (*_arrays(train), *_arrays(test)) if a.dtype.kind in "iu" and a.dtype != np.uint8]
    return 1 + max((int(array.max()) for array in whole if array.size), default=-1)


def _classes(*targets: npt.NDArray[np.generic]) -> int:
    if any(some.dtype.kind == "f" for some in targets):
        return 0
    return 1 + max((int(some.max()) for some in targets if some.size), default=-1)


# -- judging -----------------------------------------------------------------------------------------------------------


def _check(split: Split, part: str) -> None:
    """Refuse one split on which nothing can be trained or judged."""
    number = len(split.targets)
    for name, array in split.inputs.items() if isinstance(split.inputs, dict) else [("", split.inputs)]:
        what = f"{part} inputs {name}".rstrip()
        if len(array) != number:
            raise Unfit(f"{len(array):,} {what} but {number:,} {part} targets; they must be equally many")
        _check_finite(array, what)
    if not number:
        raise Unfit(f"no {part} samples")
    _check_finite(split.targets, f"{part} targets")
    if split.targets.dtype.kind == "f":
        return
    lowest, highest = int(split.targets.min()), int(split.targets.max())
    negative = {int(each) for each in np.unique(split.targets) if each < 0}  # type: ignore[operator]
    if negative and not (split.targets.ndim > 1 and negative == {IGNORED}):
        raise Unfit(f"{part} labels from {lowest} to {highest}; classes are numbered from 0")
    if highest >= MOST_CLASSES:
        raise Unfit(
            f"{part} labels up to {highest:,}: that would be as many classes. Number the classes 0, 1, 2, ..., or give "
            'numbers to be met as floats with loss = "mse"'
        )


def _check_finite(array: npt.NDArray[np.generic], what: str) -> None:
    if array.dtype.kind != "f":
        return
    bad = ~np.isfinite(array)
    if bad.any():
        rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
        raise Unfit(
            f"{what} with {counted(int(bad.sum()), 'value')} not a finite number, the first in sample {rows[0]:,}; "
            f"leave out or mend {counted(len(rows), 'sample')}"
        )


def _check_alike(train: Split, test: Split) -> None:
    """Refuse splits that cannot come from one data set."""
    first, second = train.inputs, test.inputs
    if isinstance(first, dict) != isinstance(second, dict) or (
        isinstance(first, dict) and isinstance(second, dict) and first.keys() != second.keys()
    ):
        raise Unfit("training and test inputs with different names")
    pairs = zip(_arrays(first), _arrays(second), strict=True)
    for one, other in (*pairs, (train.targets, test.targets)):
        if one.shape[1:] != other.shape[1:]:
            raise Unfit(f"training samples of shape {one.shape[1:]}, test samples of shape {other.shape[1:]}")
        if (one.dtype.kind == "f") != (other.dtype.kind == "f"):
            raise Unfit(
                f"training samples of type {one.dtype}, test samples of type {other.dtype}: bytes and fractions are on "
                "different scales; return both in one type"
            )


def _is_one_hot(targets: npt.NDArray[np.generic]) -> bool:
    if targets.ndim != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(axis=1) == 1).all())


def for_loss(raw: RawData, loss: str) -> RawData:
    """Return data whose targets are what a loss compares with: cross-entropy takes numbers of classes.

    Raises:
        Unfit: the targets are fractions.
    """
    if loss != "cross-entropy" or raw.classes:
        return raw
    train, test = raw.train_targets, raw.test_targets
    if all(_is_one_hot(t) for t in (train, test)):
        said, pair = "data: one-hot targets were turned into classes", [t.argmax(axis=1) for t in (train, test)]
    elif all((t == np.floor(t)).all() and t.min(initial=0) >= 0 for t in (train, test)):
        said, pair = "data: targets of whole numbers written as fractions are read as classes", [train, test]
    else:
        raise Unfit('targets with fractions, which cross-entropy cannot compare with; set workload.loss = "mse"')
    classes = [t.astype(np.int64) for t in pair]
    remarks = (*raw.remarks, said)
    return replace(raw, train_targets=classes[0], test_targets=classes[1], classes=_classes(*classes), remarks=remarks)
