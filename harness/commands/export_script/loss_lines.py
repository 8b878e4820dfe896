"""The loss of some samples, summed over what counts, as a script writes it. Imports torch."""

from __future__ import annotations

import torch

from harness.core.errors import InputError
from harness.workloads.entries import IGNORED
from harness.workloads.losses import Reduces

EACH = " / targets[0].numel()"
"""Behind the sum over all targets: a sample's loss is the mean over its own."""


def loss_lines(
    loss: str, outputs: tuple[int, ...], targets: torch.Tensor, ragged: bool, low_precision: bool
) -> list[str]:
    """Return the body of a function from outputs and targets to the sum of the samples' losses.

    Args:
        loss: one of LOSSES.
        outputs: shape of the outputs of one sample.
        targets: of some samples, shape (n, ...).
        ragged: the sum is over targets, not over samples: not all of a sample's count.
        low_precision: outputs may have 8 bits, too few for a sum of exponentials.

    Raises:
        InputError: scripts do not write this loss of such targets.
    """
    wide = ["outputs = outputs.float()"] if low_precision else []
    numbers, several = targets.is_floating_point(), targets.dim() > 1
    each = EACH if several and not ragged else ""
    if loss == "cross-entropy" and not numbers:
        second = ".movedim(-1, 1)" if several and _classes_last(outputs, targets) else ""
        return [*wide, f'return functional.cross_entropy(outputs{second}, targets, reduction="sum"){each}']
    if loss == "mse" and not numbers:
        last = [] if not several or _classes_last(outputs, targets) else ["outputs = outputs.movedim(1, -1)"]
        return [
            *wide,
            *last,
            "wanted = functional.one_hot(targets, outputs.shape[-1]).to(outputs.dtype)",
            'return functional.mse_loss(outputs, wanted, reduction="sum") / wanted[0].numel()',
        ]
    alike = "" if outputs == tuple(targets.shape[1:]) else ".reshape(targets.shape)"
    compared = f'outputs{alike}, targets.to(outputs.dtype), reduction="sum"'
    if loss == "mse":
        return [*wide, f"return functional.mse_loss({compared}){each}"]
    if loss == "bce-with-logits":
        return [*wide, f"return functional.binary_cross_entropy_with_logits({compared}){each}"]
    raise InputError([f"workload.loss = {loss} of such targets is not written to scripts yet"])


def own_loss_lines(call: str, reduces: Reduces, ragged: bool) -> list[str]:
    """Return that body for a function of the user's own.

    Args:
        call: the Python that names it.
        reduces: what it returns for a batch.
    """
    if reduces is Reduces.EACH_SAMPLE:
        return [f"return {call}(outputs, targets).sum()"]
    if reduces is Reduces.EACH_TARGET:
        return [f"return {call}(outputs, targets).sum(){'' if ragged else EACH}"]
    if reduces is Reduces.MEAN_OF_TARGETS and ragged:
        return [
            f"counted = int((targets != {IGNORED}).sum())",
            "if not counted:",
            "    return outputs.sum() * 0.0  # the mean over nothing is no number",
            f"return {call}(outputs, targets) * counted",
        ]
    return [f"return {call}(outputs, targets) * len(targets)"]


def _classes_last(outputs: tuple[int, ...], targets: torch.Tensor) -> bool:
    """Whether classes are the last axis of several; torch wants them second."""
    each = tuple(targets.shape[1:])
    last, second = outputs[:-1] == each, outputs[1:] == each
    return last and not (second and targets.dim() > 2)
