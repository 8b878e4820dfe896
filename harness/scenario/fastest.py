"""The fastest micro-batch of a cell, by the price of those that divide its batch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.cell import FASTEST
from harness.core.faults import Faults
from harness.core.records import to_json
from harness.core.words import counted

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.costs.price import Prediction

WORSE_IN_A_ROW = 3
"""Micro-batches, each smaller than the one before, that may all be slower than the fastest so far until the search
ends: chosen. A pipeline gains from more of them, less and less, and each costs as much as the last one."""


Fastest = dict[str, "tuple[int, str, str]"]
"""By what decides it, seeds and rates left out: the micro-batch, how it was found, and why it was not."""


def with_fastest(cell: Cell, host: Host, known: Fastest) -> Cell:
    """Return the cell with its micro-batch found and a note on how.

    Where prices are not known a cell that asks for the fastest is not possible; one that does not ask keeps its own.

    Args:
        known: what was found before; what is found now is added.
    """
    asked, cell = cell.micro_batch_size == FASTEST, replace(cell, micro_batch_size=cell.batch_size)
    key = json.dumps(to_json(replace(cell, seed=0, learning_rate=0.0, lr_rule="", engine="")), sort_keys=True)
    if key not in known:
        known[key] = _found(cell, host)
    size, note, why = known[key]
    if size:
        return replace(cell, micro_batch_size=size, notes=(*cell.notes, note))
    if asked and not cell.not_possible:
        return replace(cell, not_possible=f'micro_batch_size = "fastest" cannot be found: {why}. Write a number')
    return with_warning(cell)


def with_warning(cell: Cell) -> Cell:
    """Return the cell with a note where it is a pipeline whose stages never work at the same time."""
    if cell.layout.pipeline == 1 or cell.micro_batch_size != cell.batch_size or cell.batch_size == 1:
        return cell
    note = (
        "its batch passes as one micro-batch, so that one stage works at a time; the fastest was not searched: set "
        'sweep.micro_batch_size = "fastest", or a number'
    )
    return replace(cell, notes=(*cell.notes, note))


def _found(cell: Cell, host: Host) -> tuple[int, str, str]:
    """Return the fastest micro-batch and how it was found; or 0 and why it was not."""
    prices = list(_priced(cell, host))
    timed = [(item.step_time_s, size) for size, item in prices if item.step_time_s is not None]
    if not timed:
        return 0, "", prices[-1][1].reason
    size = min(timed)[1]
    tried = counted(len(timed), "divisor")
    return size, f"micro-batch {size} is the fastest by price of {tried} of {cell.batch_size} tried", ""


def _priced(cell: Cell, host: Host) -> Iterator[tuple[int, Prediction]]:
    """Yield the divisors of the batch with their prices, larger ones first, until smaller ones only get slower."""
    from harness.costs.price import price  # late: few plans search

    least, worse = float("inf"), 0
    for size in range(cell.batch_size, 0, -1):
        if cell.batch_size % size or worse == WORSE_IN_A_ROW:
            continue
        item = price(replace(cell, micro_batch_size=size, engine="virtual", faults=Faults(), not_possible=""), host)
        yield size, item
        if item.step_time_s is None:
            continue
        worse = 0 if item.step_time_s < least else worse + 1
        least = min(least, item.step_time_s)
