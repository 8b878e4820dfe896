"""Whether a cell may start, as far as memory goes, and what its record says of it once its model is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.cell import LARGEST
from harness.core.endings import Status
from harness.core.errors import HarnessError, Impossible, NotForetold
from harness.core.not_known import NotKnown
from harness.core.records import to_json
from harness.core.words import memory_size
from harness.costs.cells import find_shape, tokens_per_sample, utilisation
from harness.costs.memory import memory_of, memory_verdict, resolve_largest

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.results.store import Record


def admit(cell: Cell, host: Host, plugins: Sequence[str]) -> tuple[Cell, str]:
    """Return the cell with its micro-batch found, and why it does not fit; nothing where it does.

    Only a cell whose memory has an end, or that asks for the largest micro-batch, is traced for it. A cell of which
    nobody can say what it needs may start, with a note: it is not for a prediction to keep it from running.

    Raises:
        Impossible: the strategy cannot cut the model, or the largest micro-batch is asked for and cannot be found.
    """
    if cell.dram_bytes is None and cell.micro_batch_size != LARGEST:
        return cell, ""
    from harness.engines.calibration.trace_in_child import find_or_trace

    shape = find_or_trace(cell, host, plugins)
    try:
        if isinstance(shape, NotKnown):
            raise NotForetold(shape.reason)
        found = resolve_largest(cell, host, shape)
        return found, memory_verdict(found, host, shape) or ""
    except NotForetold as error:
        if cell.micro_batch_size == LARGEST:
            raise Impossible(
                f'micro_batch_size = "largest" cannot be found, because what the model needs is not known: {error}. '
                "Write a number"
            ) from error
        note = f"whether it fits into {memory_size(cell.dram_bytes or 0)} is not known: {error}"
        return replace(cell, notes=(*cell.notes, note)), ""


def with_micro_batch(cell: Cell, host: Host, plugins: Sequence[str]) -> Cell:
    """Return the cell with its micro-batch found, where it asks for the largest.

    Raises:
        Impossible: it cannot be found.
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
    try:
        estimate = memory_of(record.cell, host, shape, facts.get("placement"))
    except HarnessError:
        return record  # it has run: what it would have needed is no matter of its status
    return replace(record, detail={**detail, "facts": {**facts, "memory": estimate.to_dict()}})


def with_utilisation(record: Record, host: Host) -> Record:
    """Add tokens a second where samples hold any, and the share of the device's peak that was reached.

    The peak stands beside it with its source; nothing is guessed.
    """
    throughput, facts = record.row.get("throughput_samples_per_s"), record.environment
    if not throughput:
        return record
    tokens = tokens_per_sample(record.cell, host)
    if tokens:
        record = replace(record, row={**record.row, "throughput_tokens_per_s": tokens * throughput})
    found = utilisation(record.cell, host, throughput, facts.get("gpu", ""), facts.get("gpus", 0))
    if found is None:
        return record
    detail = record.detail or {}
    detail = {**detail, "facts": {**detail.get("facts", {}), "utilisation": to_json(found)}}
    return replace(record, row={**record.row, "mfu": found.mfu}, detail=detail)
