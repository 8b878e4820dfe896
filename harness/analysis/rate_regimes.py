"""Learning rates over a sweep: the regime of every point, its seeds voting, as a map; over- and underfitting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

from harness.analysis.points import Row, number, points
from harness.regime import DEFAULTS, MEANS, SHAPES, Features, Shape, Thresholds, classify, features, in_words

__all__ = [
    "DEFAULTS", "MEANS", "SHAPES", "Features", "Shape", "Thresholds", "Vote", "classify", "features", "fitting",
    "in_words", "map_frame", "regimes_frame", "vote",
]  # fmt: skip


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
    def verdict(self) -> str | None:
        """Too small, good or too large."""
        return MEANS[self.shape] if self.shape else None

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


def regimes_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each point whose cells trained: shape, verdict, seeds by shape, seeds that reached."""
    rows = []
    trained = [row for row in cells.to_dict("records") if isinstance(row.get("regime"), str)]
    targets = any(row["status"] == "target-missed" or number(row, "time_to_target_s") is not None for row in trained)
    keys = ("strategy", "options", "engine", "device", "gpus", "workers", "global_batch_size", "learning_rate")
    for point in points(trained, by_target=True):
        reached = sum(number(row, "time_to_target_s") is not None for row in point.rows) if targets else None
        found = vote([row["regime"] for row in point.rows], reached)
        row = {key: point.row.get(key) for key in keys} | {"details": point.details, "seeds": found.seeds}
        row |= {"regime": found.shape, "verdict": found.verdict, "reached": reached, "text": found.text}
        rows.append(row | {f"seeds_{shape}": found.counts.get(shape, 0) for shape in SHAPES})
    return pd.DataFrame(rows)


def map_frame(cells: pd.DataFrame) -> pd.DataFrame:
    """Return the map: learning rate x global batch x workers (or devices) to a regime, of each strategy and engine.

    Where points differ in more than that (an option, a swept key) each is a row, told apart by `details`.
    """
    found = regimes_frame(cells)
    if not len(found):
        return found
    axes = ["strategy", "engine", "details", "global_batch_size", "workers", "gpus", "learning_rate"]
    return found[[*axes, "regime", "verdict", "text", "seeds", "reached"]].sort_values(axes, ignore_index=True)


# -- over- and underfitting --------------------------------------------------------------------------------------------

Fitting = Literal["underfit", "overfit", "fits"]

OVER = 0.10
"""Rise of the validation loss above its lowest, as a share of that, from which on a run has overfitted; chosen: far
above how much an evaluation on some hundred samples wavers."""

UNDER = 0.5
"""Share of the initial loss that is left in training above which a run has underfitted; chosen."""


def fitting(row: Row, evaluations: pd.DataFrame) -> Fitting | None:
    """Say whether a run over- or underfits: train against validation; None where it cannot be told.

    Overfit: the validation loss has risen from its lowest while the training loss went on falling. Underfit: the
    training loss itself is still high.

    Args:
        row: of cells.csv.
        evaluations: of this cell, in order, as `harness.load` has them.
    """
    validation = evaluations["validation_loss"].astype(float)
    train, initial = number(row, "train_loss"), number(row, "initial_loss")
    if validation.isna().any() or len(validation) < 3 or train is None or initial is None:
        return None
    lowest = int(validation.argmin())
    risen = validation.iloc[-1] > (1 + OVER) * validation.iloc[lowest]
    at_lowest = number(evaluations.iloc[lowest].to_dict(), "train_loss")
    if risen and at_lowest is not None and train < at_lowest:
        return "overfit"
    return "underfit" if train > UNDER * initial else "fits"
