"""One step of a user's model before anything is measured: does it fit the data, and what must a run know of it?"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from harness.api.host import describe
from harness.core.errors import PluginError
from harness.engines.shared.replica import DTYPES, convert, seeded
from harness.workloads.batches import Inputs, call, outputs_of, tensors_of
from harness.workloads.losses import weighted_loss

if TYPE_CHECKING:
    from harness.core.cell import Workload
    from harness.workloads.data import Data

TRIAL_SAMPLES = 2
"""Of the trial step. Not one: BatchNorm over a single value is refused."""


@dataclass(frozen=True)
class Trial:
    """What one training step of a model showed.

    Attributes:
        without_gradient: names of parameters that require a gradient and got none.
        draws: whether its forward pass in training draws random numbers.
    """

    without_gradient: tuple[str, ...]
    draws: bool


def try_model(module: nn.Module, data: Data, work: Workload, seed: int, files: list[str]) -> Trial:
    """Take one training step, gradients only, on a copy of the model.

    Args:
        module: as it was built; left untouched.
        files: the user's own, for errors in his terms.

    Raises:
        PluginError: the model does not take the data, its output does not fit the targets, or nothing can be trained.
    """
    name, rows = work.model.name, min(TRIAL_SAMPLES, len(data.train))
    if not any(p.requires_grad for p in module.parameters()):
        held = (
            "all its parameters are frozen" if next(module.parameters(), None) is not None else "it has no parameters"
        )
        raise PluginError(f"{name}: there is nothing to train: {held}")
    copied = convert(copy.deepcopy(module), data.train.device, DTYPES[work.precision]).train()
    inputs, targets = data.train.block(0, rows)
    with seeded(seed, "trial"):
        before = _generators()
        outputs = _forward(name, copied, inputs, work, files)
        draws = any(old != new for old, new in zip(before, _generators(), strict=True))
        _backward(name, outputs, targets, work, files, data)
    return Trial(tuple(n for n, p in copied.named_parameters() if p.requires_grad and p.grad is None), draws)


def _forward(name: str, module: nn.Module, inputs: Inputs, work: Workload, files: list[str]) -> torch.Tensor:
    device = tensors_of(inputs)[0].device.type
    try:
        with torch.autocast(device, torch.bfloat16, enabled=work.precision == "bf16"):
            result = call(module, inputs)
    except Exception as error:
        reason = describe(error, files)
        raise PluginError(f"{name}: fails on inputs of shape {_shapes(inputs)}: {reason}") from error
    try:
        return outputs_of(result)
    except TypeError as error:
        raise PluginError(f"{name}: returned {error}") from None


def _backward(
    name: str, outputs: torch.Tensor, targets: torch.Tensor, work: Workload, files: list[str], data: Data
) -> None:
    classes, rows = data.classes, len(targets)
    one_class = targets.dim() == 1 and not targets.is_floating_point() and work.loss in ("cross-entropy", "mse")
    if one_class and tuple(outputs.shape) != (rows, classes):
        got = tuple(outputs.shape)
        raise PluginError(f"{name}: must give outputs of shape {(rows, classes)}, one for each class; got {got}")
    try:
        weighted_loss(work.loss, data.counts is not None)(outputs, targets, 1.0 / rows).backward()  # type: ignore[no-untyped-call]
    except Exception as error:
        reason = describe(error, files)
        shapes = f"outputs of shape {tuple(outputs.shape)} and targets of shape {tuple(targets.shape)}"
        raise PluginError(f"{name}: a training step fails on {shapes}: {reason}") from error


def _shapes(inputs: Inputs) -> str:
    if isinstance(inputs, dict):
        return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
    return str(tuple(inputs.shape))


def _generators() -> tuple[Any, ...]:
    """Return the states of all generators that a model may draw from, in a form that can be compared."""
    states: list[Callable[[], Any]] = [lambda: torch.get_rng_state().numpy().tobytes(), random.getstate]
    if torch.cuda.is_available():
        states.append(lambda: torch.cuda.get_rng_state().numpy().tobytes())
    drawn = np.random.get_state(legacy=False)
    return (*(state() for state in states), str(drawn))
