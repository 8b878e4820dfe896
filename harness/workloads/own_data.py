"""What a data function of the user's own may return, and how each form becomes the same four arrays.

`data_forms` reads the forms and `judge_data` judges the splits; here types are settled: images, tokens, classes. What
was converted on the way is said in the data's remarks; what cannot be meant is refused before anything is trained.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from harness.core.words import listed
from harness.workloads.data_forms import MapSet, SplitOrSet, iterate, joined_splits, read_whole, splits_of
from harness.workloads.entries import RawData, Streams
from harness.workloads.found_data import TARGET_NAMES, Remarks, Split, Unfit, by_name
from harness.workloads.judge_data import check_finite, judge, judge_classes, scale_remarks, unscaled

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import Arrays, Keeps

    Array = npt.NDArray[np.generic]

__all__ = ["Unfit", "for_loss", "raw_data"]

TEST_SHARE = 0.1
"""Of a single data set, kept for the test split; chosen as usual."""
TEST_SEED = 20161
"""Draws that split: chosen once, and never a run's seed, so that all runs are judged by the same samples."""
LOOK = 512
"""Samples of a streamed split that are judged, spread over it; chosen: a few batches, so seconds where a step takes
them. The others are judged when they are trained on."""
MOST_NAMED = 6
"""Classes whose names a remark gives; chosen."""


def raw_data(result: object, keeps: Keeps | None = None) -> RawData:
    """Return what a data function returned as arrays.

    Args:
        keeps: told how many bytes all samples of a map-style data set take, and whether its samples are drawn anew
            each time; says whether they are all read now. None: they are.

    Raises:
        Unfit: it is in none of the forms, or no model could be trained on it.
    """
    remarks = Remarks(columns=_names_of_columns(result))
    train, test = splits_of(result, remarks)
    if isinstance(train, MapSet) and keeps is not None:
        streamed = _streamed(train, test, keeps, remarks)
        if streamed is not None:
            return streamed
    whole = read_whole(train)
    if test is None:
        whole, other = _cut(whole, remarks)
    else:
        other = read_whole(test)
    return _settled(whole, other, remarks)


def _names_of_columns(result: object) -> tuple[str, ...]:
    """Return the names of a vector's numbers, where they are columns of a table of pandas."""
    first = result[0] if isinstance(result, tuple | list) and result else result
    if not (hasattr(first, "iloc") and hasattr(first, "columns")):
        return ()
    return tuple(str(name) for name in first.columns if str(name) not in TARGET_NAMES)


def _settled(train: Split, test: Split, remarks: Remarks) -> RawData:
    """Judge two splits and give them their types."""
    from harness.workloads.datasets import content_checksum

    train.targets, test.targets = _target_types(train.targets, test.targets, remarks)
    train.inputs, test.inputs = _same_type(train.inputs, test.inputs)
    judge(train, test, remarks)
    everything = [array for split in (train, test) for array in (*by_name(split.inputs).values(), split.targets)]
    finish, full_scale = _finish(train.inputs, remarks)
    ready = finish(train.inputs), finish(test.inputs)
    large = () if full_scale else unscaled(ready[0], train.targets, remarks.columns)
    return RawData(
        ready[0],
        train.targets,
        ready[1],
        test.targets,
        classes=_number_of_classes(train.targets, test.targets),
        full_scale=full_scale,
        checksum=content_checksum(everything),
        vocabulary=0 if full_scale else _vocabulary(*ready),
        remarks=(*remarks.lines, *scale_remarks(large)),
        judged=False,
        unscaled=large,
    )


def _cut(whole: Split, remarks: Remarks) -> tuple[Split, Split]:
    """Keep some samples of a single data set for the test split."""
    train, test = _cut_rows(len(whole), remarks)
    return whole.at(train), whole.at(test)


