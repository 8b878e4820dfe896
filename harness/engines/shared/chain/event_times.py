"""How long each event of a chain takes forward and backward: what balances stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from harness.costs.tracing import num_parameters, undisturbed
from harness.engines.shared.chain.events import Args, Forward, Intercepted, Kwargs
from harness.engines.shared.layer_timing import LayerCost, least_cost, now_s
from harness.workloads.batches import Inputs, call, outputs_of


def measure_events(
    model: nn.Module,
    names: Sequence[str],
    inputs: Inputs,
    loss: Callable[[torch.Tensor], torch.Tensor],
    repeats: int = 3,
) -> list[LayerCost]:
    """Time every call of a block, in order; parameters count at a block's first call, and no state is changed."""
    with undisturbed(model):
        runs = [_one_pass(model, names, inputs, loss) for _ in range(repeats + 1)][1:]
    for parameter in model.parameters():
        parameter.grad = None
    return [least_cost(costs) for costs in zip(*runs, strict=True)]


def _one_pass(
    model: nn.Module, names: Sequence[str], inputs: Inputs, loss: Callable[[torch.Tensor], torch.Tensor]
) -> list[LayerCost]:
    device = next((t.device for t in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    called: list[tuple[str, float, int]] = []
    entered: list[tuple[float, int]] = []

    def timed(name: str, forward: Forward, args: Args, kwargs: Kwargs) -> object:
        number, start = len(called), now_s(device)
        output = forward(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(output) if isinstance(leaf, torch.Tensor)]
        called.append((name, now_s(device) - start, sum(t.numel() * t.element_size() for t in tensors)))
        for tensor in tensors:
            if tensor.requires_grad:
                tensor.register_hook(lambda _: entered.append((now_s(device), number)))
        return output

    with Intercepted(model, names, timed):
        value = loss(outputs_of(call(model, inputs)))
    value.backward()
    entered.append((now_s(device), -1))
    backward = [0.0] * len(called)
    # From the gradient of an event's output to the next event's: what lies between is its backward pass.
    for (start, number), (end, _) in pairwise(entered):
        backward[number] += end - start
    counted: set[str] = set()
    costs = []
    for (name, forward_s, size), backward_s in zip(called, backward, strict=True):
        parameters = 0 if name in counted else num_parameters(model.get_submodule(name))
        counted.add(name)
        costs.append(LayerCost(name, forward_s, backward_s, size, parameters))
    return costs
