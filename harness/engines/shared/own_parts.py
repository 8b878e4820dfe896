"""What of a cell's training is a function of the user's own: its loss, its optimizer, its learning-rate schedule."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.core.errors import PluginError
from harness.workloads.user_files import UserFunction, find_user_function, is_user_function
from harness.workloads.user_import import own_errors, user_object

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.core.cell import Cell, Named
    from harness.core.metrics import Judged
    from harness.engines.shared.optimizers import OwnOptimizer
    from harness.workloads.losses import Metric, OwnLoss

Factor = Callable[[int], float]
"""From the number of updates behind the weights to what the learning rate is multiplied by."""


def find_loss(cell: Cell) -> str | OwnLoss:
    """Return a cell's loss: its name, or the function that it names.

    Raises:
        PluginError: the user's file raised when it was run.
    """
    name = cell.workload.loss
    if not is_user_function(name):
        return name
    from harness.workloads.losses import OwnLoss

    return OwnLoss(name, _callable(find_user_function("workload.loss", name, Path(cell.folder))))


def _callable(own: UserFunction) -> Callable[..., Any]:
    found = user_object(own)
    if not callable(found):
        raise own.refused(f"is of type {type(found).__name__}, which cannot be called; name a function")
    return found


def find_optimizer(cell: Cell) -> Named | OwnOptimizer:
    """Return a cell's optimizer: its name with options, or the function that it names.

    Raises:
        PluginError: the user's file raised when it was run.
    """
    named = cell.workload.optimizer
    if not is_user_function(named.name):
        return named
    from harness.engines.shared.optimizers import OwnOptimizer

    own = find_user_function("workload.optimizer", named.name, Path(cell.folder))
    return OwnOptimizer(named.name, lambda module: _made(own, module, cell.learning_rate))


def _made(own: UserFunction, module: nn.Module, rate: float) -> Any:
    function = _callable(own)
    form, rates = what_it_takes(function)
    given: Any = module
    if form == "parameters":
        given = module.parameters()
    elif form == "named_parameters":
        given = list(module.named_parameters())
    with own_errors(own):
        return function(given, **dict.fromkeys(rates, rate))


def what_it_takes(function: Callable[..., Any]) -> tuple[Literal["model", "parameters", "named_parameters"], list[str]]:
    """Return what a function that makes an optimizer takes, by what its parameters are called.

    Returns:
        The model or its parameters, and the names of those that the learning rate is given to.
    """
    names = list(inspect.signature(function).parameters)
    rates = [name for name in names[1:] if name in ("lr", "learning_rate")]
    if names[:1] in (["params"], ["parameters"]):
        return "parameters", rates
    return "named_parameters" if names[:1] == ["named_parameters"] else "model", rates


def find_metric(cell: Cell, judged: Judged) -> Metric:
    """Return what a cell's evaluations measure: a built-in metric, or the user's function.

    Raises:
        PluginError: the user's file raised when it was run.
    """
    from harness.workloads.losses import Metric

    name = cell.workload.metric
    if not is_user_function(name):
        return Metric(judged, asked=bool(name))
    own = find_user_function("workload.metric", name, Path(cell.folder))
    function = _callable(own)

    def measure(outputs: torch.Tensor, targets: torch.Tensor) -> Any:
        with own_errors(own):
            return function(outputs, targets)

    return Metric(judged, measure, asked=True)


def find_lr_factor(cell: Cell) -> Factor | None:
    """Return the function that a cell's schedule names, checked at every call; None for the built-in ones.

    Raises:
        PluginError: the user's file raised when it was run.
    """
    name = cell.workload.lr_schedule.name
    if not is_user_function(name):
        return None
    own = find_user_function("workload.lr_schedule", name, Path(cell.folder))
    function = _callable(own)

    def factor(step: int) -> float:
        with own_errors(own):
            value = function(step)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise PluginError(
                f"workload.lr_schedule = {name}: returned {value!r} for step {step}; return a number of at least 0, "
                "which the learning rate is multiplied by"
            )
        return float(value)

    return factor
