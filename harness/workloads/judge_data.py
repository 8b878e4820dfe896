"""Judge data before anything is trained: what cannot be meant is refused, what looks odd is said."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.core.words import counted, listed, share_in_percent
from harness.workloads.entries import IGNORED
from harness.workloads.found_data import Remarks, Split, Unfit, by_name, pairs

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.workloads.entries import Arrays

    Array = npt.NDArray[np.generic]

MOST_CLASSES = 100_000
"""More classes than this are row numbers or measurements; the largest published label sets have some 21,000. Chosen."""
MOST_TOKENS = 2_000_000
"""The same of tokens and pixels; the largest published vocabularies have some 260,000. Chosen."""
FEW_OF_EACH = 2
"""Samples of a class below which, on average, labels look like row numbers; chosen: nobody learns a class from one."""
APART = 10.0
"""Factor between the spreads of two splits, or spreads between their means, from which they are on other scales;
chosen: splits drawn from the same data differ by a few percent."""
BYTES_AGAINST_FRACTIONS = (100.0, 400.0)
"""Where the largest values are so far apart, and the smaller one is about 1, one split is in 0..255."""
SAMPLED_VALUES = 1 << 22
"""Values of an array that statistics are taken of: they need no more; chosen, some 10 ms."""
MOST_LISTED = 5
"""Classes that a remark lists; chosen."""


def judge(train: Split, test: Split, remarks: Remarks) -> None:
    """Refuse splits on which nothing can be trained or judged, and remark on what is odd about them.

    Raises:
        Unfit: with the reason.
    """
    for split, part in ((train, "training"), (test, "test")):
        _check_counts(split, part)
        check_finite(split, part)
        _check_labels(split.targets, part)
    if len(train) == 1:
        raise Unfit("one training sample; at least two are needed to train on one and hold one out")
    _check_alike(train, test)
    _compare_scales(train, test, remarks)
    _remark_on_layout(train, remarks)


def _check_counts(split: Split, part: str) -> None:
    number = len(split)
    for name, array in by_name(split.inputs).items():
        what = f"{part} inputs {name}".rstrip()
        if len(array) == number:
            continue
        if len(array) in split.targets.shape[1:]:
            raise Unfit(
                f"{part} targets of shape {split.targets.shape} for {len(array):,} {what}; the first axis must count "
                f"the samples: turn the targets, as with .T"
            )
        if number in array.shape[1:]:
            raise Unfit(
                f"{what} of shape {array.shape} for {number:,} targets; the first axis must count the samples: move "
                "it there, as with numpy.moveaxis(x, -1, 0)"
            )
        raise Unfit(f"{len(array):,} {what} but {number:,} {part} targets; they must be equally many")
    if not number:
        raise Unfit(f"no {part} samples; at least one is needed")


def check_finite(split: Split, part: str) -> None:
    """Refuse numbers that are none.

    Raises:
        Unfit: there is one.
    """
    arrays = {f"{part} inputs {name}".rstrip(): array for name, array in by_name(split.inputs).items()}
    for what, array in {**arrays, f"{part} targets": split.targets}.items():
        if array.dtype.kind != "f":
            continue
        bad = ~np.isfinite(array)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
            small = " (float16 holds no more than 65,504)" if array.dtype == np.float16 else ""
            raise Unfit(
                f"{what} with {counted(int(bad.sum()), 'value')} not a finite number{small}, the first in sample "
                f"{rows[0]:,}; leave out or mend {counted(len(rows), 'sample')}"
            )


def _check_labels(targets: Array, part: str) -> None:
    if targets.dtype.kind == "f":
        return
    lowest, highest = int(targets.min()), int(targets.max())
    if lowest < 0:
        negative = {int(each) for each in np.unique(targets) if int(each) < 0}
        if targets.ndim == 1 or negative != {IGNORED}:
            ignored = "" if targets.ndim == 1 else f"; positions that do not count are {IGNORED}"
            raise Unfit(f"{part} labels from {lowest} to {highest}; classes are numbered from 0{ignored}")
    if highest >= (MOST_CLASSES if targets.ndim == 1 else MOST_TOKENS):
        raise Unfit(
            f"{part} labels up to {highest:,}: that would be as many classes. Number the classes 0, 1, 2, ..., or give "
            'numbers to be met as floats with loss = "mse"'
        )


def _check_alike(train: Split, test: Split) -> None:
    """Refuse splits that cannot come from one data set."""
    if by_name(train.inputs).keys() != by_name(test.inputs).keys():
        raise Unfit("training and test inputs with different names")
    both = [*pairs(train.inputs, test.inputs), ("targets", train.targets, test.targets)]
    for name, one, other in both:
        what = f" of {name}" if name else ""
        if one.shape[1:] != other.shape[1:]:
            raise Unfit(f"training samples{what} of shape {one.shape[1:]}, test samples of shape {other.shape[1:]}")
        if (one.dtype.kind == "f") != (other.dtype.kind == "f"):
            raise Unfit(
                f"training samples{what} of type {one.dtype}, test samples of type {other.dtype}: bytes and fractions "
                "are on different scales; return both in one type"
            )


# -- scales ------------------------------------------------------------------------------------------------------------


def _sampled(array: Array) -> npt.NDArray[np.float64]:
    """Return values of samples spread over the array."""
    each = max(1, math.prod(array.shape[1:]))
    step = max(1, len(array) * each // SAMPLED_VALUES)
    return np.asarray(array[::step], dtype=np.float64)


LARGE = 1000.0
"""Values from which on numbers are said to need a scale; chosen: layers are initialised for numbers of about 1, and the
rates that suit those diverge here."""


def unscaled(inputs: Arrays, targets: Array, columns: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what is too large to be trained on as it is, in words: "column lot has values up to 3e+07".

    Args:
        columns: names of a vector's numbers, where they have some.
    """
    said = [words for name, array in by_name(inputs).items() for words in _large_inputs(name, array, columns)]
    if targets.dtype.kind == "f" and targets.size and (peak := float(np.abs(_sampled(targets)).max())) > LARGE:
        said.append(f"the targets have values up to {_peak(peak)}")
    return tuple(said)


