"""The loss of each sample, as a script writes it. Imports torch."""

from __future__ import annotations

import torch

from harness.core.errors import InputError


def loss_lines(
    loss: str, outputs: tuple[int, ...], targets: torch.Tensor, classes: int, ragged: bool, low_precision: bool
) -> list[str]:
    """Return the body of a function from outputs and targets to the loss of each sample.

    Args:
        outputs: shape of the outputs of one sample.
        targets: of some samples, shape (n, ...).
        classes: how many there are; 0 where targets are numbers.
        ragged: a sample's losses are summed, not averaged: its targets do not all count.
        low_precision: outputs may have 8 bits, too few for a sum of exponentials.

    Raises:
        InputError: scripts do not write this loss of such targets.
    """
    wide = "outputs.float()" if low_precision else "outputs"
    each = _over_targets(targets.dim(), ragged)
    if loss == "cross-entropy" and not targets.is_floating_point():
        if _classes_last(outputs, targets):
            wide += ".movedim(-1, 1)"
        return [f'return functional.cross_entropy({wide}, targets, reduction="none"){each}']
    alike = "" if outputs == tuple(targets.shape[1:]) else ".reshape(targets.shape)"
    if loss == "mse" and targets.is_floating_point():
        return [f'return functional.mse_loss({wide}{alike}, targets, reduction="none"){each}']
    if loss == "mse" and targets.dim() == 1:
        return [
            f"wanted = functional.one_hot(targets, {classes}).to({wide}.dtype)",
            f'return functional.mse_loss({wide}, wanted, reduction="none").mean(dim=1)',
        ]
    if loss == "bce-with-logits":
        wanted = "targets" if targets.is_floating_point() else f"targets.to({wide}.dtype)"
        made = f'functional.binary_cross_entropy_with_logits({wide}{alike}, {wanted}, reduction="none")'
        return [f"return {made}{each}"]
    raise InputError([f"workload.loss = {loss} of such targets is not written to scripts yet"])


def _over_targets(dimensions: int, ragged: bool) -> str:
    if dimensions == 1:
        return ""
    flat = ".flatten(1)" if dimensions > 2 else ""
    return f"{flat}.{'sum' if ragged else 'mean'}(dim=1)"


def _classes_last(outputs: tuple[int, ...], targets: torch.Tensor) -> bool:
    """Whether classes are the last axis of several; torch wants them second."""
    each = tuple(targets.shape[1:])
    if not each:
        return False
    last, second = outputs[:-1] == each, outputs[1:] == each
    return last and not (second and targets.dim() > 2)
