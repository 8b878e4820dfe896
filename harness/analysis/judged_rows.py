"""What a finished cell was judged by, and how it came out, as its row has it. Imports the standard library only."""

from __future__ import annotations

from harness.analysis.points import Row, number
from harness.core.metrics import ACCURACY, LOSS, Judged


def metric_of(row: Row) -> Judged:
    """Return the metric of a row; accuracy where it names none."""
    return Judged.of(str(row.get("metric") or ACCURACY), str(row.get("better") or ""))


def judged_value(row: Row) -> float | None:
    """Return the metric on the validation split at the end."""
    return number(row, "validation_accuracy" if metric_of(row).is_accuracy else "validation_metric")


def sought_of(row: Row) -> Judged:
    """Return what a cell was after: the loss where only that has a target, else its metric."""
    return metric_of(row) if number(row, "target_loss") is None else LOSS


def sought_value(row: Row) -> float | None:
    """Return that on the validation split at the end."""
    return judged_value(row) if number(row, "target_loss") is None else number(row, "validation_loss")


def judged_in_words(row: Row) -> str:
    """Return such as "accuracy 0.950" or "perplexity 12.3"; nothing where nothing was measured."""
    return _in_words(judged_value(row), metric_of(row))


def sought_in_words(row: Row) -> str:
    """Return the same of what the cell was after."""
    return _in_words(sought_value(row), sought_of(row))


def _in_words(value: float | None, metric: Judged) -> str:
    return "" if value is None else f"{metric.words} {metric.written(value)}"
