"""Run a timing-only cell in this process: it computes nothing, so it needs neither torch nor a process of its own."""

from __future__ import annotations

import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.costs.cells import given_shape
from harness.engines.processes.blame import explain_in
from harness.engines.processes.launch import Result
from harness.engines.virtual.sizes import NeedsNumbers

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.core.not_known import NotKnown
    from harness.costs.profiles import ModelShape


def run_in_this_process(
    cell: Cell, host: Host, plugins: Sequence[str], log: Path, trace: int | None = None
) -> Result | None:
    """Run the cell; a failure is a result, its traceback stands in the log.

    Args:
        trace: steps to record spans of.

    Returns:
        None where the strategy's program reads numbers that the workload could compute.
    """
    from harness.engines.virtual.timing import run_timing

    try:
        return Result(outcome=run_timing(cell, host, _layers(cell, host, plugins), trace=trace))
    except Exception as error:
        if isinstance(error.__cause__, NeedsNumbers) and given_shape(cell) is None:
            return None
        with log.open("a", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
        return Result(failure=explain_in(cell, plugins, error))


def _layers(cell: Cell, host: Host, plugins: Sequence[str]) -> ModelShape | NotKnown | None:
    """Return the layers of a model that is named: known where it was measured, traced where a data sheet is used."""
    if cell.cluster.device is None or given_shape(cell) is not None:
        return None
    from harness.engines.calibration.trace_in_child import find_or_trace

    return find_or_trace(cell, host, plugins)
