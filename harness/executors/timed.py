"""Run a timing-only cell in this process: it computes nothing, so it needs neither torch nor a process of its own."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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

    Returns:
        None where the strategy's program reads numbers that the workload could compute.
    """
    from harness.engines.virtual.timing import run_timing

    try:
        with _ended_after(cell.cell_timeout_s):
            return Result(outcome=run_timing(cell, host, _layers(cell, host, plugins), trace=trace))
    except (_OutOfTime, Exception) as error:
        if isinstance(error.__cause__, NeedsNumbers) and given_shape(cell) is None:
            return None
        with log.open("a", encoding="utf-8") as stream:
            traceback.print_exception(error, file=stream)
        late = next((each for each in causes_of(error) if isinstance(each, _OutOfTime)), None)
        if late is not None:
            return Result(failure=too_late([_hang(late, own_files(cell, plugins))], "finished", cell))
        return Result(failure=explain_in(cell, plugins, error))


def _hang(late: BaseException, own: Collection[str]) -> Hang:
    """Return where the cell was when its time was up."""
    frames = [frame for frame in traceback.extract_tb(late.__traceback__) if frame.filename != __file__]
    last = next((frame for frame in reversed(frames) if frame.filename in own), frames[-1])
    return Hang("virtual cluster", line=SourceLine(last.filename, last.lineno or 0), function=last.name)


class _OutOfTime(BaseException):
    """The cell's time is up; not an Exception, because a program's own `except Exception` must not catch it."""


@contextlib.contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """Interrupt what this process computes when its time is up: nobody else watches it."""
    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only
        return

    def interrupt(*_: object) -> None:
        raise _OutOfTime

    earlier = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)


def _layers(cell: Cell, host: Host, plugins: Sequence[str]) -> ModelShape | NotKnown | None:
    """Return the layers of a model that is named: known where it was measured, traced where a data sheet is used."""
    if cell.cluster.device is None or given_shape(cell) is not None:
        return None
    from harness.engines.calibration.trace_in_child import find_or_trace

    return find_or_trace(cell, host, plugins)
