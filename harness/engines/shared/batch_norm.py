"""BatchNorm under strategies that share a batch out: whose statistics a layer uses, and whether they suffice.

Each replica normalises by the statistics of its own samples, as torch's do: that is not what one device computes.
`workload.sync_batchnorm` makes the statistics those of all replicas together.

Source: Ioffe and Szegedy 2015; torch.nn.SyncBatchNorm.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import nn

from harness.core.errors import Impossible
from harness.core.words import counted, listed

if TYPE_CHECKING:
    from harness.api.strategy import Layout
    from harness.core.budget import Budget
    from harness.core.cell import Cell
    from harness.engines.shared.shown import Trial

NEARBY = 8
"""Global batches above and below that are tried for one that leaves no single sample; chosen."""


# -- enough values -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shares:
    """How a cell's batches are shared out.

    Attributes:
        own: every worker passes over samples of its own.
        num_train: training samples.
    """

    cell: Cell
    layout: Layout
    own: bool
    num_train: int
    budget: Budget


def refuse_single_values(shares: Shares, trial: Trial) -> None:
    """Refuse a cell in which a BatchNorm layer will see one value only, whose deviation is not defined.

    Raises:
        Impossible: there is such a batch before the run ends, by the numbers of samples.
    """
    if not trial.norms_of_one:
        return
    size = shares.cell.global_batch_size
    step = _first_single(shares, size)
    if step is None:
        return
    last = shares.num_train % size
    layers = counted(len(trial.norms_of_one), "layer")
    raise Impossible(
        f"step {step} would give BatchNorm one sample alone, which it cannot normalise: "
        f"{_shared(shares, size, last)} ({layers}, such as {trial.norms_of_one[0]}). {_instead(shares, size)}"
    )


def _shared(shares: Shares, size: int, last: int) -> str:
    devices = shares.cell.workers * shares.layout.data
    left = f"{shares.num_train:,} training samples in batches of {size} leave a last batch of {last}" if last else ""
    cut = f"{last or size} samples over {devices} devices" if devices > 1 else ""
    micro = shares.cell.micro_batch_size
    pieces = f"micro-batches of {micro}" if micro < shares.cell.batch_size else ""
    return listed([part for part in (left, cut, pieces) if part]) or f"a batch of {size}"


def _instead(shares: Shares, size: int) -> str:
    for other in sorted(range(max(2, size - NEARBY), size + NEARBY + 1), key=lambda other: abs(other - size)):
        if other % (shares.cell.workers * shares.layout.data) == 0 and _first_single(shares, other) is None:
            return f"global_batch_size = {other} leaves none"
    return (
        "Choose another global_batch_size, fewer devices, or a layer that looks at one sample alone, such as GroupNorm"
    )


def _first_single(shares: Shares, size: int) -> int | None:
    """Return the first step, from 1, in which some device passes one sample alone; None where there is none."""
    return next((step for step, least in _least_pieces(shares, size) if least == 1), None)


def _least_pieces(shares: Shares, size: int) -> Iterator[tuple[int, int]]:
    """Yield the steps whose batches differ in size, each with the fewest samples that pass at once."""
    own = shares.own
    workers, total = shares.cell.workers, shares.num_train
    each = size // workers if own else size
    for length in {total // workers, -(-total // workers)} if own else {total}:
        whole, last = divmod(length, each)
        if whole:
            yield 1, _least(shares, each, own)
        if last and _reached(shares, whole + 1, workers * length if own else length):
            yield whole + 1, _least(shares, last, own)


def _reached(shares: Shares, step: int, samples: int) -> bool:
    budget = shares.budget
    by_updates = budget.max_updates is None or step <= budget.max_updates
    return by_updates and (budget.max_samples is None or budget.max_samples >= samples)


def _least(shares: Shares, batch: int, own: bool) -> int:
    """Return the fewest samples, above none, that pass at once of a batch that is shared out and cut."""
    workers, replicas = 1 if own else shares.cell.workers, shares.layout.data
    if shares.cell.workload.sync_batchnorm and replicas > 1:
        largest = -(-batch // replicas)
        return max(1, batch // -(-largest // shares.cell.micro_batch_size))
    parts = {batch // workers, -(-batch // workers)} - {0}
    each = {share for part in parts for share in (part // replicas, -(-part // replicas))} - {0}
    return min(share // -(-share // shares.cell.micro_batch_size) for share in each)


# -- statistics of all replicas ----------------------------------------------------------------------------------------


def synchronised(cell: Cell, layout: Layout, module: nn.Module, trial: Trial) -> nn.Module:
    """Return the module with BatchNorm layers whose statistics are those of all replicas, where that is asked for.

    Raises:
        Impossible: it is asked for, and the devices of this strategy compute apart from each other, or their draws
            cannot be simulated.
    """
    if not cell.workload.sync_batchnorm or not trial.norms:
        return module
    if cell.workers > 1:
        raise Impossible(
            f"workload.sync_batchnorm: the {cell.workers} workers of {cell.strategy} compute apart from "
            "each other, so that they cannot share statistics in a forward pass; sync-ddp and fsdp can"
        )
    if layout.data == 1:
        return module
    if layout.reduce is not None:
        raise Impossible(
            f"workload.sync_batchnorm: {cell.strategy} exchanges gradients by a program of its own, and replicas whose "
            "forward passes meet have none apart from each other in virtual time; sync-ddp and fsdp can"
        )
    if layout.devices > layout.data:
        raise Impossible(
            "workload.sync_batchnorm: replicas that are themselves cut over devices do not share statistics; use "
            "sync-ddp or fsdp"
        )
    others = [name for name in ("numpy", "random") if name in trial.generators]
    if cell.engine == "virtual" and others:
        raise Impossible(
            f"workload.sync_batchnorm: the model draws from {listed(others)}, and simulated replicas that share "
            "statistics pass together, so that their draws cannot be told apart. Draw from torch, or set "
            'engine = "real"'
        )
    if cell.engine == "real":
        for name in trial.norms:
            _replace(module, name, SharedBatchNorm.of(module.get_submodule(name)))
    return module


def _replace(module: nn.Module, name: str, by: nn.Module) -> None:
    owner, _, own = name.rpartition(".")
    setattr(module.get_submodule(owner), own, by)


class _Sum(torch.autograd.Function):
    """The sum over all processes; every process's loss depends on what this one adds to it."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    total: torch.Tensor = _Sum.apply(tensor)
    return total


