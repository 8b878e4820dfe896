"""Who waits for data: points whose steps are largely input. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.analysis.point_names import label
from harness.analysis.points import Point
from harness.core.step_parts import STEP_PARTS, Part
from harness.core.text import Text
from harness.core.words import duration, share_in_percent

LEAST_INPUT_SHARE = 0.2
"""Of a step from which it is said to be bound by its input; chosen: a fifth of the time is worth an hour's work."""
LEAST_INPUT_S = 1e-3
"""Input of a step below which nothing is said: taking resident samples costs some 0.1 ms, which nobody could mend."""


@dataclass(frozen=True)
class InputBound:
    """A point that waits for its data.

    Attributes:
        input_s: of an update.
        share: of the update's time.
    """

    point: Point
    input_s: float
    share: float


def input_bound(points: Sequence[Point]) -> list[InputBound]:
    """Return the points that are bound by their input, those that lose most first."""
    found = []
    for point in points:
        whole = point.per_update(tuple(part.column for part in STEP_PARTS))
        input_s = point.per_update((Part.INPUT.column,))
        if whole and input_s is not None and input_s >= LEAST_INPUT_S and input_s >= LEAST_INPUT_SHARE * whole:
            found.append(InputBound(point, input_s, input_s / whole))
    return sorted(found, key=lambda bound: -bound.share)


def input_bound_in_words(found: Sequence[InputBound]) -> tuple[Text, ...]:
    """Name the points that wait for their data, and what would help."""
    if not found:
        return ()
    worst = found[0]
    others = f" So do {len(found) - 1} other settings." if len(found) > 2 else ""
    others = " So does one other setting." if len(found) == 2 else others
    return (
        Text(
            f"{label(worst.point)} spends {share_in_percent(worst.share)} of a step ({duration(worst.input_s)}) on "
            f"reading its data.{others} Let more processes read ahead (workload.loading.workers), keep the data in "
            "memory (workload.loading.resident = true; samples that are drawn anew then stay as they were first read), "
            "or do less for each sample in the data set."
        ),
    )
