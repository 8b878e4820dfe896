"""What two sets of records learnt: accuracy, loss and samples to the target, seed by seed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, variance

from harness.analysis.compare_times import POOLED_DEGREES, finding_of
from harness.analysis.compared import Change, ChangeKind, Finding, MeasuredCell, PointPair, deterministic
from harness.analysis.exact import MIN_SEEDS, Interval
from harness.analysis.intervals import quantile_of_t
from harness.analysis.points import number
from harness.analysis.quantities import Quantity
from harness.core.text import Text
from harness.core.words import counted

LEAST_ACCURACY = 0.01
"""Share of an accuracy below which a change does not count: an image or two of a small validation split; chosen."""

BEYOND_ROUNDING = 0.5
"""Share of an accuracy that no rounding costs a synchronous run, so that one seed is enough; chosen."""

SAMPLES_NEEDED = Quantity("samples_to_target", "samples to target")

ACCURACY_COLUMNS = (
    Quantity("validation_accuracy", "validation accuracy"),
    Quantity("test_accuracy", "test accuracy"),
)

LOSS_COLUMNS = (Quantity("validation_loss", "validation loss"), Quantity("train_loss", "training loss"))


@dataclass(frozen=True)
class LearntPair:
    """One quantity of a point on both sides.

    Attributes:
        sign: 1 where more is worse, -1 where less is.
        least: share of the base's value that counts.
        shares: (new - base) of each seed over the mean size of the base's values.
        exact: the same code must give the same values again.
    """

    pair: PointPair
    quantity: Quantity
    sign: int
    least: float
    base: float
    new: float
    shares: tuple[float, ...]
    exact: bool


@dataclass(frozen=True)
class JudgedPair:
    """What became of it, with how sure that is.

    Attributes:
        error: standard error of the mean share; None where too few seeds tell it.
        degrees: of freedom behind it.
    """

    found: LearntPair
    error: float | None
    degrees: float

    @property
    def chance(self) -> bool:
        """Whether it is judged by an interval, which has a share in the false alarms."""
        return bool(self.error)


def learnt(pairs: Sequence[PointPair], min_effect: float) -> list[JudgedPair]:
    """Return what every point learnt on both sides, quantity by quantity."""
    known = [found for pair in pairs for found in _quantities(pair, min_effect)]
    return [_judged(found, [other for other in known if other.quantity == found.quantity]) for found in known]


def _quantities(pair: PointPair, min_effect: float) -> Iterable[LearntPair]:
    losses = [found for quantity in LOSS_COLUMNS if (found := _pair(pair, quantity, 1, min_effect))]
    yield from losses[:1]
    for quantity in ACCURACY_COLUMNS:
        if found := _pair(pair, quantity, -1, LEAST_ACCURACY):
            yield found
    metric = Quantity("validation_metric", str(pair.row.get("metric") or "metric"))
    if found := _pair(pair, metric, -1 if pair.row.get("better") == "higher" else 1, min_effect):
        yield found
    # Where the samples must be the same again they are compared exactly.
    if (found := _pair(pair, SAMPLES_NEEDED, 1, min_effect)) and not found.exact:
        yield found


def _pair(pair: PointPair, quantity: Quantity, sign: int, least: float) -> LearntPair | None:
    """Return the seeds that have the quantity on both sides; None without any, or where the base's are all 0."""
    cells = [
        (before, after, values[0], values[1])
        for before, after in zip(pair.base, pair.new, strict=True)
        if None not in (values := (number(before.row, quantity.column), number(after.row, quantity.column)))
    ]
    known = [(float(b), float(n)) for *_, b, n in cells if b is not None and n is not None]
    size = fmean(abs(b) for b, _ in known) if known else 0.0
    if not size:
        return None
    base, new = (fmean(side) for side in zip(*known, strict=True))
    exact = all(_repeats(quantity, before, after) for before, after, *_ in cells)
    return LearntPair(pair, quantity, sign, least, base, new, tuple((n - b) / size for b, n in known), exact)


def _repeats(quantity: Quantity, before: MeasuredCell, after: MeasuredCell) -> bool:
    return not before.real and deterministic(quantity, before, after)


def _judged(found: LearntPair, alike: Sequence[LearntPair]) -> JudgedPair:
    """Return a quantity with the error of its own seeds, or where they are few of all points' together."""
    count = len(found.shares)
    if found.exact:
        return JudgedPair(found, 0.0, math.inf)
    if count >= MIN_SEEDS:
        return JudgedPair(found, math.sqrt(variance(found.shares) / count), count - 1)
    several = [other.shares for other in alike if len(other.shares) > 1 and not other.exact]
    degrees = sum(len(shares) - 1 for shares in several)
    if degrees < POOLED_DEGREES:
        return JudgedPair(found, None, 0)
    pooled = sum(variance(shares) * (len(shares) - 1) for shares in several) / degrees
    return JudgedPair(found, math.sqrt(pooled / count), degrees)


def learnt_change(item: JudgedPair, coverage: float) -> Change:
    """Return it as a change: worse or better where that is both certain and large enough."""
    found, share = item.found, fmean(item.found.shares)
    half = quantile_of_t((1 + coverage) / 2, item.degrees) * item.error if item.error else 0.0
    # Of what an interval cannot be told nothing but a collapse is certain.
    low, high = (-math.inf, math.inf) if item.error is None else (share - half, share + half)
    runs = (len(found.shares), len(found.shares))
    return Change(
        row=found.pair.row,
        quantity=found.quantity,
        base=found.base,
        new=found.new,
        ratio=1 + share,
        interval=Interval(1 + low, 1 + high, coverage) if item.chance else None,
        kind=_kind(item, share, (low, high)),
        runs=runs,
    )


def _kind(item: JudgedPair, share: float, ends: tuple[float, float]) -> ChangeKind | None:
    found = item.found
    worse, (low, high) = found.sign * share, sorted(found.sign * end for end in ends)
    if worse >= found.least and (low > 0 or _collapsed(found, worse)):
        return ChangeKind.REGRESSION
    if worse >= found.least and item.error is None:
        return ChangeKind.UNDECIDED
    return ChangeKind.IMPROVEMENT if worse <= -found.least and high < 0 else None


def _collapsed(found: LearntPair, worse: float) -> bool:
    cells = (*found.pair.base, *found.pair.new)
    large = found.quantity in ACCURACY_COLUMNS and worse >= BEYOND_ROUNDING
    return large and all(c.row.get("synchrony") == "synchronous" and not c.timed for c in cells)


def learnt_finding(change: Change) -> Finding | None:
    """Return a change as a finding; None where it is none."""
    found = finding_of(change)
    if found is None or found.kind is not ChangeKind.UNDECIDED:
        return found
    return replace(found, detail=Text(f"with {counted(found.runs[0], 'seed')} this may be chance"))
