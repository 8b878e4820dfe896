"""Over- and underfitting: train against validation. Imports the standard library only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from harness.analysis.loss_shape import MEANS, RateVerdict

Fitting = Literal["underfit", "overfit", "fits"]

OVER = 0.10
"""Rise of the validation loss above its lowest, as a share of that, above which a run has overfitted; chosen: far
above how much an evaluation on some hundred samples wavers."""

UNDER = 0.5
"""Share of the initial loss that is left in training above which a run has underfitted; chosen."""

THROWN = frozenset(shape for shape, means in MEANS.items() if means is RateVerdict.TOO_LARGE)
"""Shapes of loss curves that a rate too large throws about."""

IN_A_ROW = 3
"""Evaluations at the end that must all lie above; chosen: a curve that wobbles is back below within one or two."""


def fitting(
    training: Sequence[float | None],
    validation: Sequence[float | None],
    final_loss: float | None,
    initial_loss: float | None,
    shape: str | None = None,
) -> Fitting | None:
    """Say whether a run over- or underfits; None where it cannot be told.

    Overfit: the validation loss has risen from its lowest and stays there, while the training loss went on falling.
    Underfit: the training loss itself is still high.

    Args:
        training: mean training loss since the evaluation before, of every evaluation in order.
        validation: validation loss of every evaluation.
        shape: of the loss curve: what a rate too large throws about has not overfitted.
        final_loss: training loss at the end; `initial_loss`: before the first update.
    """
    known = [loss for loss in validation if loss is not None and math.isfinite(loss)]
    if len(known) < max(IN_A_ROW, len(validation)) or final_loss is None or initial_loss is None:
        return None
    lowest = min(range(len(known)), key=known.__getitem__)
    risen = min(known[-IN_A_ROW:]) > (1 + OVER) * known[lowest]
    at_lowest = training[lowest]
    if shape in THROWN:
        return "underfit" if final_loss > UNDER * initial_loss else None if risen else "fits"
    if risen and at_lowest is not None and final_loss < at_lowest:
        return "overfit"
    return "underfit" if final_loss > UNDER * initial_loss else "fits"
