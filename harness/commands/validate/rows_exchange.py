"""Rows of single exchanges: all-reduces, and what parameter servers move."""

from __future__ import annotations

from harness.commands.validate.case_cluster import measured_cluster, row_cluster
from harness.commands.validate.case_models import element_bytes, parameter_bytes
from harness.commands.validate.case_systems import Unpredictable, block_of
from harness.commands.validate.linear import calibration_row
from harness.commands.validate.published import TableRow, Tables
from harness.costs.profiles import Constants
from harness.costs.steps import all_reduce_s, server_times


def predict_all_reduce(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the seconds of an all-reduce from the smallest and the largest one over the same devices.

    Raises:
        Unpredictable: fewer than two calibration rows.
    """
    same = (row.table, row.case, row.series)
    known = [r for r in published.inputs if r.num_bytes and (r.table, r.case, r.series) == same]
    if len(known) < 2 or row.num_bytes is None:
        raise Unpredictable("the 1 MiB and 1 GiB rows of the same devices are needed")
    return all_reduce_s(measured_cluster(published, row, tuple(known), constants), row.gpus or 1, row.num_bytes)


def predict_exchange(published: Tables, row: TableRow, constants: Constants) -> float:
    """Return the seconds of one exchange through servers: the law times what the calibration row takes beside its law.

    Raises:
        Unpredictable: no calibration row.
    """
    reference = calibration_row(published, row)
    return reference.value * _law_s(published, row, constants) / _law_s(published, reference, constants)


def _law_s(published: Tables, row: TableRow, constants: Constants) -> float:
    num_bytes = parameter_bytes(published, row, block_of(published, row)) / 4 * element_bytes(row.precision)
    return server_times(row_cluster(published, row, constants), row.gpus or 1, num_bytes).total_s
