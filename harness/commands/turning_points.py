"""The answer of a results folder, with what would turn it: simulated anew, with one figure of its cluster changed.

Imports neither torch nor pandas.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING

from harness.analysis.answer import Answer, judged, with_flips
from harness.analysis.flips import Side, flip_points
from harness.commands.asked_again import asked_again
from harness.core.text import Text
from harness.results.store import Results

if TYPE_CHECKING:
    from harness.engines.virtual.whatif import WhatIf

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
    records = [results.record(cell_id) for cell_id, _, _ in found.contest]
    cells = [record.cell for record in records if record is not None]
    if len(found.contest) < 2 or len(cells) < len(records) or any(cell.workers > MOST_WORKERS for cell in cells):
        return ()

    def ask(known: Sequence[WhatIf]) -> tuple[Text, ...]:
        sides = [
            Side(name, seconds, _kept(each), each.configured)
            for (_, name, seconds), each in zip(found.contest, known, strict=True)
        ]
        return flip_points(*sides)

    turned = asked_again(cells, plugins, ask)
    return () if isinstance(turned, Text) else turned


def _kept(known: WhatIf) -> Callable[[Mapping[str, float]], float]:
    """Return the seconds of a step by the figures that are changed, each asked for once."""

    @cache
    def step_s(overrides: tuple[tuple[str, float], ...]) -> float:
        return known.step_s(dict(overrides))

    return lambda overrides: step_s(tuple(sorted(overrides.items())))
