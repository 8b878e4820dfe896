"""When a curve that wobbles on its way up crosses a level. Imports the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass
class _Block:
    """Neighbours that have been averaged: sums of logarithms of x and of y, and how many."""

    log_x: float
    y: float
    count: int = 1

    @property
    def level(self) -> float:
        return self.y / self.count

    @property
    def place(self) -> float:
        return self.log_x / self.count


def crossing(x: Sequence[float], y: Sequence[float], level: float) -> float | None:
    """Return where the rising curve that fits best crosses a level; None where it never does.

    Between the middles of its steps the curve is drawn straight over the logarithm of x.

    Args:
        x: ascending, above 0; y: as many values.

    Source: M. Ayer, H. D. Brunk et al. 1955, An empirical distribution function for sampling with incomplete
    information (pool adjacent violators).
    """
    blocks: list[_Block] = []
    for place, value in zip(x, y, strict=True):
        blocks.append(_Block(math.log(place), value))
        while len(blocks) > 1 and blocks[-2].level >= blocks[-1].level:
            last = blocks.pop()
            blocks[-1] = _Block(blocks[-1].log_x + last.log_x, blocks[-1].y + last.y, blocks[-1].count + last.count)
    above = next((number for number, block in enumerate(blocks) if block.level >= level), None)
    if above is None:
        return None
    after = blocks[above]
    if above == 0:
        return math.exp(after.place)
    before = blocks[above - 1]
    share = (level - before.level) / (after.level - before.level)
    return math.exp(before.place + share * (after.place - before.place))
