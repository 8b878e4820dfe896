"""The entry exam: does a strategy that promises the result of one device train the same model?

Each combination of model, data, precision, batch, options and devices is examined by itself. Imports the standard
library only; works on rows of cells.csv.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import NamedTuple

from harness.analysis.points import RESULTS, Row, number, point_of, points
from harness.core.endings import Status
from harness.core.row import BATCH_NORM, DRAWS
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, listed, share_in_percent

PASSED = 0.05
"""Relative difference up to which a strategy passes; chosen: a gradient that is summed where it should be averaged, or
a rank left out, moves the weights otherwise by tens of percent, from the first update on. Rounding in another order
moves them otherwise by 2e-7 at most at the first evaluation, after 11 updates, and grows from there: after 410 updates
to 0.008 on lenet5 (SGD at 0.05 and 0.1), on a ViT of four blocks to 4e-6 (AdamW at 0.0003 and 0.001) or to 0.06 (at
0.003 and 0.01). So the first evaluation decides where it was recorded (sync-ddp on 2 CPU cores beside single, digits,
10 epochs, fp32, 2026-11, n = 14). The median over seeds and rates counts: one rate at the edge of stability is no
proof."""

PASSED_OTHERWISE = 0.25
"""As `PASSED`, where a model normalises by batches or draws random numbers, so that devices cannot train what one does;
chosen: other masks or statistics differed by up to 0.09 in how far the weights moved (dropout of a half and BatchNorm,
batches of 32 over two and four devices, digits, 41 and 164 steps, 2026-11, n = 72)."""

IDENTICAL = 1e-5
"""Relative difference below which nobody would speak of more than rounding; chosen: a hundred units in the last place
of single precision."""

GROWN = 0.001
"""Relative difference at the end above which it is said that rounding has grown; chosen."""


class Moment(StrEnum):
    """When two runs were compared."""

    EARLY = "at the first evaluation"
    END = "at the end"


@dataclass(frozen=True)
class Exam:
    """One strategy beside single, in one combination on one engine.

    Attributes:
        key: of the combination; its rows have it by `combination_of`.
        where: the combination in words, as far as the strategy has several; empty where it has one.
        gpus: devices.
        by: what was compared, in words; moment: when.
        off: median relative difference over all pairs of cells with the same data, batch, rate and seed.
        pairs: those among them that ended after as many samples, so that rounding is all that may differ.
        typical, worst: median and largest difference at the end, over these.
        causes: why it cannot train exactly what single trains, of the column `traits`.
        cell_ids: of the pairs, single's among them.
    """

    strategy: str
    engine: str
    key: Hashable
    where: str
    gpus: int
    by: Text
    moment: Moment
    off: float
    pairs: int
    typical: float
    worst: float
    causes: tuple[str, ...] = ()
    cell_ids: frozenset[str] = frozenset()

    @property
    def limit(self) -> float:
        """Largest difference that it may have."""
        return PASSED_OTHERWISE if self.causes else PASSED

    @property
    def passed(self) -> bool:
        """Whether it trains what single trains, as far as that can be told."""
        return self.off <= self.limit

    @property
    def same(self) -> bool:
        """Whether it trains the same model but for the order in which numbers are added."""
        return self.passed and (not self.causes or max(self.off, self.worst) < IDENTICAL)

    @property
    def grown(self) -> bool:
        """Whether rounding, which was all that differed at first, has grown to more."""
        return self.same and self.moment is Moment.EARLY and self.off < IDENTICAL < GROWN < self.worst


def combination_of(row: Row) -> Hashable:
    """Return what is examined together: everything but rate and seed."""
    return point_of(row, leaving_out=("learning_rate", "lr_rule"))


def exams(rows: Sequence[Row]) -> list[Exam]:
    """Compare every strategy that must equal single with it, wherever both ran the same trajectory on one engine.

    On one device a strategy has nothing to do that could be wrong: those cells are left out.
    """
    single = {_trajectory(row): row for row in rows if row["strategy"] == "single" and row["status"] in RESULTS}
    found: dict[Hashable, list[_Pair]] = {}
    for row in rows:
        base = single.get(_trajectory(row))
        if base is not None and _must_equal(row) and not _both_diverged(base, row):
            differs = difference(base, row)
            if differs is not None:
                found.setdefault(combination_of(row), []).append(_pair(base, row, *differs))
    several = Counter(_who(pairs[0].row) for pairs in found.values())
    names = _names([pair.row for pairs in found.values() for pair in pairs])
    return [_exam(key, pairs, names.get(key, "") if several[_who(pairs[0].row)] > 1 else "")
            for key, pairs in found.items()]  # fmt: skip


def _must_equal(row: Row) -> bool:
    return row.get("equivalence") == "single" and row["gpus"] > 1 and row["status"] in RESULTS


def _both_diverged(base: Row, row: Row) -> bool:
    """Say whether two runs may have ended where they did for any reason: they say nothing of each other."""
    return bool(base["status"] == row["status"] == Status.DIVERGED)


def _who(row: Row) -> tuple[str, str]:
    return str(row["strategy"]), str(row["engine"])


class _Pair(NamedTuple):
    """A cell beside the one of single: what was compared and when, how far it is off then and at the end."""

    row: Row
    by: Text
    moment: Moment
    off: float
    end: float | None
    causes: frozenset[str]
    cell_ids: frozenset[str]


def _pair(base: Row, row: Row, by: Text, moment: Moment, off: float) -> _Pair:
    causes = frozenset(word for each in (base, row) for word in str(each.get("traits") or "").split())
    end = _at_end(base, row) if _as_long(base, row) else None
    return _Pair(row, by, moment, off, end[1] if end else None, causes, frozenset({_id(base), _id(row)}))


def _id(row: Row) -> str:
    return str(row.get("cell_id"))


def _exam(key: Hashable, pairs: Sequence[_Pair], where: str) -> Exam:
    alike = [pair.end for pair in pairs if pair.end is not None]
    typical, worst = (median(alike), max(alike)) if alike else (0.0, 0.0)
    early = [pair for pair in pairs if pair.moment is Moment.EARLY]
    judged = early or pairs
    strategy, engine = _who(pairs[0].row)
    return Exam(
        strategy=strategy,
        engine=engine,
        key=key,
        where=where,
        gpus=int(pairs[0].row["gpus"]),
        by=Counter(pair.by for pair in judged).most_common(1)[0][0],
        moment=judged[0].moment,
        off=median(pair.off for pair in judged),
        pairs=len(alike),
        typical=typical,
        worst=worst,
        causes=tuple(cause for cause in _CAUSES if any(cause in pair.causes for pair in pairs)),
        cell_ids=frozenset().union(*(pair.cell_ids for pair in pairs)),
    )


def _names(rows: Sequence[Row]) -> dict[Hashable, str]:
    """Return combinations in words: devices, batch, and what else tells those of a strategy apart."""
    found: dict[Hashable, str] = {}
    for point in points(rows, by_target=False):
        parts = [f"on {counted(point.gpus, 'device')}", f"global batch {point.row['global_batch_size']}"]
        parts += [str(point.row[key]) for key in ("precision",) if point.row.get(key)]
        found[combination_of(point.row)] = ", ".join([*parts, *point.varied])
    return found


def _trajectory(row: Row) -> tuple[object, ...]:
    """Return what must be equal for the same weights."""
    return row.get("trajectory_id") or id(row), row["engine"], row.get("precision")


def _as_long(base: Row, row: Row) -> bool:
    return bool(base.get("samples_seen") == row.get("samples_seen"))


MOVED = Text("the distance that its weights move")

COMPARED = {
    "displacement": MOVED,
    "validation_loss": Text("its validation loss"),
    "train_loss": Text("its training loss"),
}
"""Columns that say where a run ended, the first that both have; in words."""


def difference(base: Row, row: Row) -> tuple[Text, Moment, float] | None:
    """Return what is compared of two runs, when, and its relative difference; None without any.

    At the first evaluation rounding has not grown yet, so that moment counts where both stood there after as many
    samples.
    """
    ours, theirs = number(base, "early_displacement"), number(row, "early_displacement")
    if ours is not None and theirs is not None and base.get("early_samples") == row.get("early_samples"):
        return MOVED, Moment.EARLY, _relative(ours, theirs)
    found = _at_end(base, row)
    return (found[0], Moment.END, found[1]) if found else None


def _at_end(base: Row, row: Row) -> tuple[Text, float] | None:
    """Return what is compared of where two runs ended.

    A loss is compared only where both saw as many samples: it goes on falling where the weights hardly move.
    """
    for key, words in COMPARED.items():
        ours, theirs = number(base, key), number(row, key)
        if ours is not None and theirs is not None and (key == "displacement" or _as_long(base, row)):
            return words, _relative(ours, theirs)
    return None


def _relative(ours: float, theirs: float) -> float:
    return abs(ours - theirs) / max(abs(ours), abs(theirs)) if ours != theirs else 0.0


def failed(found: Iterable[Exam]) -> set[Hashable]:
    """Return the combinations that are shown but not ranked; a row's is `combination_of`."""
    return {exam.key for exam in found if not exam.passed}


