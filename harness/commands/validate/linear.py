"""Perfect linear scaling: what a predictor must beat.

Source: README of the published tables, "The perfect-linear baseline".
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.commands.validate.case_systems import Unpredictable
from harness.commands.validate.published import SPLIT_STRATEGIES, TableRow, Tables
from harness.core.units import GIB


def linear(row: TableRow, inputs: Sequence[TableRow]) -> float | None:
    """Return what perfect linear scaling says, in the row's unit; None where nothing measured is there to scale."""
    if row.degrees:
        return _of_steps(row, inputs)
    if row.num_bytes:
        return _of_collectives(row, inputs)
    if row.metric == "scaling_efficiency":
        return 1.0
    if row.metric in ("bubble", "throughput_change"):
        return 0.0
    reference = reference_of(row, inputs)
    return None if reference is None else _scaled(row, reference)


def reference_of(row: TableRow, inputs: Sequence[TableRow]) -> TableRow | None:
    """Return the calibration row that is closest to the row."""
    same = [other for other in inputs if (other.table, other.case, other.model, other.metric) == _key(row)]

    def distance(other: TableRow) -> tuple[bool, bool, bool, bool, int]:
        differs = (other.series != row.series, other.precision != row.precision)
        return *differs, other.batch_per_gpu != row.batch_per_gpu, other.strategy != row.strategy, other.gpus or 1

    return min(same, key=distance, default=None)


def calibration_row(published: Tables, row: TableRow) -> TableRow:
    """Return the calibration row that is closest to the row.

    Raises:
        Unpredictable: there is none.
    """
    found = reference_of(row, published.inputs)
    if found is None:
        raise Unpredictable("no calibration row of the same model and metric")
    return found


def _key(row: TableRow) -> tuple[str, str, str, str]:
    return row.table, row.case, row.model, row.metric


def _scaled(row: TableRow, reference: TableRow) -> float:
    gpus, before = row.gpus or 1, reference.gpus or 1
    if row.metric == "throughput":
        return reference.value * gpus / before
    if row.metric == "step_time":
        return reference.value * _work(row) / _work(reference) * before / gpus
    if row.metric == "collective_time" and before > 1:
        return reference.value * (1 - 1 / gpus) / (1 - 1 / before)
    return reference.value


def _work(row: TableRow) -> float:
    return (row.batch_per_gpu or 1.0) * (1 if row.strategy in SPLIT_STRATEGIES else row.gpus or 1)


def _of_steps(row: TableRow, inputs: Sequence[TableRow]) -> float | None:
    degrees = row.degrees
    if degrees is None:
        return None

    def alike(other: TableRow) -> bool:
        if other.degrees is None or (other.table, other.series) != (row.table, row.series):
            return False
        if degrees.parameters is not None:
            return other.degrees.parameters == degrees.parameters
        plain = other.degrees.tensor == other.degrees.pipeline == 1
        pieces = (other.degrees.layers, other.degrees.micro_batch, other.microbatches)
        return plain and pieces == (degrees.layers, degrees.micro_batch, row.microbatches)

    parts = 1 if degrees.parameters is not None else degrees.tensor * degrees.pipeline
    return _first([other.value / parts for other in inputs if alike(other)])


def _of_collectives(row: TableRow, inputs: Sequence[TableRow]) -> float | None:
    ranks, num_bytes = row.gpus or 1, row.num_bytes or 0.0
    for other in inputs:
        if (other.table, other.case, other.series) == (row.table, row.case, row.series) and other.num_bytes == GIB:
            # The printed bandwidth is rounded, and the published baseline starts from it.
            bus = other.bus_bytes_per_s or 2 * (ranks - 1) / ranks * GIB / other.value
            return 2 * (ranks - 1) / ranks * num_bytes / bus
    return None


def _first(values: Sequence[float]) -> float | None:
    return values[0] if values else None
