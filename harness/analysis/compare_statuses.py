"""Statuses of two sets of records: what no longer runs to its end, and what no longer learns what it did."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from harness.analysis.compared import STATUS, ChangeKind, Finding, MeasuredCell, deterministic
from harness.core.endings import Status
from harness.core.text import Text
from harness.core.words import counted, listed

FALSE_ALARMS = 0.05
"""Probability that a night without any change raises one alarm or more, shared out over all comparisons of times.

Source: C. E. Bonferroni 1936; chosen because it holds however the comparisons depend on each other.
"""

MISSING = "missing"
"""Stands for the status of a cell that the other side lacks."""

ENDED = (Status.OK, Status.TARGET_MISSED, Status.DIVERGED)
"""Statuses of a cell that ran to its end, the better ones first: they say how training went."""

NOT_TRIED = frozenset({Status.NOT_POSSIBLE, MISSING})
"""A cell without a try on both sides says nothing of either."""

CellsOfSide = Mapping[tuple[str, int], MeasuredCell]
"""Of one side, by point and seed."""


def statuses(before: CellsOfSide, after: CellsOfSide) -> list[Finding]:
    """Return the points whose status is worse, or better, than it was; seeds together.

    A cell that does not run to its end is a regression whatever it was before: else a night in which all cells crash
    would pass as soon as it became the base.
    """
    groups: dict[tuple[str, str, str], list[MeasuredCell]] = {}
    for key in dict.fromkeys([*before, *after]):
        was, now = (str(side[key].row["status"]) if key in side else MISSING for side in (before, after))
        if _kind(was, now) is not None:
            groups.setdefault((key[0], was, now), []).append(after.get(key) or before[key])
    return [_by_chance(_finding(was, now, cells), point, before, after) for (point, was, now), cells in groups.items()]


def _kind(was: str, now: str) -> ChangeKind | None:
    if {was, now} <= NOT_TRIED:
        return None
    if now not in ENDED:
        return ChangeKind.REGRESSION
    if was in (MISSING, now):
        return None
    worse = was in ENDED and ENDED.index(Status(now)) > ENDED.index(Status(was))
    return ChangeKind.REGRESSION if worse else ChangeKind.IMPROVEMENT


def _finding(was: str, now: str, cells: Sequence[MeasuredCell]) -> Finding:
    reason = "" if now in (Status.OK, MISSING) else f": {cells[0].row.get('reason') or 'no reason recorded'}"
    detail = Text(f"{seeds_in_words(cell.seed for cell in cells)}{reason}")
    kind = _kind(was, now)
    assert kind is not None  # only what changed is grouped
    return Finding(kind, cells[0].row, STATUS, was, now, runs=(len(cells), len(cells)), detail=detail)


def _by_chance(finding: Finding, point: str, before: CellsOfSide, after: CellsOfSide) -> Finding:
    """Return the finding, undecided where luck has a part in it and the seeds of the point are too few to tell."""
    if not {finding.base, finding.new} <= set(ENDED):
        return finding
    both = [(cell, after[key]) for key, cell in before.items() if key[0] == point and key in after]
    if all(not one.real and deterministic(STATUS, one, other) for one, other in both):
        return finding
    good = ENDED[: 1 + min(ENDED.index(finding.base), ENDED.index(finding.new))]
    fewer, more = sorted(sum(cell.row["status"] in good for cell in side) for side in zip(*both, strict=True))
    if probability_of_drop(more, fewer, len(both)) <= FALSE_ALARMS:
        return finding
    detail = Text(f"{finding.detail}; with {counted(len(both), 'seed')} this may be chance")
    return replace(finding, kind=ChangeKind.UNDECIDED, detail=detail)


def probability_of_drop(more: int, fewer: int, seeds: int) -> float:
    """Return how probably so many fewer of as many seeds would succeed if nothing had changed.

    Source: R. A. Fisher 1935, The design of experiments, section 21 (the exact test, one-sided).
    """
    total = more + fewer
    ways = sum(math.comb(seeds, k) * math.comb(seeds, total - k) for k in range(max(0, total - seeds), fewer + 1))
    return ways / math.comb(2 * seeds, total)


def seeds_in_words(seeds: Iterable[int]) -> str:
    """Write such as "seeds 1 and 2"."""
    numbers = [*map(str, seeds)]
    return f"{'seed' if len(numbers) == 1 else 'seeds'} {listed(numbers)}"
