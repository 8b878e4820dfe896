"""Write what came of a cell into a results folder."""

from __future__ import annotations

from collections.abc import Callable

from harness.executors.protocol import Ended
from harness.results.store import Results
from harness.results.trace_files import write_trace


def store_ended(ended: Ended, results: Results, still_ours: Callable[[], bool] = lambda: True) -> None:
    """Write a record with all that lies beside it.

    Args:
        still_ours: asked when all is written and nothing has taken its place yet.

    Raises:
        Superseded: the cell is not ours any more; nothing has changed.
        MachineError: a link leads out of the folder.
        OSError: it cannot be written to.
    """
    results.write_record(ended.record, ended.tables, still_ours)
    if ended.log:
        results.new_log(ended.task.cell_id).write_bytes(ended.log)
    if ended.trace is not None:
        write_trace(results, ended.record.cell, ended.trace)
