"""The entry exam: does a strategy that promises the result of one device train the same model?

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from harness.analysis.points import RESULTS, Row, number
from harness.analysis.words import listed

SAME = ("validation_loss", "train_loss", "displacement")
"""What equal weights have in common at the end of a run."""

PASSED = 0.05
"""Relative difference up to which a strategy passes; chosen: rounding in another order grows along a run (4e-7 to some
1e-3 over 500 steps), while a gradient that is summed where it should be averaged, or a rank that is left out, changes a
final loss by tens of percent. The median over seeds and rates counts: one rate at the edge of stability is no proof."""


@dataclass(frozen=True)
class Exam:
    """One strategy beside single on one engine.

    Attributes:
        pairs: cells of both with the same data, batch, rate and seed.
        typical, worst: relative difference of final losses: median and largest over the pairs.
    """

    strategy: str
    engine: str
    pairs: int
    typical: float
    worst: float

    @property
    def passed(self) -> bool:
        """Whether it trains what single trains."""
        return self.typical <= PASSED


def exams(rows: Sequence[Row]) -> list[Exam]:
    """Compare every strategy that must equal single with it, wherever both ran the same trajectory on one engine."""
    single = {_trajectory(row): row for row in rows if row["strategy"] == "single" and row["status"] in RESULTS}
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        base = single.get(_trajectory(row))
        candidate = row.get("equivalence") == "single" and row["strategy"] != "single" and row["status"] in RESULTS
        if candidate and base is not None:
            off = difference(base, row)
            if off is not None:
                found.setdefault((str(row["strategy"]), str(row["engine"])), []).append(off)
    return [Exam(*who, len(off), median(off), max(off)) for who, off in found.items()]


def _trajectory(row: Row) -> tuple[object, ...]:
    """Return what must be equal for the same weights: also the samples, where seconds decide when a run ends."""
    return row.get("trajectory_id") or id(row), row["engine"], row.get("precision"), row.get("samples_seen")


def difference(base: Row, row: Row) -> float | None:
    """Return the largest relative difference of what equal weights share; None where nothing was measured of both."""
    pairs = [(a, b) for key in SAME if (a := number(base, key)) is not None and (b := number(row, key)) is not None]
    return max((abs(a - b) / max(abs(a), abs(b), 1e-30) for a, b in pairs), default=None)


def failed(found: Sequence[Exam]) -> set[tuple[str, str]]:
    """Return (strategy, engine) of those that are shown but not ranked."""
    return {(exam.strategy, exam.engine) for exam in found if not exam.passed}


def in_words(found: Sequence[Exam], engine: str) -> tuple[str, ...]:
    """Say on one engine who trains what single trains, and who does not."""
    here = [exam for exam in found if exam.engine == engine]
    same = [exam for exam in here if exam.passed]
    lines = [_same(same, engine)] if same else []
    lines += [
        f"{exam.strategy} does not train what single trains: final losses differ by {100 * exam.typical:.2g} % "
        f"(median of {exam.pairs} pairs of cells); shown, not ranked"
        for exam in here
        if not exam.passed
    ]
    return tuple(lines)


def _same(same: Sequence[Exam], engine: str) -> str:
    names = listed(["single", *(exam.strategy for exam in same)])
    if engine == "virtual":
        return f"{names} share one trajectory by construction: between them this is a choice of speed and memory only"
    worst, pairs = max(exam.worst for exam in same), sum(exam.pairs for exam in same)
    close = f"to {worst:.0e}".replace("e-0", "e-") if worst else "to the last digit"
    typical = max(exam.typical for exam in same)
    if worst > 10 * typical and typical:
        close = f"to {typical:.0e}, at worst {worst:.0e}".replace("e-0", "e-")
    what = f"final losses of {pairs} pairs of cells"
    return f"{names} train identically {close} ({what}): between them this is a choice of speed and memory only"
