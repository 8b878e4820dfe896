"""Losses, weighted so that parts of a batch add up to the mean over the whole of it, and evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.core.errors import InputError, PluginError, one_of
from harness.core.metrics import ABSOLUTE_ERROR, PERPLEXITY, SQUARED_ERROR, Judged
from harness.workloads.batches import Inputs, Samples, call, outputs_of
from harness.workloads.entries import IGNORED, LOSSES

WeightedLoss = Callable[[torch.Tensor, torch.Tensor, float | torch.Tensor], torch.Tensor]
Reduced = Callable[[torch.Tensor, torch.Tensor, str], torch.Tensor]


class Reduces(StrEnum):
    """What a loss of the user's own returns for a batch.

    Attributes:
        EACH_SAMPLE: one number for each sample.
        EACH_TARGET: one number for each target of each sample, 0 for those that do not count.
        MEAN_OF_SAMPLES: the mean over the samples.
        MEAN_OF_TARGETS: the mean over the targets that count.
        WHOLE: one number that is no mean of its parts': a batch cannot be shared out.
    """

    EACH_SAMPLE = "one number for each sample"
    EACH_TARGET = "one number for each target"
    MEAN_OF_SAMPLES = "the mean over samples"
    MEAN_OF_TARGETS = "the mean over targets"
    WHOLE = "one number that is no mean over samples"

    @property
    def by_targets(self) -> bool:
        """Whether parts of a batch are weighed by how many of their targets count."""
        return self in (Reduces.EACH_TARGET, Reduces.MEAN_OF_TARGETS)


@dataclass(frozen=True)
class OwnLoss:
    """A loss that is a function of the user's own: of (outputs, targets).

    Attributes:
        name: what the scenario says.
        reduces: as the trial step found it.
    """

    name: str
    function: Callable[[torch.Tensor, torch.Tensor], Any]
    reduces: Reduces = Reduces.MEAN_OF_SAMPLES

    def __call__(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return what the function returns.

        Raises:
            PluginError: it is no tensor.
        """
        value = self.function(outputs, targets)
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            return value.reshape(()) if value.numel() == 1 else value
        got = f"a tensor of {value.dtype}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise PluginError(
            f"workload.loss = {self.name}: returned {got}; return a tensor with a fraction: the mean over the samples, "
            "or one number for each of them"
        )