def same_model(found: Iterable[Exam]) -> frozenset[str]:
    """Return the ids of cells that train the same model as single, single's among them."""
    return frozenset().union(*(exam.cell_ids for exam in found if exam.same))


# -- in words ----------------------------------------------------------------------------------------------------------


def passes_in_words(found: Sequence[Exam], engine: str) -> tuple[Text, ...]:
    """Say on one engine who trains what single trains."""
    passed = [exam for exam in found if exam.engine == engine and exam.passed and exam.pairs]
    same = [exam for exam in passed if exam.same]
    told = [_same(same, engine)] if same else []
    apart = [exam for exam in passed if not exam.same]
    several, elsewhere = dict.fromkeys(exam.causes for exam in apart), {exam.strategy for exam in same}
    groups = (([exam for exam in apart if exam.causes == causes], causes) for causes in several)
    return (*told, *(_alike(group, causes, elsewhere) for group, causes in groups))


def failures_in_words(found: Sequence[Exam], engine: str) -> tuple[Text, ...]:
    """Say on one engine who promises to train what single trains, and does not; where it does elsewhere, say so."""
    passes = {exam.strategy for exam in found if exam.engine == engine and exam.passed}
    return tuple(
        Text(
            f"{_in_full(exam)} does not train the same model as single, so it is not ranked. With the same seed and "
            f"learning rate, {exam.by} differs by {share_in_percent(exam.off)} {_when(exam)}(median; the limit is "
            f"{share_in_percent(exam.limit)})."
            + (f" {_why(exam.causes)}" if exam.causes else "")
            + (f" Its other combinations pass: {_suspect(exam)}." if exam.strategy in passes else "")
        )
        for exam in found
        if exam.engine == engine and not exam.passed
    )


