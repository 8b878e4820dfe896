"""Rows of transformer steps under data, tensor and pipeline parallelism."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from harness.commands.validate.as_transformer import (
    MicroBatchSeconds,
    degrees_of,
    model_of,
    sized_scenario,
    timed_scenario,
)
from harness.commands.validate.case_scenario import foretold_step, predicted_s
from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.published import TableRow, Tables
from harness.commands.validate.row_times import seconds_of, value_of
from harness.costs.price import PricedStep
from harness.costs.profiles import Constants

if TYPE_CHECKING:
    import numpy as np

ROUNDS = 3
"""Of fitting what layers take to what whole steps take; chosen: each leaves a twentieth of an error."""


class Coefficients(NamedTuple):
    """What steps on one device consist of, in seconds.

    Attributes:
        sizes: micro-batches that were measured.
        seconds: one block and embedding with head, each by micro-batch; then one block's update, and a step.
    """

    sizes: tuple[int, ...]
    seconds: tuple[float, ...]

    def at(self, size: int) -> MicroBatchSeconds:
        """Return what a micro-batch of this size takes.

        Raises:
            Unpredictable: none of its size was measured.
        """
        if size not in self.sizes:
            raise Unpredictable(f"no calibration row has micro-batch {size}")
        place, count = self.sizes.index(size), len(self.sizes)
        return MicroBatchSeconds(self.seconds[place], self.seconds[count + place], *self.seconds[-2:])


def predict_steps(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the prediction for a row of transformer steps, in its unit.

    Raises:
        Unpredictable: no calibration row.
    """
    return value_of(published, row, _step(published, row, constants).seconds)


def steps_uncertainty(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the uncertainty that `plan` states of a row's scenario.

    Raises:
        Unpredictable: no calibration row.
    """
    return _step(published, row, constants).error


def _step(published: Tables, row: TableRow, constants: Constants) -> PricedStep:
    known = None
    if degrees_of(row).parameters is None:
        known = _measured(published, row.table, row.series, constants)
    if known is not None:
        scenario = timed_scenario(published, row, known.at(degrees_of(row).micro_batch))
        return foretold_step(scenario, published.scenarios, constants)
    nearest = _nearest(published, row)
    nearest_s, degrees = seconds_of(published, nearest), degrees_of(nearest)
    # What one sample would take on one device if nothing but computing took time.
    sample_s = nearest_s * (nearest.gpus or 1) / degrees.global_batch
    scenario = sized_scenario(published, row, sample_s, nearest, nearest_s)
    return foretold_step(scenario, published.scenarios, constants)


def _nearest(published: Tables, row: TableRow) -> TableRow:
    """Return the calibration row of the same model that is most like the row.

    Raises:
        Unpredictable: there is none.
    """
    degrees = degrees_of(row)
    same = [
        other
        for other in published.inputs
        if other.degrees and (other.table, other.series) == (row.table, row.series) and model_of(other) == model_of(row)
    ]

    def distance(other: TableRow) -> tuple[int, int]:
        sizes = abs(degrees_of(other).micro_batch - degrees.micro_batch)
        return sizes, abs((other.microbatches or 1) - (row.microbatches or 1))

    nearest = min(same, key=distance, default=None)
    if nearest is None:
        raise Unpredictable("no calibration row of the same model")
    return nearest


@lru_cache(maxsize=64)
def _measured(published: Tables, table: str, series: str, constants: Constants) -> Coefficients | None:
    """Return what layers take by least squares over all calibration rows without tensor or pipeline parallelism.

    What a scenario's step takes beside its layers is what it was predicted to take without them: the fit is repeated
    with the difference. None where there are too few rows to tell layers from the rest.
    """
    import numpy as np

    rows = [
        row
        for row in published.inputs
        if (row.table, row.series) == (table, series)
        and row.degrees
        and row.degrees.tensor == row.degrees.pipeline == 1
    ]
    sizes = tuple(sorted({degrees_of(row).micro_batch for row in rows}))
    parts = np.array([_parts(row, sizes) for row in rows]).reshape(len(rows), 2 * len(sizes) + 2)
    if not rows or np.linalg.matrix_rank(parts) < parts.shape[1]:
        return None
    measured = np.array([seconds_of(published, row) for row in rows])
    beside = np.zeros(len(rows))
    for _ in range(ROUNDS):
        seconds = _least_squares(parts, measured - beside)
        found = Coefficients(sizes, tuple(seconds.tolist()))
        scenarios = [timed_scenario(published, row, found.at(degrees_of(row).micro_batch)) for row in rows]
        predicted = np.array([predicted_s(one, published.scenarios, constants) for one in scenarios])
        beside = predicted - parts @ seconds
    return Coefficients(sizes, tuple(_least_squares(parts, measured - beside).tolist()))


def _parts(row: TableRow, sizes: tuple[int, ...]) -> list[float]:
    """Return how often a step does what the coefficients are times of."""
    degrees, pieces = degrees_of(row), row.microbatches or 1
    here = [float(pieces * (size == degrees.micro_batch)) for size in sizes]
    return [*(degrees.layers * count for count in here), *here, float(degrees.layers), 1.0]


def _least_squares(parts: np.ndarray, seconds: np.ndarray) -> np.ndarray:
    from scipy.optimize import nnls

    found: np.ndarray = nnls(parts, seconds)[0]
    return found
