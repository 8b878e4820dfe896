"""The entry exam: does a strategy that promises the result of one device train the same model?

Imports the standard library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import NamedTuple

from harness.analysis.points import RESULTS, Row, number
from harness.core.endings import Status
from harness.core.row import BATCH_NORM, DRAWS
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, listed, share_in_percent

PASSED = 0.05
"""Relative difference up to which a strategy passes; chosen: rounding in another order grows along a run, in how far
the weights moved to 0.0015 (lenet5 on digits, 140 to 380 steps, 2 CPU cores, 2026-11, n = 6; in the final loss to
0.07), while a gradient that is summed where it should be averaged, or a rank left out, moves them otherwise by tens of
percent. The median over seeds and rates counts: one rate at the edge of stability is no proof."""

PASSED_OTHERWISE = 0.25
"""As `PASSED`, where a model normalises by batches or draws random numbers, so that devices cannot train what one does;
chosen: other masks or statistics differed by up to 0.09 in how far the weights moved (dropout of a half and BatchNorm,
batches of 32 over two and four devices, digits, 41 and 164 steps, 2026-11, n = 72)."""

IDENTICAL = 1e-5
"""Relative difference below which nobody would speak of more than rounding; chosen: a hundred units in the last place
of single precision."""


@dataclass(frozen=True)
class Exam:
    """One strategy beside single on one engine.

    Attributes:
        off: median relative difference of how far the weights moved, or of final losses where that was not recorded,
            over all pairs of cells with the same data, batch, rate and seed.
        by: what was compared, in words.
        pairs: those among them that ended after as many samples, so that rounding is all that may differ.
        typical, worst: median and largest difference over these.
        causes: why it cannot train exactly what single trains, of the column `traits`.
    """

    strategy: str
    engine: str
    by: Text
    off: float
    pairs: int
    typical: float
    worst: float
    causes: tuple[str, ...] = ()

    @property
    def limit(self) -> float:
        """Largest difference that it may have."""
        return PASSED_OTHERWISE if self.causes else PASSED

    @property
    def passed(self) -> bool:
        """Whether it trains what single trains, as far as that can be told."""
        return self.off <= self.limit


def exams(rows: Sequence[Row]) -> list[Exam]:
    """Compare every strategy that must equal single with it, wherever both ran the same trajectory on one engine.

    On one device a strategy has nothing to do that could be wrong: those cells are left out.
    """
    single = {_trajectory(row): row for row in rows if row["strategy"] == "single" and row["status"] in RESULTS}
    found: dict[tuple[str, str], list[_Pair]] = {}
    for row in rows:
        base = single.get(_trajectory(row))
        candidate = row.get("equivalence") == "single" and row["gpus"] > 1 and row["status"] in RESULTS
        # Two that diverged may have done so for any reason: they say nothing of each other.
        if candidate and base is not None and (base["status"], row["status"]) != (Status.DIVERGED, Status.DIVERGED):
            differs = difference(base, row)
            if differs is not None:
                pair = _Pair(*differs, _as_long(base, row), _causes(base, row))
                found.setdefault((str(row["strategy"]), str(row["engine"])), []).append(pair)
    return [_exam(*who, pairs) for who, pairs in found.items()]


class _Pair(NamedTuple):
    """A cell beside the one of single: what was compared, how far it is off, and whether both saw as many samples."""

    by: Text
    off: float
    as_long: bool
    causes: frozenset[str]


def _causes(base: Row, row: Row) -> frozenset[str]:
    return frozenset(word for each in (base, row) for word in str(each.get("traits") or "").split())


def _exam(strategy: str, engine: str, pairs: Sequence[_Pair]) -> Exam:
    alike = [pair.off for pair in pairs if pair.as_long]
    typical, worst = (median(alike), max(alike)) if alike else (0.0, 0.0)
    by = Counter(pair.by for pair in pairs).most_common(1)[0][0]
    causes = tuple(cause for cause in _CAUSES if any(cause in pair.causes for pair in pairs))
    return Exam(strategy, engine, by, median(pair.off for pair in pairs), len(alike), typical, worst, causes)


def _trajectory(row: Row) -> tuple[object, ...]:
    """Return what must be equal for the same weights."""
    return row.get("trajectory_id") or id(row), row["engine"], row.get("precision")


def _as_long(base: Row, row: Row) -> bool:
    return bool(base.get("samples_seen") == row.get("samples_seen"))


COMPARED = {
    "displacement": "the distance that its weights move",
    "validation_loss": "its validation loss",
    "train_loss": "its training loss",
}
"""Columns that say where a run ended, the first that both have; in words."""


def difference(base: Row, row: Row) -> tuple[Text, float] | None:
    """Return what is compared of where two runs ended, and its relative difference; None without any.

    A loss is compared only where both saw as many samples: it goes on falling where the weights hardly move.
    """
    for key, words in COMPARED.items():
        ours, theirs = number(base, key), number(row, key)
        if ours is not None and theirs is not None and (key == "displacement" or _as_long(base, row)):
            return Text(words), abs(ours - theirs) / max(abs(ours), abs(theirs)) if ours != theirs else 0.0
    return None


def failed(found: Sequence[Exam]) -> set[tuple[str, str]]:
    """Return (strategy, engine) of those that are shown but not ranked."""
    return {(exam.strategy, exam.engine) for exam in found if not exam.passed}


def passes_in_words(found: Sequence[Exam], engine: str) -> tuple[Text, ...]:
    """Say on one engine who trains what single trains."""
    same = [exam for exam in found if exam.engine == engine and exam.passed and exam.pairs]
    exact = [exam for exam in same if not exam.causes or exam.worst < IDENTICAL]
    told = [_same(exact, engine)] if exact else []
    apart = [exam for exam in same if exam not in exact]
    several = dict.fromkeys(exam.causes for exam in apart)
    return (*told, *(_alike([exam for exam in apart if exam.causes == causes], causes) for causes in several))


def failures_in_words(found: Sequence[Exam], engine: str) -> tuple[Text, ...]:
    """Say on one engine who promises to train what single trains, and does not."""
    return tuple(
        Text(
            f"{exam.strategy} does not train the same model as single, so it is not ranked. With the same seed and "
            f"learning rate, {exam.by} differs by {share_in_percent(exam.off)} (median; the limit is "
            f"{share_in_percent(exam.limit)})." + (f" {_why(exam.causes)}" if exam.causes else "")
        )
        for exam in found
        if exam.engine == engine and not exam.passed
    )


def not_examined_in_words(rows: Sequence[Row], engine: str) -> Text:
    """Say on one engine which strategies do not promise to train what single trains; empty for none."""
    names = dict.fromkeys(
        str(row["strategy"])
        for row in rows
        if row["engine"] == engine and row["gpus"] > 1 and row["status"] in RESULTS and not row.get("equivalence")
    )
    if not names:
        return NO_TEXT
    are = "is" if len(names) == 1 else "are"
    return Text(f"{listed(names)} {are} not mathematically equivalent to single. Compare their curves.")


def _same(same: Sequence[Exam], engine: str) -> Text:
    names = listed(["single", *(exam.strategy for exam in same)])
    choice = "Choose between them by speed and memory."
    if engine == "virtual":
        return Text(f"{names} train the same model by construction. {choice}")
    typical, worst = max(exam.typical for exam in same), max(exam.worst for exam in same)
    pairs = counted(sum(exam.pairs for exam in same), "pair of runs", "pairs of runs")
    if worst < IDENTICAL:
        close = f"{f'to {_power(worst)}' if worst else 'to the last digit'} ({pairs})"
    else:
        off = f"relative difference at the end: median {_power(typical)}, worst {_power(worst)}"
        close = f"up to rounding ({off}; {pairs})"
    return Text(f"{names} train the same model {close}. {choice}")


_CAUSES = {
    BATCH_NORM: "BatchNorm normalises by the samples that pass together on one device",
    DRAWS: "the model draws random numbers, and every device draws its own",
}


def _alike(same: Sequence[Exam], causes: Sequence[str]) -> Text:
    """Say how far those are apart who cannot be the same."""
    names = listed(exam.strategy for exam in same)
    trains = "trains" if len(same) == 1 else "each train"
    typical, worst = max(exam.typical for exam in same), max(exam.worst for exam in same)
    pairs = counted(sum(exam.pairs for exam in same), "pair of runs", "pairs of runs")
    by = Counter(exam.by for exam in same).most_common(1)[0][0]
    return Text(
        f"{names} {trains} like single, but not the same: {by} differs by {share_in_percent(typical)} (median; worst "
        f"{share_in_percent(worst)}; {pairs}). {_why(causes)}"
    )


def _why(causes: Sequence[str]) -> str:
    said = " and ".join(_CAUSES[cause] for cause in causes)
    instead = " workload.sync_batchnorm = true makes replicas of sync-ddp and fsdp share statistics."
    return f"That is not rounding: {said}." + (instead if BATCH_NORM in causes else "")


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"
