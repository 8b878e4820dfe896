"""How many more seeds would settle who is faster: tell two apart, or show that they are the same.

Imports the standard library only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from harness.analysis.student import below, t_quantile
from harness.analysis.two_way import Difference

SAME_WITHIN = (0.05, 0.1, 0.2)
"""Differences within which two are called the same, the closest first; chosen: below a twentieth nobody would choose
otherwise, above a fifth nobody would call it the same."""

CHANCE = 0.87
"""With which a number of seeds is to settle it, as far as five seeds foretell; simulated: it does in 73 to 97 % where
the two differ by 0 to 15 % and a seed's difference spreads by 14 %."""

SHOWN = 0.7
"""With which a number of seeds must show two the same that are: a number that could only tell two apart is asked for
most often where chance made equal ones look apart, and settles nothing there (15 % of cases, simulated); chosen."""

MOST_ASKED = 25
"""More than this are not asked for; chosen: larger numbers settle it too seldom (simulated)."""

FEW_DEGREES, LEAST_DEGREES = 8, 2
"""Degrees of freedom below which the spread is taken wider, and up to which it says too little for a number."""


@dataclass(frozen=True)
class Settled:
    """What would settle it.

    Attributes:
        blocks: seeds, or rounds where only the time of a sample is compared.
        within: what the two may differ by to be the same.
    """

    blocks: int
    within: float


def same_within(found: Difference) -> float | None:
    """Return the closest of `SAME_WITHIN` within which two are certainly the same; None for none.

    Source: D. J. Schuirmann 1987, two one-sided tests at 5 % each.
    """
    far = abs(found.log) + found.half_width(0.95)
    return next((within for within in SAME_WITHIN if far < math.log1p(within)), None)


def settles(found: Difference, closer_than: float = math.inf) -> Settled | None:
    """Return the least number of blocks in all that would probably settle it; None where no number would.

    Given what was seen, the mean over m blocks is predicted with a flat prior; how probable it is that it will tell
    the two apart or show them the same follows.

    Args:
        closer_than: what they are known to be the same within.
    """
    if found.degrees <= LEAST_DEGREES or found.error <= 0:
        return None
    widened = math.sqrt(found.degrees / (found.degrees - 2)) if found.degrees < FEW_DEGREES else 1.0
    for within in SAME_WITHIN:
        for blocks in range(found.blocks + 1, MOST_ASKED + 1):
            spread = found.spread * widened
            if (
                within < closer_than
                and _shows(found, blocks, within, spread)
                and _chance(found, blocks, within, spread) >= CHANCE
            ):
                return Settled(blocks, within)
    return None


def _degrees(found: Difference, blocks: int) -> float:
    """Return the degrees of freedom that so many blocks have: rows that share their spread bring theirs again."""
    return found.degrees * (blocks - 1) / (found.blocks - 1) if found.blocks > 1 else blocks - 1


def _shows(found: Difference, blocks: int, within: float, spread: float) -> bool:
    """Say whether so many blocks would probably show two the same that are."""
    error, degrees = spread / math.sqrt(blocks), _degrees(found, blocks)
    alike = math.log1p(within) - t_quantile(0.95, degrees) * error
    return 2 * below(alike / error, degrees) - 1 >= SHOWN


def _chance(found: Difference, blocks: int, within: float, spread: float) -> float:
    error, degrees = spread / math.sqrt(blocks), _degrees(found, blocks)
    apart = t_quantile(0.975, degrees) * error
    alike = max(math.log1p(within) - t_quantile(0.95, degrees) * error, 0.0)
    change = spread * math.sqrt(1 / found.blocks - 1 / blocks)

    def up_to(value: float) -> float:
        return below((value - found.log) / change, found.degrees)

    told = 1 - up_to(apart) + up_to(-apart)
    same = up_to(alike) - up_to(-alike)
    both = max(up_to(alike) - up_to(apart), 0.0) + max(up_to(-apart) - up_to(-alike), 0.0) if alike > apart else 0.0
    return told + same - both
