"""Parameters that are spread over devices, as one device sees them: plain tensors in the memory of its own parts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import prod
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, Replicate

from harness.engines.shared.flat import Flat
from harness.engines.shared.optimizers import OwnOptimizer
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup


class Parts(nn.Module):
    """This device's part of every parameter of a module that is trained.

    An optimizer that treats every scalar for itself (SGD, Adam) needs no more, and is spared DTensor's dispatch.
    """

    def __init__(self, module: nn.Module) -> None:
        """Share memory with the module, which is not registered here: its parameters are not these."""
        super().__init__()
        self.sources = [p for p in module.parameters() if p.requires_grad]
        for number, parameter in enumerate(self.sources):
            self.register_parameter(f"part{number}", nn.Parameter(local(parameter.detach())))

    def take_gradients(self) -> None:
        """Move gradients from the module's parameters to the parts."""
        for parameter, part in zip(self.sources, self.parameters(), strict=True):
            part.grad = None if parameter.grad is None else local(_like(parameter.grad, parameter))
            parameter.grad = None

    def norm_shares(self, copies: int) -> list[float]:
        """Return which share of each part's squared norm is this device's to add.

        Args:
            copies: devices that hold the same tensor where it is not spread; those of one that is are counted.
        """
        return [1 / _holders(parameter, copies) for parameter in self.sources]


def local(tensor: torch.Tensor) -> torch.Tensor:
    """Return this device's part; all of a tensor that is not spread."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor with all its parts, gathered from the devices that it is spread over, as one vector."""
    gathered = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return gathered.detach().reshape(-1)


def _like(gradient: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    if isinstance(gradient, DTensor) and isinstance(parameter, DTensor):
        return gradient.redistribute(placements=parameter.placements)
    return gradient


def _holders(parameter: torch.Tensor, copies: int) -> int:
    if not isinstance(parameter, DTensor):
        return copies
    sizes = zip(parameter.placements, parameter.device_mesh.shape, strict=True)
    return prod(size for placement, size in sizes if isinstance(placement, Replicate))


def parts_replica(
    setup: Setup,
    module: nn.Module,
    forward: object,
    like: Replica,
    names: Sequence[str] | None = None,
    parts: nn.Module | None = None,
) -> Replica:
    """Return a replica of this device's parts whose forward pass is the whole, spread module's.

    Args:
        like: the replica that the module was taken from: what its trial step showed holds for the parts too.
        names: what the module's trained parameters are called in the whole model; default: all of them, in its order.
        parts: whose parameters are this device's, one for each name; default: those of the spread module.
    """
    work = setup.cell.workload
    parts = Parts(module) if parts is None else parts
    optimizer: Any = work.optimizer
    if isinstance(setup.optimizer, OwnOptimizer):
        optimizer = partial(_optimizer_on, parts, like, list(like.names if names is None else names))
    spread = (setup.loss, optimizer, work.precision, work.clip_norm, like.optional, module)
    replica = Replica(parts, setup.data, *spread)
    replica.trial, replica.generators = like.trial, like.generators
    replica.forward = forward
    return replica


def _optimizer_on(parts: nn.Module, like: Replica, names: Sequence[str], _: nn.Module) -> torch.optim.Optimizer | None:
    """Return the whole model's optimizer for the parts, each in its parameter's group."""
    if like.optimizer is None:
        return None
    of_like = dict(zip(like.names, like.parameters, strict=True))
    pairs = zip(names, parts.parameters(), strict=True)
    return like.optimizer_on({id(of_like[name]): part for name, part in pairs})


def average_gradients(gradients: Sequence[torch.Tensor], group: object, bucket_bytes: int) -> list[torch.Tensor]:
    """Return the means over a group: sum, then divide, in buckets of about so many bytes (at least one tensor)."""
    ranks = dist.get_world_size(group)
    averaged: list[torch.Tensor] = []
    for bucket in buckets(gradients, bucket_bytes):
        flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
        dist.all_reduce(flat, group=group)
        flat /= ranks
        parts = flat.split([gradient.numel() for gradient in bucket])
        averaged += [part.view_as(gradient) for part, gradient in zip(parts, bucket, strict=True)]
    return averaged


def buckets(tensors: Sequence[torch.Tensor], bucket_bytes: int) -> list[list[torch.Tensor]]:
    """Group neighbouring tensors until the next one would exceed the bucket."""
    groups: list[list[torch.Tensor]] = []
    filled = 0
    for tensor in tensors:
        num_bytes = tensor.numel() * tensor.element_size()
        if not groups or filled + num_bytes > bucket_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(tensor)
        filled += num_bytes
    return groups


def same_buffers(replica: Replica, group: object, source: int) -> None:
    """Give every replica of a group the buffers of the first one before a step, as DDP does."""
    vector = replica.buffer_vector()
    if vector is not None:
        dist.broadcast(vector, src=source, group=group)
        with torch.no_grad():
            replica.set_buffers(vector)


def assembled(setup: Setup, parameters: Sequence[torch.Tensor], buffers: torch.Tensor | None) -> Replica:
    """Build the unsplit model anew with these weights: kept for evaluations only, it would crowd the device."""
    replica = setup.replica()
    replica.load(Flat([torch.cat([p.reshape(-1) for p in parameters])], buffers))
    return replica