def _large_inputs(name: str, array: Array, columns: Sequence[str]) -> Iterator[str]:
    if array.dtype.kind != "f" or not array.size:
        return
    of = f" of {name}" if name else ""
    if array.ndim != 2:
        peak = float(np.abs(_sampled(array)).max())
        if peak > LARGE:
            yield f"the inputs{of} have values up to {_peak(peak)}"
        return
    peaks = np.abs(_sampled(array)).max(axis=0)
    large = np.flatnonzero(peaks > LARGE)
    for k in large[:MOST_LISTED]:
        yield f"column {columns[k] if len(columns) == len(peaks) else k}{of} has values up to {_peak(peaks[k])}"
    if len(large) > MOST_LISTED:
        yield f"{counted(len(large) - MOST_LISTED, 'more column')} too"


def _peak(value: float) -> str:
    return f"{value:,.0f}" if value < 1e9 else f"{value:.2g}"


def scale_remarks(found: Sequence[str]) -> list[str]:
    """Return the remark on what is too large, if anything is."""
    return [f"data: {'; '.join(found)}. Scale that: subtract its mean, divide by its deviation"] if found else []


def _compare_scales(train: Split, test: Split, remarks: Remarks) -> None:
    both = [*pairs(train.inputs, test.inputs), ("targets", train.targets, test.targets)]
    for name, one, other in both:
        if one.dtype.kind != "f" and (name == "targets" or one.dtype != np.uint8):
            continue  # whole numbers are classes and tokens
        if min(one.size, other.size) < 2:
            continue
        first, second = _sampled(one), _sampled(other)
        _refuse_bytes_against_fractions(first, second)
        said = _scales_in_words(first, second)
        if said:
            what = name if name == "targets" else f"inputs {name}".rstrip()
            remarks.add(f"data: the {what} of the two splits are on different scales: {said}")


def _refuse_bytes_against_fractions(first: Array, second: Array) -> None:
    tops = float(np.abs(first).max()), float(np.abs(second).max())
    low, high = min(tops), max(tops)
    least, most = BYTES_AGAINST_FRACTIONS
    if 0 < low <= 1.0 and least < high / low < most and high <= 255 and min(first.min(), second.min()) >= 0:
        bytes_, fractions = ("training", "test") if tops[0] > tops[1] else ("test", "training")
        raise Unfit(
            f"{bytes_} inputs up to {high:g} and {fractions} inputs up to {low:g}: bytes and fractions are on "
            "different scales; divide both by 255, or neither"
        )


