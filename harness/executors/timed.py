"""Run a timing-only cell in this process: it computes nothing, so it needs neither torch nor a process of its own."""

from __future__ import annotations

import traceback
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core import deadlines
from harness.core.deadlines import OutOfTime, ended_after
from harness.core.failure import Hang, SourceLine
from harness.costs.cells import given_shape
from harness.engines.processes.blame import explain_in, own_files
from harness.engines.processes.launch import Result, too_late
from harness.engines.processes.torch_errors import causes_of
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

    Raises:
        KeyboardInterrupt: a signal came.

    Returns:
        None where the strategy's program reads numbers that the workload could compute.
    """
    from harness.engines.virtual.timing import run_timing

    try:
        with ended_after(cell.cell_timeout_s):
            return Result(outcome=run_timing(cell, host, _layers(cell, host, plugins), trace=trace))
    except (OutOfTime, Exception) as error:
        if isinstance(error.__cause__, NeedsNumbers) and given_shape(cell) is None:
            return None
        # A signal that came while the strategy's own lines ran has passed for what they raised.
        interrupt = next((each for each in causes_of(error) if isinstance(each, KeyboardInterrupt)), None)
        if interrupt is not None:
            raise interrupt from None
        with log.open("a", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
        late = next((each for each in causes_of(error) if isinstance(each, OutOfTime)), None)
        if late is not None:
            return Result(failure=too_late([_hang(late, own_files(cell, plugins))], "finished", cell))
        return Result(failure=explain_in(cell, plugins, error))


def _hang(late: BaseException, own: Collection[str]) -> Hang:
    """Return where the cell was when its time was up."""
    raised_by = (__file__, deadlines.__file__)
    frames = [frame for frame in traceback.extract_tb(late.__traceback__) if frame.filename not in raised_by]
    last = next((frame for frame in reversed(frames) if frame.filename in own), frames[-1])
    return Hang("virtual cluster", line=SourceLine(last.filename, last.lineno or 0), function=last.name)


def _layers(cell: Cell, host: Host, plugins: Sequence[str]) -> ModelShape | NotKnown | None:
    """Return the layers of a model that is named: known where it was measured, traced where a data sheet is used."""
    if cell.cluster.device is None or given_shape(cell) is not None:
        return None
    from harness.engines.calibration.trace_in_child import find_or_trace

    return find_or_trace(cell, host, plugins)