class SharedBatchNorm(nn.modules.batchnorm._BatchNorm):
    """BatchNorm whose statistics in training are those of all processes; torch's own takes CUDA tensors only.

    Attributes:
        idle: this process's samples do not count; it takes part for the sake of the others.
    """

    idle = False

    @classmethod
    def of(cls, layer: Any) -> SharedBatchNorm:
        """Return one with the parameters and buffers of another layer, which it shares."""
        made = cls(layer.num_features, layer.eps, layer.momentum, affine=False)
        made.affine, made.track_running_stats, made.training = layer.affine, layer.track_running_stats, layer.training
        made.weight, made.bias = layer.weight, layer.bias
        for name, buffer in layer._buffers.items():
            made._buffers[name] = buffer
        return made

    def _check_input_dim(self, input: torch.Tensor) -> None:
        """Take any number of axes, as torch's SyncBatchNorm does."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Normalise (n, channels, ...)."""
        if not self.training and self.running_mean is not None:
            return super().forward(input)
        values = input.float() if input.dtype in (torch.bfloat16, torch.float16) else input
        axes = [axis for axis in range(values.dim()) if axis != 1]
        shape = [1, -1] + [1] * (values.dim() - 2)
        counts = 0.0 if self.idle else 1.0
        number = values.new_full((), counts * values.numel() / values.shape[1])
        dist.all_reduce(number)
        mean = _summed((values * counts).sum(axes)) / number
        centred = values - mean.view(shape)
        variance = _summed((centred * centred * counts).sum(axes)) / number
        if self.training:
            self._remember(mean.detach(), variance.detach(), number)
        normal = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.weight is not None:
            normal = normal * self.weight.view(shape) + self.bias.view(shape)
        return normal.to(input.dtype)

    def _remember(self, mean: torch.Tensor, variance: torch.Tensor, number: torch.Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            share = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), share)
            unbiased = variance * (number / (number - 1).clamp(min=1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), share)