def _scales_in_words(first: Array, second: Array) -> str:
    spreads = float(first.std()), float(second.std())
    means = float(first.mean()), float(second.mean())
    if 0 in spreads:
        return ""
    ratio = spreads[0] / spreads[1]
    if not 1 / APART < ratio < APART:
        return f"standard deviation {spreads[0]:.3g} in training, {spreads[1]:.3g} in test"
    if abs(means[0] - means[1]) > APART * max(spreads):
        return f"mean {means[0]:.3g} in training, {means[1]:.3g} in test"
    return ""


def _remark_on_layout(train: Split, remarks: Remarks) -> None:
    for name, array in by_name(train.inputs).items():
        last = array.ndim == 4 and array.shape[3] in (1, 3, 4) and array.shape[1] not in (1, 3, 4)
        if last and array.dtype.kind == "f":
            what = f"inputs {name}".rstrip()
            remarks.add(
                f"data: {what} of shape {array.shape[1:]} look like images with the channels last, and are passed as "
                "they are; torch's layers want x.transpose(0, 3, 1, 2)"
            )


# -- classes -----------------------------------------------------------------------------------------------------------


def judge_classes(train: Array, test: Array, loss: str) -> list[str]:
    """Return remarks on the classes of both splits.

    Raises:
        Unfit: there is only one, so that nothing can be told apart.
    """
    present = np.unique(train[train != IGNORED])
    absent_here = np.setdiff1d(np.unique(test[test != IGNORED]), present)
    if loss == "cross-entropy" and train.ndim == 1 and len(present) == 1 and not len(absent_here):
        raise Unfit(f"{len(train):,} training samples of one class, {present[0]}; there is nothing to tell apart")
    if not len(present):
        raise Unfit(f"training targets that are all {IGNORED}: none counts")
    remarks = [_gaps(present, absent_here, train)] if loss != "bce-with-logits" else []
    if len(absent_here):
        remarks.append(f"data: no training sample of {_classes(absent_here)}, which the test split has")
    average = len(train) / len(present)
    if train.ndim == 1 and len(present) > MOST_LISTED and average < FEW_OF_EACH:
        remarks.append(
            f"data: {len(present):,} classes in {len(train):,} training samples; labels that number rows or measure "
            'something are no classes: give measurements as floats with loss = "mse"'
        )
    return [remark for remark in remarks if remark]


def _gaps(present: Array, elsewhere: Array, train: Array) -> str:
    """Say which numbers below the highest no sample has: a model gets an output for each of them."""
    classes = 1 + int(max(present.max(), elsewhere.max(initial=0)))
    missing = np.setdiff1d(np.arange(classes), np.union1d(present, elsewhere))
    if not len(missing) or train.ndim == 2:  # of a vocabulary few texts use every token
        return ""
    if list(missing) == [0]:
        return "data: labels start at 1, and no sample is of class 0; subtract 1, or the model has an output too many"
    ignored = f"; pixels that do not count are {IGNORED}" if train.ndim > 1 else ""
    return f"data: no sample of {_classes(missing)} among {classes} classes{ignored}"


def _classes(numbers: Array) -> str:
    shown = [str(number) for number in numbers[:MOST_LISTED]]
    more = len(numbers) - len(shown)
    return ("class " if len(numbers) == 1 else "classes ") + listed([*shown, *([f"{more} more"] if more else [])])


# -- what a cell does with them ----------------------------------------------------------------------------------------

TINY = 30
"""Validation samples below which accuracies are said to move in large steps; chosen: one sample is then above 3 %."""


def judge_validation(num_train: int, num_validation: int, evaluates: bool) -> list[str]:
    """Return remarks on the validation split.

    Args:
        num_train, num_validation: samples of the two parts that the training split was cut into.
        evaluates: whether the cell is judged by the validation split.

    Raises:
        Unfit: it is, and the split is empty.
    """
    if not evaluates:
        return []
    whole = num_train + num_validation
    if not num_validation:
        least = math.ceil(100 / whole) / 100
        raise Unfit(
            f"{counted(whole, 'training sample')}, of which goal.validation_fraction leaves none for the validation "
            f"split; set it to {least:g} or more, or bring more samples"
        )
    if num_validation < TINY:
        return [
            f"data: the validation split has {counted(num_validation, 'sample')}: one of them is "
            f"{share_in_percent(1 / num_validation)} of what is judged"
        ]
    return []
