"""The model as a sequence of layers: what each costs, what it keeps, and where a pipeline cuts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from harness.api.strategy import Layout
from harness.core.errors import Impossible
from harness.costs.memory import Placement, StageMemory, balance_under, named_sizes
from harness.costs.tracing import NamedModules, is_chain, named_blocks, undisturbed
from harness.engines.shared.pieces import Piece
from harness.engines.shared.replica import Replica
from harness.workloads.accelerator import wait_for
from harness.workloads.batches import Inputs


@dataclass(frozen=True)
class LayerCost:
    """One layer at one micro-batch.

    Attributes:
        forward_s, backward_s: seconds, the least of several repeats.
        output_bytes: what it hands to the next layer.
    """

    name: str
    forward_s: float
    backward_s: float
    output_bytes: int
    num_parameters: int


def layer_names(module: nn.Module) -> list[str]:
    """Return the names of the layers a pipeline may cut between.

    Raises:
        Impossible: the model is not an `nn.Sequential`.
    """
    if not isinstance(module, nn.Sequential):
        raise Impossible(
            f"a pipeline cuts an nn.Sequential between its layers; this model is a {type(module).__name__}"
        )
    return [name for name, _ in module.named_children()]


def blocks_of(replica: Replica) -> NamedModules:
    """Return the blocks of a replica's model by name, found on two samples of its data."""
    inputs, _ = replica.data.train.block(0, min(2, len(replica.data.train)))
    with replica.autocast():
        return named_blocks(replica.module, inputs)


def is_plain(module: nn.Module, inputs: Inputs) -> bool:
    """Whether a module is a list of layers that can be cut by cutting the list.

    Each is called once and hands a single tensor to the next, no two share a parameter, and none changes what it is
    given. Anything else is cut as a chain of calls.
    """
    if not is_chain(module) or isinstance(inputs, dict):
        return False
    held = [id(p) for layer in module.children() for p in layer.parameters()]
    if len(held) != len(set(held)):
        return False
    values: Any = inputs
    with torch.no_grad(), undisturbed(module):
        for number, layer in enumerate(module.children()):
            version = values._version
            given, values = values, layer(values)
            if not isinstance(values, torch.Tensor) or (number > 0 and given._version != version):
                return False
    return True


def measure_layers(replica: Replica, piece: Piece, repeats: int = 3) -> list[LayerCost]:
    """Time every layer forward and backward, one after another; the replica's state is left as it was."""
    layer_names(replica.module)
    buffers = replica.buffer_vector()
    inputs, targets, weight = replica.gather(piece)
    costs = [_measure_once(replica, inputs, targets, weight) for _ in range(repeats + 1)][1:]
    replica.take_gradients()
    with torch.no_grad():
        replica.set_buffers(buffers)
    return [least_cost(runs) for runs in zip(*costs, strict=True)]


def _measure_once(
    replica: Replica, inputs: torch.Tensor, targets: torch.Tensor, weight: float | torch.Tensor
) -> list[LayerCost]:
    forward: list[float] = []
    tape: list[tuple[Any, Any]] = []
    for _, layer in replica.module.named_children():
        entry = inputs.detach().requires_grad_(bool(tape))
        start = now_s(replica.device)
        with replica.autocast():
            inputs = layer(entry)
        forward.append(now_s(replica.device) - start)
        tape.append((entry, inputs))
    outputs = inputs.detach().requires_grad_()
    with replica.autocast():
        replica.loss(outputs, targets, weight).backward()
    gradient, backward = outputs.grad, []
    for entry, output in reversed(tape):
        start = now_s(replica.device)
        if output.requires_grad:
            output.backward(gradient)
        backward.append(now_s(replica.device) - start)
        gradient = entry.grad
    rows = zip(replica.module.named_children(), forward, reversed(backward), tape, strict=True)
    return [
        LayerCost(n, f, b, o.numel() * o.element_size(), sum(p.numel() for p in layer.parameters()))
        for (n, layer), f, b, (_, o) in rows
    ]


def now_s(device: torch.device) -> float:
    """Return this process's clock once the device has done what it was given."""
    wait_for(device)
    return time.perf_counter()


def least_cost(runs: Sequence[LayerCost]) -> LayerCost:
    """Return what one layer takes where nothing disturbs it: the least of several repeats."""
    first = runs[0]
    forward, backward = min(r.forward_s for r in runs), min(r.backward_s for r in runs)
    return LayerCost(first.name, forward, backward, first.output_bytes, first.num_parameters)


def place(layout: Layout, costs: Sequence[LayerCost], memory: StageMemory | None = None) -> Placement:
    """Cut the layers into the layout's stages, as the user named them or so that the heaviest stage is lightest.

    Args:
        memory: what stages need and devices have, where that has an end; named stages are taken as they are.

    Raises:
        Impossible: more stages than layers, named stages that do not follow the layers' order, or no cut
            that fits into memory.
    """
    names = [cost.name for cost in costs]
    if not isinstance(layout.placement, str):
        return parted(names, named_sizes(layout.placement, names, layout.stages))
    if layout.stages > len(names):
        raise Impossible(f"{layout.stages} stages need as many layers; the model has {len(names)}: {', '.join(names)}")
    by_time = layout.placement == "time"
    weights = [c.forward_s + c.backward_s if by_time else float(c.num_parameters) for c in costs]
    sizes = balance_under(weights, layout.stages, memory)
    return parted(names, sizes)


def parted(names: Sequence[str], sizes: Sequence[int]) -> Placement:
    """Return the names of each stage, of so many each."""
    ends = list(accumulate(sizes))
    return tuple(tuple(names[end - size : end]) for size, end in zip(sizes, ends, strict=True))


def describe_stages(module: nn.Module, placement: Placement) -> str:
    """Return what each stage holds, in words: layers, parameters, tensors."""
    stages = []
    for number, names in enumerate(placement):
        held = {id(p): p.numel() for name in names for p in module.get_submodule(name).parameters()}
        size = f"{sum(held.values()):,} parameters in {len(held)} tensors"
        stages.append(f"stage {number}: {', '.join(names)} ({size})")
    return "; ".join(stages)