def _widen(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs in at least fp32: bf16 keeps 8 bits, too few for a sum of exponentials."""
    return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs


def _one_hot(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(outputs).scatter_(1, targets.unsqueeze(1), 1.0)


def _class_axis(outputs: torch.Tensor, targets: torch.Tensor) -> int:
    """Return along which axis classes lie: tokens have them last, pixels second, as (n, classes, height, width).

    Raises:
        ValueError: outputs and targets do not belong together.
    """
    last = outputs.shape[:-1] == targets.shape
    second = outputs.dim() == targets.dim() + 1 and (outputs.shape[0], *outputs.shape[2:]) == tuple(targets.shape)
    if second and (targets.dim() > 2 or not last):
        return 1
    if last:
        return -1
    raise ValueError(
        f"the model's outputs are {tuple(outputs.shape)}, the targets {tuple(targets.shape)}; expected one number for "
        "each class along the last axis, or along the second one"
    )


def _classes_last(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return outputs as (n, ..., classes).

    Raises:
        ValueError: outputs and targets do not belong together.
    """
    return outputs.movedim(_class_axis(outputs, targets), -1)


def _as_targets(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return outputs in the shape of the targets; torch would spread (n, 1) against (n,) to (n, n) without a word.

    Raises:
        ValueError: they hold different numbers of values.
    """
    if outputs.shape != targets.shape and outputs.numel() != targets.numel():
        raise ValueError(
            f"the model's outputs are {tuple(outputs.shape)}, the targets {tuple(targets.shape)}; both must hold the "
            "same number of values"
        )
    return outputs.reshape(targets.shape)


def _over_targets(function: Reduced) -> Reduced:
    """Let a sample have several targets: its loss is the mean over them, or their sum where `ragged`."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor, reduction: str, ragged: bool = False) -> torch.Tensor:
        if targets.dim() == 1:
            return function(outputs, targets, reduction)
        reduced = function(*_flat(outputs, targets), reduction)
        if reduction == "mean":
            return reduced  # all samples have equally many targets
        if reduction == "none":
            each = reduced.view(len(targets), -1)
            return each.sum(dim=1) if ragged else each.mean(dim=1)
        return reduced if ragged else reduced / targets[0].numel()

    return loss


def _flat(outputs: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return outputs and targets with one row for each target."""
    if targets.is_floating_point():
        return _as_targets(outputs, targets).flatten(), targets.flatten()
    outputs = _classes_last(outputs, targets)
    return outputs.flatten(0, -2), targets.flatten()


def _cross_entropy(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    return functional.cross_entropy(_widen(outputs), targets, reduction=reduction)


def _squared_error(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the squared distance to the target; to the one-hot one of a class: the mean over classes."""
    outputs = _widen(outputs)
    if targets.is_floating_point():
        # In the outputs' own type: torch has no backward pass for a difference of two types.
        return functional.mse_loss(_as_targets(outputs, targets), targets.to(outputs.dtype), reduction=reduction)
    errors = functional.mse_loss(outputs, _one_hot(outputs, targets), reduction=reduction)
    if reduction == "mean":
        return errors  # torch's mean is over samples and classes already
    return errors.mean(dim=1) if reduction == "none" else errors / outputs.shape[1]


def _binary_cross_entropy(outputs: torch.Tensor, targets: torch.Tensor, reduction: str) -> torch.Tensor:
    """Return the cross-entropy of yes or no, from logits; targets are 0, 1, or between."""
    wide = _widen(_as_targets(outputs, targets))
    return functional.binary_cross_entropy_with_logits(wide, targets.to(wide.dtype), reduction=reduction)


_FUNCTIONS = dict(zip(LOSSES, map(_over_targets, (_cross_entropy, _squared_error, _binary_cross_entropy)), strict=True))


def _function(name: str | OwnLoss) -> Callable[..., torch.Tensor]:
    if isinstance(name, OwnLoss):
        return _summable(name)
    if name not in _FUNCTIONS:
        raise InputError([f'workload.loss = "{name}": {one_of(name, LOSSES)}'])
    return _FUNCTIONS[name]


def weighted_loss(name: str | OwnLoss, ragged: bool = False) -> WeightedLoss:
    """Return a function of outputs, targets and a weight that gives the weighted sum of the samples' losses.

    A float is one weight for all: 1/n gives the mean of a batch of n, 1/(whole batch) this part's share of the mean
    over the whole. A tensor (n,) weighs each sample; padding weighs 0.

    Args:
        ragged: samples differ in how many of their targets count; weights are then those of one target.

    Raises:
        InputError: there is no loss of that name.
    """
    if isinstance(name, OwnLoss) and name.reduces not in (Reduces.EACH_SAMPLE, Reduces.EACH_TARGET):
        return _weighted_mean(name, ragged)
    function = _function(name)

    def loss(outputs: torch.Tensor, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        if isinstance(weight, torch.Tensor):
            return (function(outputs, targets, "none", ragged) * weight).sum()
        if weight * len(outputs) == 1.0 and not ragged:
            # The commonest case. Forward and backward for (32, 10): 37 us, with sum and product 50 us (one CPU core,
            # torch 2.13, best of 30).
            return function(outputs, targets, "mean")
        return function(outputs, targets, "sum", ragged) * weight

    return loss


def _weighted_mean(own: OwnLoss, ragged: bool) -> WeightedLoss:
    """Weigh a function that gives means: rows of one weight at a time, those of weight 0 left out."""
    by_targets = ragged and own.reduces.by_targets

    def share(outputs: torch.Tensor, targets: torch.Tensor, weight: float) -> torch.Tensor:
        counted = int((targets != IGNORED).sum()) if by_targets else len(targets)
        # A mean over nothing is not a number; this keeps the graph.
        return own(outputs, targets) * (weight * counted) if counted else outputs.sum() * 0.0

    def loss(outputs: torch.Tensor, targets: torch.Tensor, weight: float | torch.Tensor) -> torch.Tensor:
        if not isinstance(weight, torch.Tensor):
            return share(outputs, targets, weight)
        total = outputs.sum() * 0.0
        for each in weight.unique().tolist():
            if each:
                rows = weight == each
                total = total + share(outputs[rows], targets[rows], each)
        return total

    return loss


def _summable(own: OwnLoss) -> Callable[..., torch.Tensor]:
    """Return a function of the user's own in the form of the built-in ones: with a reduction of ours."""

    def loss(outputs: torch.Tensor, targets: torch.Tensor, reduction: str, ragged: bool = False) -> torch.Tensor:
        if own.reduces is Reduces.EACH_TARGET:
            each = own(outputs, targets).reshape(len(targets), -1)
            each = each.sum(dim=1) if ragged else each.mean(dim=1)
        elif own.reduces is Reduces.EACH_SAMPLE:
            each = own(outputs, targets).reshape(len(targets))
        else:
            counted = int((targets != IGNORED).sum()) if ragged and own.reduces.by_targets else len(targets)
            total = own(outputs, targets) * counted if counted else outputs.sum() * 0.0
            return total / len(targets) if reduction == "mean" else total
        return {"mean": each.mean, "sum": each.sum, "none": lambda: each}[reduction]()

    return loss


def how_it_reduces(own: OwnLoss, outputs: torch.Tensor, targets: torch.Tensor, counts: Any = None) -> Reduces:
    """Find out what a loss of the user's own returns, from outputs for a few samples.

    Args:
        outputs, targets: of a few samples, whose targets differ.
        counts: how many targets of each sample count, where samples differ in that.

    Raises:
        PluginError: it returns something of another shape.
    """
    if counts is not None:  # a mean over nothing is no number
        kept = torch.as_tensor(counts > 0, device=outputs.device)
        outputs, targets, counts = outputs[kept], targets[kept], counts[counts > 0]
    with torch.no_grad():
        value = own(outputs, targets)
        if value.dim() and value.numel() > 1:
            return _shaped(own, value, targets)
        apart = [own(outputs[k : k + 1], targets[k : k + 1]).double().reshape(()) for k in range(len(targets))]
    whole, parts = value.double().reshape(()), torch.stack(apart)
    near = (1e-9 if outputs.dtype == torch.float64 else 1e-4) * float(parts.abs().max().clamp(min=1e-12))
    if abs(float(whole - parts.mean())) <= near:
        return Reduces.MEAN_OF_SAMPLES
    if counts is not None:
        weights = torch.as_tensor(counts, dtype=torch.float64, device=parts.device)
        if abs(float(whole - (parts * weights).sum() / weights.sum())) <= near:
            return Reduces.MEAN_OF_TARGETS
    return Reduces.WHOLE


def _shaped(own: OwnLoss, value: torch.Tensor, targets: torch.Tensor) -> Reduces:
    if value.shape == targets.shape and targets.dim() > 1:
        return Reduces.EACH_TARGET
    if value.shape[0] == len(targets) and value.numel() == len(targets):
        return Reduces.EACH_SAMPLE
    if value.numel() == targets.numel():
        return Reduces.EACH_TARGET  # flat, all targets of a sample behind each other
    raise PluginError(
        f"workload.loss = {own.name}: returned a tensor of shape {tuple(value.shape)} for targets of shape "
        f"{tuple(targets.shape)}; return the mean over the samples, one number for each of them, or one for each target"
    )


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


def mean_prediction(outputs: Sequence[torch.Tensor], targets: torch.Tensor, loss: str | OwnLoss) -> torch.Tensor:
    """Return outputs that predict what several predict on average, in their own form.

    Probabilities are averaged where outputs are logits of them: of classes under cross-entropy, of yes under binary
    cross-entropy. Other outputs are averaged themselves.

    Args:
        outputs: of each model, all of one shape.
        targets: that they are for, which say along which axis classes lie.

    Source: Lakshminarayanan, Pritzel and Blundell 2017, "Simple and Scalable Predictive Uncertainty Estimation using
    Deep Ensembles", section 2.4.
    """
    stacked = torch.stack([_widen(each) for each in outputs])
    if loss == "cross-entropy":
        axis = _class_axis(outputs[0], targets)
        return functional.log_softmax(stacked, axis if axis < 0 else axis + 1).logsumexp(0)
    if loss == "bce-with-logits":
        return functional.logsigmoid(stacked).logsumexp(0) - functional.logsigmoid(-stacked).logsumexp(0)
    return stacked.mean(0)


def _predicted(
    module: nn.Module,
    inputs: Inputs,
    members: Sequence[Callable[[], None]],
    averaged: Callable[[Sequence[torch.Tensor]], torch.Tensor],
) -> torch.Tensor:
    """Return what a module answers, or what the members of an ensemble answer on average."""
    if not members:
        return outputs_of(call(module, inputs))
    answers = []
    for become in members:
        become()
        answers.append(outputs_of(call(module, inputs)))
    return averaged(answers)


def evaluate(
    module: nn.Module,
    samples: Samples,
    loss_name: str | OwnLoss,
    chunk: int = 1000,
    autocast: torch.dtype | None = None,
    metric: Metric | None = None,
    members: Sequence[Callable[[], None]] = (),
) -> tuple[float, float]:
    """Return (mean loss, metric) over all samples, in eval mode and without gradients.

    Args:
        module: left in the modes that it came in.
        samples: on the module's device.
        loss_name: one of LOSSES.
        chunk: labels that are judged at once; bounds memory, changes nothing else.
        autocast: dtype to compute in; None: the module's own.
        metric: what is measured; None: accuracy, 0..1, of labels: of tokens, where each has one.
        members: of an ensemble, whose predictions are averaged: each puts its weights into the module.

    Returns:
        Two floats; both nan where there are no samples. The metric is nan where targets and outputs have none.

    Raises:
        InputError: there is no loss of that name.
    """
    if not len(samples):
        return math.nan, math.nan
    function, several = _function(loss_name), samples.targets.dim() > 1
    several = several and not (isinstance(loss_name, OwnLoss) and not loss_name.reduces.by_targets)
    ragged = several and _has_ignored(samples.targets)
    measured = Measured(metric or Metric())
    losses = []
    size = max(1, chunk // samples.targets[0].numel())
    with _evaluating(module), _autocast(samples.device, autocast):
        for start in range(0, len(samples), size):
            inputs, targets = samples.block(start, start + size)
            outputs = _predicted(module, inputs, members, partial(mean_prediction, targets=targets, loss=loss_name))
            losses.append(function(outputs, targets, "sum", ragged) if several else function(outputs, targets, "sum"))
            measured.add(outputs, targets)
    # One copy off the device for each sum, not one for each chunk: every .item() waits for a GPU to run dry.
    total_loss = torch.stack(losses).cpu().double().sum().item()
    targets = samples.targets
    counted = max(1, int((targets != IGNORED).sum())) if _has_ignored(targets) else targets.numel()
    return total_loss / (counted if ragged else len(samples)), measured.result(counted)


def _has_ignored(targets: torch.Tensor) -> bool:
    return targets.dim() > 1 and not targets.is_floating_point() and bool((targets == IGNORED).any())


# -- metrics -----------------------------------------------------------------------------------------------------------


ACCURATE = Judged()


@dataclass(frozen=True)
class Metric:
    """What is measured beside the loss.

    Attributes:
        judged: its name and direction.
        function: of the user's own, of (outputs, targets) of a whole split; None for built-in ones.
        asked: whether the scenario names it; else outputs that it cannot be computed from are let pass.
    """

    judged: Judged = ACCURATE
    function: Callable[[torch.Tensor, torch.Tensor], Any] | None = None
    asked: bool = False


class Measured:
    """A metric while the samples pass."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._sums: list[torch.Tensor] = []
        self._kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self._of_chunk = _SUMS.get(metric.judged.name, _correct)

    def add(self, outputs: torch.Tensor, targets: torch.Tensor) -> None:
        """Take outputs and targets of a chunk.

        Raises:
            PluginError: the metric was asked for, and cannot be computed from them.
        """
        if self._metric.function is not None:
            self._kept.append((outputs.cpu(), targets.cpu()))
            return
        try:
            self._sums.append(self._of_chunk(outputs, targets))
        except ValueError as error:
            if self._metric.asked:
                raise PluginError(f"workload.metric = {self._metric.judged.name}: {error}") from error
            self._sums.append(torch.full((), torch.nan, device=outputs.device))

    def result(self, counted: int) -> float:
        """Return the metric of all that passed.

        Args:
            counted: targets that count.

        Raises:
            PluginError: a function of the user's own returned no number.
        """
        if self._metric.function is not None:
            return self._of_all(self._metric.function)
        mean = torch.stack([each.double() for each in self._sums]).sum().item() / counted
        # exp(700) is the largest that a float holds, nearly.
        return math.exp(min(mean, 700.0)) if self._metric.judged.name == PERPLEXITY else float(mean)

    def _of_all(self, function: Callable[[torch.Tensor, torch.Tensor], Any]) -> float:
        value = function(torch.cat([outputs for outputs, _ in self._kept]), torch.cat([t for _, t in self._kept]))
        if isinstance(value, torch.Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, int | float):
            got = type(value).__name__
            raise PluginError(f"workload.metric = {self._metric.judged.name}: returned {got}, expected a number")
        return float(value)


def _correct(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return how many labels are right, a 0-dim tensor.

    Raises:
        ValueError: outputs and targets do not belong together, or targets are no classes.
    """
    if outputs.shape == targets.shape or outputs.shape == (*targets.shape, 1):  # one logit for yes or no
        sure = targets > 0.5 if targets.is_floating_point() else targets.bool()
        return ((outputs.reshape(targets.shape) > 0) == sure).sum()
    if targets.is_floating_point():
        raise ValueError("accuracy needs classes, and the targets are numbers")
    if targets.dim() > 1:
        outputs = _classes_last(outputs, targets)
    if outputs.shape[:-1] != targets.shape:
        raise ValueError(f"outputs are {tuple(outputs.shape)}, the targets {tuple(targets.shape)}")
    return (outputs.argmax(dim=-1) == targets).sum()


def _entropy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    if targets.is_floating_point():
        raise ValueError("perplexity needs classes, and the targets are numbers")
    if targets.dim() == 1:
        return _cross_entropy(outputs, targets, "sum")
    return _cross_entropy(*_flat(outputs, targets), "sum")


def _errors(power: int) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    def errors(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        if not targets.is_floating_point():
            raise ValueError("an error needs targets that are numbers, and these are classes")
        away = (_widen(_as_targets(outputs, targets)) - targets).abs()
        return (away if power == 1 else away * away).sum()

    return errors


_SUMS = {PERPLEXITY: _entropy, SQUARED_ERROR: _errors(2), ABSOLUTE_ERROR: _errors(1)}
"""By metric, what is added up over targets; all others are accuracies."""
