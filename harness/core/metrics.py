"""What a model is judged by on samples that it was not trained on: names, directions and words. Imports no torch."""

from __future__ import annotations

import math
from dataclasses import dataclass

ACCURACY, TOKEN_ACCURACY, PERPLEXITY = "accuracy", "token-accuracy", "perplexity"
SQUARED_ERROR, ABSOLUTE_ERROR = "mse", "mae"

WORDS = {
    ACCURACY: "accuracy",
    TOKEN_ACCURACY: "token accuracy",
    PERPLEXITY: "perplexity",
    SQUARED_ERROR: "mean squared error",
    ABSOLUTE_ERROR: "mean absolute error",
}
"""By the name that scenarios call it."""

ACCURACIES = (ACCURACY, TOKEN_ACCURACY)
"""Shares of what is right, 0..1; of all others here less is better."""

DIRECTIONS = ("higher", "lower")


@dataclass(frozen=True)
class Judged:
    """A metric by its name.

    Attributes:
        name: one of WORDS, or FILE.py:FUNCTION.
        higher: whether more is better.
    """

    name: str = ACCURACY
    higher: bool = True

    @classmethod
    def of(cls, name: str, better: str = "") -> Judged:
        """Return a metric, its direction that of its name where none is given."""
        return cls(name, better == "higher" if better else name in ACCURACIES or name not in WORDS)

    @property
    def is_accuracy(self) -> bool:
        """Whether it is a share of what is right."""
        return self.name in ACCURACIES

    @property
    def better(self) -> str:
        """Its direction, as scenarios write it."""
        return DIRECTIONS[not self.higher]

    @property
    def words(self) -> str:
        """What people call it."""
        return WORDS.get(self.name) or self.name.rpartition(":")[2]

    def written(self, value: float) -> str:
        """Write a value: "0.950" of an accuracy, three digits of anything else."""
        return f"{value:.3f}" if self.is_accuracy else f"{value:.3g}"

    def meets(self, value: float, target: float) -> bool:
        """Whether a value is at the target or better."""
        return value >= target if self.higher else value <= target

    def rank(self, value: float | None) -> float:
        """Return what sorts better values first; what is not known sorts last."""
        if value is None or math.isnan(value):
            return math.inf
        return -value if self.higher else value


LOSS = Judged("loss", higher=False)
"""What is always measured beside the metric, and may be the target in its place."""