def _in_full(exam: Exam) -> str:
    return f"{exam.strategy} ({exam.where})" if exam.where else exam.strategy


def _when(exam: Exam) -> str:
    return "at the first evaluation " if exam.moment is Moment.EARLY else ""


def _suspect(exam: Exam) -> str:
    return "look at what is particular to this one" if not exam.causes else "look at what the model does in this one"


def not_judged_in_words(rows: Sequence[Row], found: Sequence[Exam], engine: str) -> Text:
    """Say on one engine what promises to train what single trains and could not be examined; empty for none."""
    if not any(number(row, key) is not None for row in rows for key in COMPARED):
        return NO_TEXT  # nobody trains: nothing is promised
    known = {exam.key for exam in found}
    names = dict.fromkeys(
        str(row["strategy"])
        for row in rows
        if row["engine"] == engine
        and _must_equal(row)
        and row["status"] != Status.DIVERGED  # it trained nothing that single could have trained
        and combination_of(row) not in known
    )
    if not names:
        return NO_TEXT
    return Text(
        f"Not judged whether {listed(names)} {'trains' if len(names) == 1 else 'train'} the same model as single in "
        "every combination: single did not run with the same data, batch, learning rate and seed, or ended elsewhere."
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
    names = listed(["single", *dict.fromkeys(exam.strategy for exam in same)])
    choice = "Choose between them by speed and memory."
    if engine == "virtual":
        return Text(f"{names} train the same model by construction. {choice}")
    typical, worst = max(exam.typical for exam in same), max(exam.worst for exam in same)
    pairs = counted(sum(exam.pairs for exam in same), "pair of runs", "pairs of runs")
    grown = [exam for exam in same if exam.grown]
    if grown:
        first, last = max(exam.off for exam in grown), share_in_percent(max(exam.worst for exam in grown))
        begin = f"differ by {_power(first)}" if first else "are equal"
        return Text(
            f"{names} train the same model. Their weights {begin} at the first evaluation and up to {last} apart at "
            f"the end ({pairs}): they add numbers in another order, and training magnifies the rounding. {choice}"
        )
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


def _alike(same: Sequence[Exam], causes: Sequence[str], elsewhere: Collection[str]) -> Text:
    """Say how far those are apart who cannot be the same.

    Args:
        elsewhere: strategies that train the same in other combinations: there the combination is named.
    """
    names = list(dict.fromkeys(_in_full(exam) if exam.strategy in elsewhere else exam.strategy for exam in same))
    trains = "trains" if len(names) == 1 else "each train"
    typical, worst = max(exam.typical for exam in same), max(exam.worst for exam in same)
    pairs = counted(sum(exam.pairs for exam in same), "pair of runs", "pairs of runs")
    by = Counter(exam.by for exam in same).most_common(1)[0][0]
    return Text(
        f"{listed(names)} {trains} like single, but not the same: {by} differs by {share_in_percent(typical)} (median; "
        f"worst {share_in_percent(worst)}; {pairs}). {_why(causes)}"
    )


def _why(causes: Sequence[str]) -> str:
    said = " and ".join(_CAUSES[cause] for cause in causes)
    instead = " workload.sync_batchnorm = true makes replicas of sync-ddp and fsdp share statistics."
    return f"That is not rounding: {said}." + (instead if BATCH_NORM in causes else "")


def _power(value: float) -> str:
    return f"{value:.0e}".replace("e-0", "e-") if value else "0"
