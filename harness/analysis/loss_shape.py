"""What a loss curve says about the learning rate: too small, good or too large. Imports the standard library only.

The outcome (was the target reached?) is another question: a run may reach it wobbling.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import median
from typing import Literal

Shape = Literal["stuck", "slow", "good", "oscillating", "collapsed", "diverged"]

SHAPES: tuple[Shape, ...] = ("stuck", "slow", "good", "oscillating", "collapsed", "diverged")
"""In the order of a rising learning rate."""


class RateVerdict(StrEnum):
    """What a point's seeds say of its learning rate."""

    TOO_SMALL = "too small"
    UNFINISHED = "unfinished"
    """Little was learnt, or much still is: more steps and a larger rate would both do, and one run tells no further."""

    GOOD = "good"
    TOO_LARGE = "too large"
    UNSTEADY = "unsteady"
    """Most seeds reach the target with it, though the loss does not fall steadily."""


MEANS: dict[Shape, RateVerdict] = {
    "stuck": RateVerdict.TOO_SMALL,
    "slow": RateVerdict.UNFINISHED,
    "good": RateVerdict.GOOD,
    "oscillating": RateVerdict.TOO_LARGE,
    "collapsed": RateVerdict.TOO_LARGE,
    "diverged": RateVerdict.TOO_LARGE,
}
"""What a shape says of the learning rate."""

LEAST_STEPS = 20
"""With fewer the tail would be most of the curve: no verdict; chosen."""

SLOW_STEPS = 100
"""Below this nothing is called too small: little has been learnt yet at any rate; chosen below the 160 steps of the
shortest curves that the thresholds were checked on."""


@dataclass(frozen=True)
class Thresholds:
    """Where one shape ends and the next begins.

    The defaults were found on 90 curves (softmax regression, an MLP and three LeNets on MNIST; nine rates from 1e-5 to
    3, two seeds, 300 steps of 64 samples; CPU). `drawdown` was raised from 0.15 and `thrown` added on 39 of lenet5 on
    digits (13 rates from 1e-5 to 10, three seeds, 246 steps of 32 samples); tests/analysis/test_loss_shape.py checks
    other seeds.

    Attributes:
        lost: a tail above this many times the initial loss has diverged.
        learnt: below this share of the initial loss gone, nothing was learnt.
        chance: tails within these multiples of the loss of a guess have learnt nothing either.
        moved: relative displacement above which weights that learnt nothing are dead rather than at rest; measured
            below 0.06 for rates too small and 1.5 to 1.9 for collapsed networks.
        thrown: relative displacement above which weights that learnt little were thrown about rather than slow;
            measured 0.05 to 0.32 for slow runs and 2.4 to 7.4 for rates ten times too large.
        drawdown: rise above the lowest loss so far, as a share of the initial loss.
        peak: multiple of the initial loss.
        slow: share of the initial loss gone below which a run is slow.
        falling: share of the initial loss lost in the second half above which a run is still on its way.
        arrived: share gone from which it has arrived, however much of that went in the second half.
    """

    lost: float = 1.5
    learnt: float = 0.05
    chance: tuple[float, float] = (0.95, 1.08)
    moved: float = 0.3
    thrown: float = 1.0
    drawdown: float = 0.2
    peak: float = 1.2
    slow: float = 0.6
    falling: float = 0.1
    arrived: float = 0.9


DEFAULTS = Thresholds()


@dataclass(frozen=True)
class Features:
    """What is read off a loss curve; all but `tail` are shares or multiples of the initial loss.

    Attributes:
        tail: median loss of the last tenth.
        progress: share gone at the tail.
        drawdown: largest rise of the smoothed loss above its lowest so far.
        peak: highest smoothed loss.
        late: share lost from the middle of the run to its tail.
    """

    tail: float
    progress: float
    drawdown: float
    peak: float
    late: float


def classify(
    losses: Sequence[float],
    initial_loss: float,
    displacement: float | None,
    chance_loss: float | None = None,
    thresholds: Thresholds = DEFAULTS,
) -> Shape | None:
    """Return the shape of a curve at its horizon; None where there are too few steps or the displacement is missing.

    Args:
        losses: of every step, in order: the mean over workers, or in the order of pushes.
        initial_loss: before the first update.
        displacement: how far the weights moved over how long they were. Without it a network that never started and
            one that died look alike.
        chance_loss: of a guess, such as ln 10 for the cross-entropy of ten classes; None where unknown.
    """
    if not all(map(math.isfinite, losses)) or not math.isfinite(initial_loss):
        return "diverged"
    if len(losses) < LEAST_STEPS or initial_loss <= 0:
        return None
    seen = features(losses, initial_loss)
    if seen.tail > thresholds.lost * initial_loss:
        return "diverged"
    low, high = thresholds.chance
    at_chance = chance_loss is not None and low <= seen.tail / chance_loss <= high
    brief = len(losses) < SLOW_STEPS
    # Whoever is still on the way down from far above has neither died nor never started.
    if (seen.progress < thresholds.learnt or at_chance) and seen.late <= thresholds.falling:
        if displacement is None:
            return None
        return "collapsed" if displacement >= thresholds.moved else None if brief else "stuck"
    if seen.drawdown >= thresholds.drawdown or seen.peak >= thresholds.peak:
        return "oscillating"
    if seen.progress >= thresholds.slow and (seen.late <= thresholds.falling or seen.progress >= thresholds.arrived):
        return "good"
    thrown = seen.progress < thresholds.slow and displacement is not None and displacement >= thresholds.thrown
    return "oscillating" if thrown else None if brief else "slow"


def features(losses: Sequence[float], initial_loss: float) -> Features:
    """Return what `classify` looks at; at least `LEAST_STEPS` losses."""
    count = len(losses)
    width = max(10, count // 10)
    tail, middle = median(losses[-width:]), median(losses[(count - width) // 2 :][:width])
    lowest, drawdown, peak = math.inf, 0.0, 0.0
    for value in smoothed(losses):
        lowest = min(lowest, value)
        drawdown, peak = max(drawdown, value - lowest), max(peak, value)
    return Features(
        tail=tail,
        progress=1 - tail / initial_loss,
        drawdown=drawdown / initial_loss,
        peak=peak / initial_loss,
        late=(middle - tail) / initial_loss,
    )


def smoothed(losses: Sequence[float], window: int = 9) -> list[float]:
    """Return trailing medians, the first when the window is full: a single bad batch is no oscillation."""
    held: list[float] = []
    medians = []
    for position, loss in enumerate(losses):
        insort(held, loss)
        if len(held) > window:
            del held[bisect_left(held, losses[position - window])]
        if len(held) == window:
            medians.append(held[window // 2])
    return medians
