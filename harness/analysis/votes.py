"""What the seeds of a point say of its learning rate, together. Imports the standard library only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.loss_shape import MEANS, SHAPES, RateVerdict, Shape
from harness.analysis.ranking import ENOUGH, Standing


@dataclass(frozen=True)
class Vote:
    """What the seeds of a point say of its learning rate.

    Attributes:
        shape: the one most seeds show; of several as frequent the one of the largest rate: a wrong rate that is called
            right costs more than the reverse. None where no seed can tell.
        counts: seeds by shape, in the order of a rising rate; seeds that cannot tell are left out.
        reached: seeds that met the target; None where there was none.
    """

    shape: Shape | None
    counts: Mapping[Shape, int]
    seeds: int
    reached: int | None

    @property
    def verdict(self) -> RateVerdict | None:
        """None where no seed can tell; nothing wrong where most seeds reach the target."""
        if self.shape is None:
            return None
        if not self.reached or self.reached < ENOUGH * self.seeds:
            return MEANS[self.shape]
        return RateVerdict.UNSTEADY if MEANS[self.shape] is RateVerdict.TOO_LARGE else RateVerdict.GOOD

    @property
    def text(self) -> str:
        """Outcome and shape with their counts, such as "4 of 5 reached; oscillating 3 of 5"."""
        parts = [] if self.reached is None else [f"{self.reached} of {self.seeds} reached"]
        if self.shape is None:
            return "; ".join([*parts, "too short to tell"])
        return "; ".join([*parts, f"{self.shape} {self.counts[self.shape]} of {self.seeds}"])


def vote(shapes: Sequence[Shape | None], reached: int | None = None) -> Vote:
    """Let the seeds of a point vote."""
    counted = Counter(shape for shape in shapes if shape)
    counts = {shape: counted[shape] for shape in SHAPES if counted[shape]}
    winner = max(counts, key=lambda shape: (counts[shape], SHAPES.index(shape)), default=None)
    return Vote(winner, counts, len(shapes), reached)


def vote_of(standing: Standing) -> Vote:
    """Let the seeds of a point vote on its learning rate; how many of them got there counts."""
    reached = standing.reached if standing.point.by_target else None
    return vote([row.get("regime") for row in standing.point.rows], reached)
