"""What layers took where a pipeline was first cut by time: kept, so that all seeds of a point are cut alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.machine import detect_machine
from harness.core.records import Unreadable, from_json, to_json
from harness.costs.cells import profile_key
from harness.engines.shared.layer_timing import LayerCost

if TYPE_CHECKING:
    from harness.api.strategy import Layout
    from harness.core.cell import Cell

_KIND = "stages"


@dataclass(frozen=True)
class _Costs:
    layers: tuple[LayerCost, ...]


def kept_costs(
    cell: Cell, layout: Layout, names: Sequence[str], measure: Callable[[], list[LayerCost]]
) -> list[LayerCost]:
    """Return what layers or calls cost: as they were measured before on this machine, else measured now and kept.

    Two measurements differ, and with them where the cut falls: seeds would be compared on different pipelines.

    Args:
        names: of the layers or calls, in order.
        measure: called where nothing is kept, and where nobody asks for their times.
    """
    if layout.placement != "time":
        return measure()
    key = profile_key(cell, detect_machine(), cell.micro_batch_size) | {"order": list(names)}
    content = cache.load(_KIND, key)
    if content is not None:
        try:
            return list(from_json(_Costs, content).layers)
        except Unreadable:
            pass  # kept by another version
    found = measure()
    cache.save(_KIND, key, to_json(_Costs(tuple(found))))
    return found