def _cut_rows(number: int, remarks: Remarks) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Draw the test split of a single data set: data are often sorted by class, so that its last samples are not fair.

    Raises:
        Unfit: there is one sample only.
    """
    if number == 1:
        raise Unfit("one sample; at least three are needed: to train on, to hold out and to test with")
    tested = max(1, round(TEST_SHARE * number))
    order = np.random.RandomState(TEST_SEED).permutation(number)
    remarks.add(
        f"data: one data set was given; {tested:,} of its {number:,} samples, the same in every run, are the test split"
    )
    return np.sort(order[tested:]), np.sort(order[:tested])


# -- streams -----------------------------------------------------------------------------------------------------------


def _streamed(train: MapSet, test: SplitOrSet | None, keeps: Keeps, remarks: Remarks) -> RawData | None:
    """Return data whose samples are read when they are needed; None where all are read now.

    Raises:
        Unfit: a look at them shows that they cannot be trained on.
    """
    from harness.workloads.datasets import content_checksum

    number = len(train)
    first = train.read(range(1))
    each = sum(array.size * max(4, array.itemsize) for array in (*by_name(first.inputs).values(), first.targets))
    total = each * (number + (len(test) if test is not None else 0))
    anew = draws_anew(train)
    if keeps(total, anew):
        if anew:
            remarks.add("data: samples are drawn anew each time, and were read once: every epoch sees the same ones")
        return None
    if anew and draws_anew(train, seeds=True):
        remarks.add(
            "data: samples are drawn from a generator of the data set's own, which the run's seed does not reach, so "
            "that devices draw others than one device would; draw with torch, numpy.random or random instead"
        )
    tested: SplitOrSet = train if test is None else test
    rows = np.arange(number), np.arange(len(tested))
    if test is None:
        rows = _cut_rows(number, remarks)
    looks = _look(train, rows[0], remarks), _look(tested, rows[1], remarks)
    settled = _settled(looks[0][0], looks[1][0], remarks)
    # The look was converted in the end; targets of all samples are converted alike.
    targets = [_all_targets(targets, split, remarks) for split, targets in looks]
    finish, _ = _finish(looks[0][0].inputs, Remarks())
    source = MapSource(train, finish), tested_source(tested, finish)
    return replace(
        settled,
        train_targets=targets[0],
        test_targets=targets[1],
        classes=_number_of_classes(*targets),
        checksum=content_checksum([*arrays_of(settled), *targets]),
        remarks=tuple(remarks.lines),
        streams=Streams(source[0].at(rows[0]), source[1].at(rows[1]), anew),
    )


def _look(part: SplitOrSet, rows: npt.NDArray[np.intp], remarks: Remarks) -> tuple[Split, Array]:
    """Return samples spread over a split, and the targets of all of them.

    All samples are read where nothing else tells their targets, or how many different tokens there are.
    """
    if isinstance(part, Split):
        return part.at(rows), part.targets[rows]
    spread = rows[np.unique(np.linspace(0, len(rows) - 1, min(LOOK, len(rows))).astype(np.intp))]
    look = joined_splits([*iterate(part, spread)])
    known = part.all_targets
    if known is not None and not np.array_equal(known[spread], look.targets):
        known = None  # they are changed on their way out, as by torchvision's target_transform
    tokens = any(array.dtype.kind in "iu" and array.dtype != np.uint8 for array in by_name(look.inputs).values())
    if known is not None and not tokens:
        return look, known[rows]
    if len(spread) < len(rows):
        why = "to count the different tokens" if tokens else "for their targets; an attribute targets would spare that"
        remarks.add(f"data: all samples were read once {why}")
    found, largest = [], look
    for split in iterate(part, rows):
        found.append(split.targets)
        largest = _with_larger(largest, split) if tokens else largest
    return largest, np.concatenate(found)


def _with_larger(look: Split, split: Split) -> Split:
    """Add the samples that hold a token above all those of the look."""
    for name, array in by_name(split.inputs).items():
        seen = by_name(look.inputs)[name]
        if array.dtype.kind in "iu" and array.max() > seen.max():
            row = np.unravel_index(int(array.argmax()), array.shape)[0]
            look = joined_splits([look, split.at(slice(int(row), int(row) + 1))])
    return look


def _all_targets(targets: Array, look: Split, remarks: Remarks) -> Array:
    if targets.dtype.kind in "US":
        raise Unfit("targets of text in a data set that is streamed; give classes the numbers 0, 1, 2, ...")
    return _target_types(targets, targets, remarks)[0].astype(look.targets.dtype, copy=False)


def arrays_of(raw: RawData) -> list[Array]:
    """Return the inputs of both splits."""
    return [*by_name(raw.train_inputs).values(), *by_name(raw.test_inputs).values()]


def draws_anew(part: MapSet, seeds: bool = False) -> bool:
    """Whether a sample read twice is another one the second time: it is augmented, or drawn.

    Args:
        seeds: give the global generators the same seed both times.
    """
    from harness.workloads.generators import generators_kept
    from harness.workloads.streamed import seed_generators

    before = seed_generators if seeds else None
    with generators_kept():
        first, again = part.read(range(1), before), part.read(range(1), before)
    return any(
        not np.array_equal(one, by_name(again.inputs)[name], equal_nan=one.dtype.kind == "f")
        for name, one in by_name(first.inputs).items()
    )


class MapSource:
    """Samples of a map-style data set in the types that a model gets."""

    def __init__(self, part: MapSet, finish: Callable[[Arrays], Arrays], rows: Array | None = None) -> None:
        self.part, self.finish, self.rows = part, finish, rows

    def __len__(self) -> int:
        return len(self.part) if self.rows is None else len(self.rows)

    def at(self, rows: Array) -> MapSource:
        """Return some of the samples."""
        return MapSource(self.part, self.finish, rows if self.rows is None else self.rows[rows.astype(np.intp)])

    def read(self, rows: Array, before: Callable[[int], None] | None = None) -> tuple[Arrays, Array]:
        """Return inputs and targets of these samples, collated.

        Raises:
            Unfit: a number in them is none.
        """
        wanted = rows.astype(np.intp) if self.rows is None else self.rows[rows.astype(np.intp)].astype(np.intp)
        split = self.part.read(wanted, before)
        check_finite(split, "streamed")
        return self.finish(split.inputs), _number_types(split.targets)


class ArraySource:
    """Samples of arrays in host memory."""

    def __init__(self, inputs: Arrays, targets: Array) -> None:
        self.split = Split(inputs, targets)

    def __len__(self) -> int:
        return len(self.split)

    def at(self, rows: Array) -> ArraySource:
        """Return some of the samples."""
        split = self.split.at(rows.astype(np.intp))
        return ArraySource(split.inputs, split.targets)

    def read(self, rows: Array, before: Callable[[int], None] | None = None) -> tuple[Arrays, Array]:
        """Return inputs and targets of these samples."""
        split = self.split.at(rows.astype(np.intp))
        return split.inputs, split.targets


def tested_source(part: SplitOrSet, finish: Callable[[Arrays], Arrays]) -> MapSource | ArraySource:
    """Return the source of a split that may have been read already."""
    if isinstance(part, MapSet):
        return MapSource(part, finish)
    return ArraySource(finish(part.inputs), _number_types(part.targets))


# -- types of inputs ---------------------------------------------------------------------------------------------------


def _same_type(train: Arrays, test: Arrays) -> tuple[Arrays, Arrays]:
    """Give floats of both splits one type: the larger of the two."""
    if by_name(train).keys() != by_name(test).keys():
        return train, test  # refused when they are judged

    def one(array: Array, other: Array) -> Array:
        both = array.dtype.kind == other.dtype.kind == "f" and array.dtype != other.dtype
        return array.astype(np.promote_types(array.dtype, other.dtype)) if both else array

    return _each(train, lambda name, a: one(a, by_name(test)[name])), _each(
        test, lambda n, a: one(a, by_name(train)[n])
    )


def _each(inputs: Arrays, change: Callable[[str, Array], Array]) -> Arrays:
    if isinstance(inputs, dict):
        return {name: change(name, array) for name, array in inputs.items()}
    return change("", inputs)


def _finish(inputs: Arrays, remarks: Remarks) -> tuple[Callable[[Arrays], Arrays], float | None]:
    """Return what gives inputs like these the types that tensors have, and the full scale of images of bytes.

    Floats become float32 (float64 stays), whole numbers int64. Bytes of three or four axes are images, their channels
    first. Whole numbers of two axes are tokens; of any other number of axes, or below 0, they are measurements.
    """
    if not isinstance(inputs, dict):
        if inputs.dtype == np.uint8 and inputs.ndim in (3, 4):
            return _image_turner(inputs, remarks), 255.0
        if inputs.dtype.kind in "iu" and inputs.dtype != np.uint8 and (inputs.ndim != 2 or inputs.min() < 0):
            remarks.add("data: inputs of whole numbers that are no tokens became floats")
            return lambda given: _each(given, lambda _, array: array.astype(np.float32)), None
    return lambda given: _each(given, lambda _, array: _ready(array)), None


def _ready(array: Array) -> Array:
    if array.dtype.kind == "f":
        return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)
    return array if array.dtype in (np.bool_, np.uint8) else array.astype(np.int64)


def _image_turner(images: Array, remarks: Remarks) -> Callable[[Arrays], Arrays]:
    remarks.add(
        "data: images of bytes were divided by 255 and normalised with the mean and deviation of the training images"
    )
    if images.ndim == 4 and images.shape[3] in (1, 3, 4) and images.shape[1] not in (1, 3, 4):
        remarks.add("data: images of (n, height, width, channels) were turned to (n, channels, height, width)")
        return lambda given: _each(given, lambda _, array: array.transpose(0, 3, 1, 2))
    return lambda given: given


def _vocabulary(train: Arrays, test: Arrays) -> int:
    """Return how many tokens there are; 0 where inputs are no whole numbers."""
    whole = [
        a for a in (*by_name(train).values(), *by_name(test).values()) if a.dtype.kind in "iu" and a.dtype != np.uint8
    ]
    return 1 + max((int(array.max()) for array in whole if array.size), default=-1)


# -- types of targets --------------------------------------------------------------------------------------------------


def _target_types(train: Array, test: Array, remarks: Remarks) -> tuple[Array, Array]:
    """Return classes as int64, and numbers to be met as float32; names of classes are numbered."""
    if train.dtype.kind == "U" and test.dtype.kind == "U":
        names, numbers = np.unique(np.concatenate([train.ravel(), test.ravel()]), return_inverse=True)
        shown = [f"{number} = {name}" for number, name in enumerate(names[:MOST_NAMED])]
        more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
        remarks.add(f"data: names of classes were numbered in the order of the alphabet: {listed([*shown, *more])}")
        numbers = numbers.reshape(-1).astype(np.int64)
        return numbers[: train.size].reshape(train.shape), numbers[train.size :].reshape(test.shape)
    if "U" in (train.dtype.kind, test.dtype.kind):
        raise Unfit("names of classes in one split and numbers in the other; return both in one form")
    whole = all(each.dtype.kind in "iub" for each in (train, test))
    if whole and all(each.ndim == 2 and each.shape[1] == 1 for each in (train, test)):
        remarks.add("data: targets of shape (n, 1) are read as (n,)")
        train, test = train[:, 0], test[:, 0]
    if not whole and train.dtype.kind != "f" and test.dtype.kind == "f":
        train = train.astype(np.float32)
    elif not whole and test.dtype.kind != "f" and train.dtype.kind == "f":
        test = test.astype(np.float32)
    return _number_types(train), _number_types(test)


def _number_types(targets: Array) -> Array:
    if targets.dtype.kind in "iub":
        return targets.astype(np.int64, copy=False)
    return targets.astype(np.float32, copy=False)


def _number_of_classes(*targets: Array) -> int:
    if any(some.dtype.kind == "f" for some in targets):
        return 0
    return 1 + max((int(some.max()) for some in targets if some.size), default=-1)


def _is_one_hot(targets: Array) -> bool:
    if targets.ndim != 2 or targets.shape[1] < 2:
        return False
    return bool(((targets == 0) | (targets == 1)).all() and (targets.sum(axis=1) == 1).all())


def for_loss(raw: RawData, loss: str) -> RawData:
    """Return data whose targets are what a loss compares with: cross-entropy takes numbers of classes.

    Raises:
        Unfit: the targets are fractions, or of one class only.
    """
    if raw.judged:
        return raw
    raw = _classes_for(raw, loss)
    _check_for_loss(raw, loss)
    said = judge_classes(raw.train_targets, raw.test_targets, loss) if raw.classes else []
    if loss == "mse" and raw.classes and raw.full_scale is None:
        said.append(
            "data: targets of whole numbers are classes, which mse compares with 0 and 1; give numbers to be met as "
            "floats"
        )
    return replace(raw, remarks=(*raw.remarks, *said), judged=True)


def kept_out(raw: RawData, keeps: Keeps) -> RawData:
    """Return data that are read from host memory as they are needed, where they are not to stay on the device."""
    if raw.streams is not None:
        return raw
    if keeps(sum(array.size * max(4, array.itemsize) for array in arrays_of(raw)), False):
        return raw
    train, test = (ArraySource(*pair) for pair in _pairs_of(raw))
    return replace(raw, streams=Streams(train, test))


def _pairs_of(raw: RawData) -> tuple[tuple[Arrays, Array], tuple[Arrays, Array]]:
    return (raw.train_inputs, raw.train_targets), (raw.test_inputs, raw.test_targets)


def _classes_for(raw: RawData, loss: str) -> RawData:
    """Turn one-hot targets, and whole numbers written as fractions, into classes where the loss wants them."""
    train, test = raw.train_targets, raw.test_targets
    if loss != "cross-entropy":
        return raw
    text = not isinstance(raw.train_inputs, dict) and raw.vocabulary and raw.train_inputs.shape == train.shape
    if all(_is_one_hot(t) for t in (train, test)) and not text:
        said, pair = "data: one-hot targets were turned into classes", [t.argmax(axis=1) for t in (train, test)]
    elif raw.classes:
        return raw
    elif all((t == np.floor(t)).all() and (t.min(initial=0) >= 0) for t in (train, test)):
        said, pair = "data: targets of whole numbers written as fractions are read as classes", [train, test]
    else:
        raise Unfit('targets with fractions, which cross-entropy cannot compare with; set workload.loss = "mse"')
    if raw.streams is not None:
        raise Unfit("one-hot or fractional classes in a data set that is streamed; give classes as whole numbers")
    classes = [t.astype(np.int64) for t in pair]
    if len(classes[0].shape) == 2 and classes[0].shape[1] == 1:
        classes = [t[:, 0] for t in classes]
    remarks = (*raw.remarks, said)
    number = max(_number_of_classes(*classes), train.shape[1] if train.ndim == 2 and train.shape[1] > 1 else 0)
    return replace(raw, train_targets=classes[0], test_targets=classes[1], classes=number, remarks=remarks)


def _check_for_loss(raw: RawData, loss: str) -> None:
    if loss != "bce-with-logits":
        return
    for part, targets in (("training", raw.train_targets), ("test", raw.test_targets)):
        lowest, highest = targets.min(), targets.max()
        if lowest < 0 or highest > 1:
            raise Unfit(
                f"{part} targets from {lowest:g} to {highest:g}, and bce-with-logits takes 0 to 1; set workload.loss "
                'to "cross-entropy" for classes or "mse" for numbers'
            )
