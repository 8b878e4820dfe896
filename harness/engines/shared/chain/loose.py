"""Which parameters a model uses outside of its blocks: its own, and weights that are looked up without a call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

from harness.costs.tracing.blocks import undisturbed
from harness.engines.shared.chain.events import Intercepted
from harness.engines.shared.chain.needs import differentiable
from harness.engines.shared.chain.try_on import LossOf
from harness.workloads.batches import Inputs, call, outputs_of


def used_without_call(model: nn.Module, names: Sequence[str], inputs: Inputs, loss: LossOf) -> set[nn.Parameter]:
    """Return the parameters that get a gradient although no gradient passes through any block."""

    def cut_off(_: str, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        with torch.no_grad():
            output = forward(*args, **kwargs)
        return tree_map(_leaf, output)

    with undisturbed(model), torch.enable_grad(), Intercepted(model, names, cut_off):
        value = loss(outputs_of(call(model, inputs)))
        if value.requires_grad:
            value.backward()  # type: ignore[no-untyped-call]
    found = {p for p in model.parameters() if p.grad is not None}
    for parameter in model.parameters():
        parameter.grad = None
    return found


def _leaf(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or not differentiable(value):
        return value
    # A copy of a leaf, since the model may change what a block returned.
    return value.detach().requires_grad_().clone()
