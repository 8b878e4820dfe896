"""A table in a file, CSV or Parquet: each row is a sample, one of its columns is what a model is to tell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.core.errors import MachineError, nearest
from harness.core.outside_files import refuse_no_file
from harness.core.outside_tables import read_frame
from harness.core.words import counted, listed
from harness.workloads.datasets import content_checksum
from harness.workloads.entries import RawData, TableOptions
from harness.workloads.judge_data import scale_remarks, unscaled

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    Array = npt.NDArray[np.generic]
    Column: TypeAlias = pd.Series

TABLE_SEED = 20165
"""Draws the test split: chosen once, and never a run's seed, so that all runs are judged by the same rows."""
MOST_CATEGORIES = 64
"""Of a column of text that becomes one column for each; more are numbered. Chosen: wider inputs say little more."""


def load_table(options: TableOptions) -> RawData:
    """Read a table: float32 inputs (n, columns), and classes (n,) or numbers to be met (n, 1).

    Numbers are standardised by the training rows where the options say so; a column of text or of truth values becomes
    one column for each of its words. A target of text or whole numbers is a class, one with a fraction is a number to
    be met.

    Raises:
        MachineError: the file cannot be read, or has no such column.
    """
    train, test = _frames(options)
    for name, frame in (("path", train), ("test_path", test)):
        if options.target not in frame.columns:
            raise MachineError(
                f"dataset table: {getattr(options, name) or options.path} has no column {options.target}"
                f"{nearest(options.target, list(map(str, frame.columns)))}; it has {listed(map(str, frame.columns))}"
            )
    remarks: list[str] = []
    train, test = (_without(options, frame) for frame in (train, test))
    train, test = _without_gaps(train, remarks), _without_gaps(test, remarks)
    if len(train) < 2 or not len(test):
        raise MachineError(f"dataset table: {counted(len(train), 'training row')} and {counted(len(test), 'test row')}")
    targets, classes = _targets(train[options.target], test[options.target], remarks)
    if "target" in options.standardize and not classes:
        mean, deviation = _scale_of(targets[0])
        targets = _scaled(targets[0], mean, deviation), _scaled(targets[1], mean, deviation)
        remarks.append(
            f"data: {options.target} was standardised: mean {mean:.4g} and deviation {deviation:.4g} in training"
        )
    columns = [name for name in train.columns if name != options.target]
    missing = [str(name) for name in columns if name not in test.columns]
    if missing or not columns:
        what = (
            f"no column {listed(missing)} in {options.test_path}" if missing else f"no column beside {options.target}"
        )
        raise MachineError(f"dataset table: {what}")
    scaled = "inputs" in options.standardize
    parts = [_column(train[name], test[name], options.categories, scaled, remarks) for name in columns]
    names = [str(name) for name, part in zip(columns, parts, strict=True) for _ in range(part[0].shape[1])]
    inputs = [np.concatenate([part[k] for part in parts], axis=1).astype(np.float32) for k in (0, 1)]
    large = unscaled(inputs[0], targets[0], names)
    return RawData(
        inputs[0],
        targets[0],
        inputs[1],
        targets[1],
        classes,
        full_scale=None,
        checksum=content_checksum([*inputs, *targets]),
        remarks=(*remarks, *scale_remarks(large)),
        judged=False,
        unscaled=large,
    )


