"""Whether a cell may start, as far as memory goes, and the table for its record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.cell import LARGEST
from harness.core.endings import Status
from harness.costs.cells import find_shape
from harness.costs.memory import memory_of, memory_verdict, resolve_largest

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.results.store import Record


def admit(cell: Cell, host: Host, plugins: Sequence[str]) -> tuple[Cell, str]:
    """Return the cell with its micro-batch found, and why it does not fit; nothing where it does.

    Only a cell whose memory has an end, or that asks for the largest micro-batch, is traced for it.

    Raises:
        MachineError: the model cannot be traced.
    """
    if cell.dram_bytes is None and cell.micro_batch_size != LARGEST:
        return cell, ""
    from harness.engines.calibration.trace_in_child import find_or_trace

    shape = find_or_trace(cell, host, plugins)
    cell = resolve_largest(cell, host, shape)
    return cell, memory_verdict(cell, host, shape) or ""


def with_micro_batch(cell: Cell, host: Host, plugins: Sequence[str]) -> Cell:
    """Return the cell with its micro-batch found, where it asks for the largest.

    Raises:
        MachineError: the model cannot be traced.
    """
    return admit(cell, host, plugins)[0] if cell.micro_batch_size == LARGEST else cell


def with_memory(record: Record, host: Host) -> Record:
    """Add the table of layers, and what devices need, to the facts of a record whose model was traced."""
    if not (record.status.trained or record.status is Status.OUT_OF_MEMORY):
        return record
    shape = find_shape(record.cell, host)
    if shape is None:
        return record
    detail = record.detail or {}
    facts = detail.get("facts", {})
    estimate = memory_of(record.cell, host, shape, facts.get("placement"))
    return replace(record, detail={**detail, "facts": {**facts, "memory": estimate.to_dict()}})
