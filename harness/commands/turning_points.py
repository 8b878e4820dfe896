"""The answer of a results folder, with what would turn it: simulated anew, with one figure of its cluster changed.

Imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from harness.analysis.answer import Answer, judged, with_flips
from harness.analysis.flips import Side, flip_points
from harness.core.errors import HarnessError
from harness.core.text import Text
from harness.results.store import Results

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell

MOST_WORKERS = 16
"""Workers up to which a cell is simulated anew for turning points, some sixty times; chosen: a short run of 16 takes
0.02 s (measured, 2 CPU cores, 2026-11), and people wait for an answer."""


def folder_answer(results: Results, plugins: Sequence[str] = ()) -> Answer:
    """Return what a folder's cells say.

    Args:
        plugins: files whose strategies may be run again.
    """
    plan = results.plan()
    found = judged(results.rows(), plan)
    return with_flips(found, flips_of(found, results, plugins))


def flips_of(found: Answer, results: Results, plugins: Sequence[str] = ()) -> tuple[Text, ...]:
    """Return what would turn a comparison of two simulated points; nothing where nobody can say."""
    from harness.api.host import load_host

    if len(found.contest) < 2:
        return ()
    host = load_host(tuple(plugins))
    sides = []
    for cell_id, name, seconds in found.contest:
        record = results.record(cell_id)
        known = _what_if(record.cell, host) if record else None
        if known is None:
            return ()
        sides.append(Side(name, seconds, *known))
    return flip_points(*sides)


def _what_if(cell: Cell, host: Host) -> tuple[Callable[[Mapping[str, float]], float], Mapping[str, float]] | None:
    from harness.costs.cells import find_shape
    from harness.engines.virtual.whatif import what_if

    if cell.workers > MOST_WORKERS or cell.strategy not in host.strategies:
        return None
    try:
        known = what_if(cell, host, find_shape(cell, host))
    except HarnessError:
        return None

    @cache
    def step_s(overrides: tuple[tuple[str, float], ...]) -> float:
        return known.step_s(dict(overrides))

    return lambda overrides: step_s(tuple(sorted(overrides.items()))), known.configured
