"""DRAM that a step needs, counted tensor by tensor; the same on every engine and on CPU, where RSS says nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from harness.strategy import Table
from harness.training.layers import Placement
from harness.training.replica import Piece, Replica


def tensor_bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of all these tensors."""
    return sum(t.numel() * t.element_size() for t in tensors)


def saved_activation_bytes(replica: Replica, piece: Piece) -> list[int]:
    """Run one forward pass and count, layer by layer, what autograd keeps for the backward pass.

    Parameters and the input batch are left out; a storage that two layers keep counts at the first. The loss counts
    with the last layer. A model that is not an `nn.Sequential` counts as one layer.

    Source: torch.autograd.graph.saved_tensors_hooks.
    """
    inputs, targets, weight = replica.gather(piece)
    known = {t.untyped_storage().data_ptr() for t in (*replica.parameters, *replica.buffers, inputs, targets)}
    kept: list[Any] = []  # keeps storages alive, so that an address names one storage only
    saved: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            known.add(storage.data_ptr())
            kept.append(storage)
            saved[-1] += storage.nbytes()
        return tensor

    buffers = replica.buffer_vector()
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), replica.autocast():
        for layer in _layers(replica.module):
            saved.append(0)
            inputs = layer(inputs)
        replica.loss(inputs, targets, weight)
    with torch.no_grad():
        replica.set_buffers(buffers)
    return saved


def _layers(module: nn.Module) -> list[nn.Module]:
    return list(module.children()) if isinstance(module, nn.Sequential) else [module]


def count_dram(
    replica: Replica, piece: Piece, optimizer: dict[str, Any], placement: Placement | None = None, table: Table = ()
) -> dict[str, int]:
    """Return bytes by kind on the device that holds most.

    Args:
        piece: what passes forward at once.
        placement: layers of each pipeline stage; None where one device holds them all.
        table: the pipeline's actions, which say how many micro-batches each stage keeps at once.
    """
    activations = saved_activation_bytes(replica, piece)
    children = dict(replica.module.named_children())
    if placement is None:
        return _count(replica.module, sum(activations), optimizer)
    names = list(children)
    stages = []
    for stage, actions in zip(placement, table, strict=True):
        module = nn.ModuleList(children[name] for name in stage)
        held = most_kept(actions) * sum(activations[names.index(name)] for name in stage)
        stages.append(_count(module, held, optimizer))
    return max(stages, key=lambda counted: sum(counted.values()))


def _count(module: nn.Module, activations: int, optimizer: dict[str, Any]) -> dict[str, int]:
    parameters = tensor_bytes(module.parameters())
    return {
        "parameters": parameters,
        "gradients": parameters,
        "optimizer": parameters * optimizer_copies(optimizer),
        "activations": activations,
        "buffers": tensor_bytes(module.buffers()),
    }


def optimizer_copies(optimizer: dict[str, Any]) -> int:
    """Return how many numbers the optimizer keeps for each parameter: one for momentum, two for Adam's moments."""
    if optimizer["name"] == "sgd":
        return 1 if optimizer.get("options", {}).get("momentum") else 0
    return 2


def most_kept(actions: Sequence[Any]) -> int:
    """Return the largest number of micro-batches that have passed a stage forward but not yet back."""
    most = held = 0
    for action in actions:
        held += 1 if action.kind == "forward" else -1
        most = max(most, held)
    return most
