"""How far off predictions are: per table and kind, per series."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from harness.commands.validate.case_systems import INPUT_BOUND
from harness.commands.validate.published import POINTS_KINDS, TableRow

KeyT = TypeVar("KeyT")


@dataclass(frozen=True)
class PredictedRow:
    """A row beside what was predicted for it.

    Attributes:
        predicted: in the row's unit; None where nothing could be said.
        linear: perfect linear scaling; None where nothing is there to scale.
        reason: why nothing could be said; empty otherwise.
        apart: as which rows this one is also scored apart: it tells less of computing and links than others do.
        said: whether a scenario says what the row is of; others are not scored.
        stated: relative uncertainty that `plan` states of it, one standard deviation; None where it is no scenario.
    """

    row: TableRow
    predicted: float | None
    linear: float | None = None
    reason: str = ""
    apart: tuple[str, ...] = ()
    said: bool = True
    stated: float | None = None


@dataclass(frozen=True)
class Score:
    """Errors of one group of rows, in percent, or in points where `points`.

    Attributes:
        rows: all rows, missing ones included.
        mape: mean of the absolute errors; None where every prediction is missing.
        bias: mean of the errors.
        worst: the largest absolute error, with its sign.
        worst_name: its row.
    """

    rows: int
    missing: int
    points: bool = False
    mape: float | None = None
    median: float | None = None
    p95: float | None = None
    bias: float | None = None
    worst: float | None = None
    worst_name: str = ""


def error_of(row: TableRow, predicted: float | None) -> float | None:
    """Return the error in percent; for kinds in points, and bubbles as fractions, the difference in points."""
    if predicted is None:
        return None
    if row.kind in POINTS_KINDS:
        return (predicted - row.value) * (1.0 if row.unit == "percent" else 100.0)
    return (predicted / row.value - 1) * 100.0


def score(pairs: Iterable[tuple[TableRow, float | None]]) -> Score:
    """Return what a group of rows and their predictions amounts to."""
    listed = list(pairs)
    points = bool(listed) and listed[0][0].kind in POINTS_KINDS
    found = [(error, row) for row, value in listed if (error := error_of(row, value)) is not None]
    missing = len(listed) - len(found)
    if not found:
        return Score(len(listed), missing, points)
    errors = [error for error, _ in found]
    sizes = sorted(abs(error) for error in errors)
    worst, row = max(found, key=lambda pair: abs(pair[0]))
    return Score(
        *(len(listed), missing, points, sum(sizes) / len(sizes), quantile(sizes, 0.5), quantile(sizes, 0.95)),
        *(sum(errors) / len(errors), worst, row.name),
    )


def quantile(rising: Sequence[float], share: float) -> float:
    """Return a quantile by linear interpolation between the closest ranks."""
    position = share * (len(rising) - 1)
    low = int(position)
    high = min(low + 1, len(rising) - 1)
    return rising[low] + (rising[high] - rising[low]) * (position - low)


def coverage(predictions: Iterable[PredictedRow], deviations: float) -> float | None:
    """Return the share of rows that lie within so many stated standard deviations; None where none states any.

    Rows that are limited by their input are left out: what the scenario says of them is not what limits them.
    """
    inside = [
        abs(math.log(item.predicted / item.row.value)) <= math.log1p(deviations * item.stated)
        for item in predictions
        if item.stated and item.predicted and INPUT_BOUND not in item.apart
    ]
    return sum(inside) / len(inside) if inside else None


def by_kind(predictions: Sequence[PredictedRow]) -> dict[tuple[str, str], list[PredictedRow]]:
    """Return the predictions of each (table, kind), in the order of the tables."""
    return _grouped(predictions, lambda p: (p.row.table, p.row.kind))


def by_source(predictions: Sequence[PredictedRow]) -> dict[tuple[str, str, str], list[PredictedRow]]:
    """Return the predictions of each (table, kind, case), in the order of the tables."""
    return _grouped(predictions, lambda p: (p.row.table, p.row.kind, p.row.case))


def by_series(predictions: Sequence[PredictedRow]) -> dict[tuple[str, ...], list[PredictedRow]]:
    """Return the predictions of each (table, kind, case, series, model, precision)."""
    return _grouped(
        predictions,
        lambda p: (p.row.table, p.row.kind, p.row.case, p.row.series, p.row.model, p.row.precision),
    )


def _grouped(
    predictions: Sequence[PredictedRow], key: Callable[[PredictedRow], KeyT]
) -> dict[KeyT, list[PredictedRow]]:
    groups: dict[KeyT, list[PredictedRow]] = {}
    for prediction in predictions:
        groups.setdefault(key(prediction), []).append(prediction)
    return groups
