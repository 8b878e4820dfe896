"""Write what came of a cell into a results folder."""

from __future__ import annotations

from harness.executors.protocol import Ended
from harness.results.store import Results
from harness.results.trace_files import write_trace


def keep(ended: Ended, results: Results) -> None:
    """Write a record with all that lies beside it.

    Raises:
        MachineError: a link leads out of the folder.
        OSError: it cannot be written to.
    """
    if ended.log:
        results.new_log(ended.task.cell_id).write_bytes(ended.log)
    results.write_record(ended.record, ended.tables)
    if ended.trace is not None:
        write_trace(results, ended.record.cell, ended.trace)