def _without(options: TableOptions, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns that are not dropped.

    Raises:
        MachineError: one of them is not there, or is the target.
    """
    known = list(map(str, frame.columns))
    for name in options.drop:
        if name not in known:
            raise MachineError(f"dataset table: drop: there is no column {name}{nearest(name, known)}")
        if name == options.target:
            raise MachineError(f"dataset table: drop: {name} is the target; name another column")
    return frame.drop(columns=list(options.drop))


def _frames(options: TableOptions) -> tuple[pd.DataFrame, pd.DataFrame]:
    whole = _read(options.path)
    if options.test_path is not None:
        return whole, _read(options.test_path)
    order = np.random.RandomState(TABLE_SEED).permutation(len(whole))
    tested = max(1, round(options.test_fraction * len(whole)))
    return whole.iloc[np.sort(order[tested:])], whole.iloc[np.sort(order[:tested])]


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow

    path = path.expanduser()
    try:
        refuse_no_file(path)
        if path.suffix in (".parquet", ".pq"):
            return read_frame(path)
        frame: pd.DataFrame = pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",", encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise MachineError(f"dataset table: {path} is not there; give the file as `path`") from error
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise MachineError(f"dataset table: {path}: cannot be read: {error}") from error
    return frame


def _without_gaps(frame: pd.DataFrame, remarks: list[str]) -> pd.DataFrame:
    """Leave out rows in which something is missing or infinite, and say how many."""
    whole = frame.replace([np.inf, -np.inf], np.nan).dropna()
    if len(whole) < len(frame):
        remarks.append(f"data: {counted(len(frame) - len(whole), 'row')} of {len(frame):,} with a gap left out")
    return whole


def _is_number(column: Column) -> bool:
    return column.dtype.kind in "iuf"


def _are_amounts(values: Array) -> bool:
    """Say whether numbers are no classes: they have fractions, or are larger than whole numbers can be exact."""
    return bool((values != np.floor(values)).any() or (np.abs(values) > 2**53).any())


def _targets(train: Column, test: Column, remarks: list[str]) -> tuple[tuple[Array, Array], int]:
    if _is_number(train) and _is_number(test):
        values = train.to_numpy(), test.to_numpy()
        if any(each.dtype.kind == "f" and _are_amounts(each) for each in values):
            return (values[0].astype(np.float32)[:, None], values[1].astype(np.float32)[:, None]), 0
        numbers = values[0].astype(np.int64), values[1].astype(np.int64)
        if min(each.min() for each in numbers) >= 0:
            return numbers, 1 + int(max(each.max() for each in numbers))
    names = np.unique(np.concatenate([train.astype(str).to_numpy(str), test.astype(str).to_numpy(str)]))
    remarks.append(
        f"data: {counted(len(names), 'class', 'classes')} of {train.name} numbered in the order of the alphabet"
    )
    return (
        np.searchsorted(names, train.astype(str).to_numpy(str)).astype(np.int64),
        np.searchsorted(names, test.astype(str).to_numpy(str)).astype(np.int64),
    ), len(names)


def _scale_of(values: Array) -> tuple[float, float]:
    """Return mean and deviation; of what does not vary the deviation is 1."""
    return float(values.mean(dtype=np.float64)), float(values.std(dtype=np.float64)) or 1.0


def _scaled(values: Array, mean: float, deviation: float) -> Array:
    scaled: npt.NDArray[np.float64] = (values.astype(np.float64) - mean) / deviation
    return scaled.astype(np.float32)


def _column(
    train: Column, test: Column, categories: str, scaled: bool, remarks: list[str]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return a column's part of the inputs, (rows, 1 or more), for training and test."""
    if _is_number(train) and _is_number(test):
        values = train.to_numpy(np.float64), test.to_numpy(np.float64)
        mean, deviation = _scale_of(values[0]) if scaled else (0.0, 1.0)
        return ((values[0] - mean) / deviation)[:, None], ((values[1] - mean) / deviation)[:, None]
    words = train.astype(str).to_numpy(str), test.astype(str).to_numpy(str)
    names = np.unique(words[0])
    codes = [np.where(np.isin(each, names), np.searchsorted(names, each), -1) for each in words]
    unseen = int((codes[1] < 0).sum())
    if unseen:
        remarks.append(f"data: {counted(unseen, 'test row')} with a word in {train.name} that no training row has")
    if categories == "codes" or len(names) > MOST_CATEGORIES:
        if categories != "codes":
            remarks.append(f"data: {train.name} has {len(names):,} different words, and was numbered")
        return codes[0][:, None].astype(np.float64), codes[1][:, None].astype(np.float64)
    everything = np.arange(len(names))
    return tuple((each[:, None] == everything).astype(np.float64) for each in codes)  # type: ignore[return-value]
