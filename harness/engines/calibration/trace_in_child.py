"""The layers of a cell's model before it runs, traced in a process of its own: this one does without torch."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing import connection
from typing import TYPE_CHECKING

from harness.core.errors import MachineError
from harness.core.not_known import Hurdle, NotKnown
from harness.core.text import Text
from harness.costs.cells import find_shape, keep_failure
from harness.costs.profiles import ModelShape
from harness.engines.processes.tasks import Answering, answers, started

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell

TRACING_S = 120.0
"""Longest that tracing may take; chosen: the largest bundled model takes 3 s on one core, with torch's import 10."""


def find_or_trace(cell: Cell, host: Host, plugins: Sequence[str]) -> ModelShape | NotKnown:
    """Return the layers of a cell's model, or why they are not known; both are kept for later runs."""
    found = find_shape(cell, host)
    return trace_together([cell], host, plugins)[0] if found is None else found


def trace_together(cells: Sequence[Cell], host: Host, plugins: Sequence[str]) -> list[ModelShape | NotKnown]:
    """Trace the models of cells, each in a process of its own and all at once; what is found is kept for later runs."""
    with ExitStack() as stack:
        asked: list[Sequence[Answering] | MachineError] = []
        for cell in cells:
            tasks = [(_trace, (cell, tuple(plugins)))]
            try:
                asked.append(stack.enter_context(started(tasks, cell.threads_per_device, cell)))
            except MachineError as error:
                asked.append(error)
        return [_found(cell, host, answering) for cell, answering in zip(cells, asked, strict=True)]


def _found(cell: Cell, host: Host, asked: Sequence[Answering] | MachineError) -> ModelShape | NotKnown:
    try:
        if isinstance(asked, MachineError):
            raise asked
        (content,) = answers(asked, f"tracing {cell.workload.model.name}", TRACING_S)
    except MachineError as error:  # it took too much memory or time: no reason not to run the cell
        content = NotKnown(Hurdle.PROCESS, Text(str(error)))
    assert isinstance(content, ModelShape | NotKnown)
    if isinstance(content, NotKnown):
        keep_failure(cell, host, content)
    return content


def _trace(cell: Cell, plugins: Sequence[str], control: connection.Connection) -> ModelShape | NotKnown:
    from harness.api.host import load_host
    from harness.engines.shared.trace_or_find import trace_cell

    return trace_cell(cell, load_host(plugins), plugins)
