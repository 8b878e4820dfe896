"""What no smooth law of a layout explains: the scatter that is left of a kind's errors after a free fit to them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from harness.commands.validate.published import TableRow
from harness.commands.validate.score import PredictedRow

LEAST_ROWS = 3
"""Of each coefficient: chosen; a fit to fewer would explain anything."""

LEAST_MEMBERS = 4
"""Of a series that has a factor of its own; chosen, smaller ones share one."""


class Floor(NamedTuple):
    """What is left of a kind's errors.

    Attributes:
        mape: mean of the absolute errors, in percent, once the fit has taken what it can.
    """

    coefficients: int
    mape: float


def floor_of(predictions: Sequence[PredictedRow]) -> Floor | None:
    """Return what is left after a free fit; None where there are too few rows, or errors are no ratios.

    The logarithms of the ratios are fitted by a factor for each series and by squares of the logarithms of all that
    tells layouts apart: devices, degrees, micro-batch and number of micro-batches. It is fitted to the very rows.
    """
    import numpy as np

    found = [p for p in predictions if p.predicted and p.row.value > 0 and p.predicted > 0]
    if not found:
        return None
    numbers = [_numbers(p.row) for p in found]
    series = [f"{p.row.case} {p.row.series} {p.row.model}" for p in found]
    own = sorted({name for name in series if series.count(name) >= LEAST_MEMBERS})
    columns = [[1.0] * len(found), *([float(name == one) for name in series] for one in own)]
    for key in dict.fromkeys(key for each in numbers for key in each):
        logs = [math.log(each.get(key) or 1.0) for each in numbers]
        columns += [logs, [log * log for log in logs]]
    parts = np.array(columns).T
    count = int(np.linalg.matrix_rank(parts))
    if len(found) < LEAST_ROWS * count:
        return None
    ratios = np.array([math.log((p.predicted or 1.0) / p.row.value) for p in found])
    fitted = parts @ np.linalg.lstsq(parts, ratios, rcond=None)[0]
    return Floor(count, float(100 * np.mean(np.abs(np.expm1(ratios - fitted)))))


def _numbers(row: TableRow) -> Mapping[str, float]:
    """Return what tells a row's layout from others of its series."""
    found: dict[str, float | None] = {"gpus": row.gpus, "batch": row.batch_per_gpu, "pieces": row.microbatches}
    if row.degrees:
        d = row.degrees
        found |= {"layers": d.layers, "data": d.data, "tensor": d.tensor, "pipeline": d.pipeline}
    if row.layout:
        names = ("dp", "tp", "pp", "micro_batch", "grad_accum", "seq")
        found |= {name: float(row.layout[name] or 1) for name in names}
    return {name: float(number) for name, number in found.items() if number}
