"""Which parameters a model uses outside of its blocks: its own, and weights that are looked up without a call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from harness.costs.tracing import undisturbed
from harness.engines.shared.chain.events import Args, Forward, Intercepted, Kwargs
from harness.workloads.batches import Inputs, call


class _Noting(TorchDispatchMode):
    """Notes the parameters that operations are given, while it listens."""

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        super().__init__()
        self._by_id = {id(p): p for p in parameters}
        self.listens = True
        self.noted: set[nn.Parameter] = set()

    def __torch_dispatch__(self, func: Forward, types: object, args: Args = (), kwargs: Kwargs | None = None) -> object:
        if self.listens:
            given = map(id, tree_leaves((args, kwargs)))
            self.noted.update(self._by_id[key] for key in given if key in self._by_id)
        return func(*args, **(kwargs or {}))


def used_without_call(model: nn.Module, names: Sequence[str], inputs: Inputs) -> set[nn.Parameter]:
    """Return the parameters that one forward pass reads while none of the blocks is being called."""
    noting = _Noting(list(model.parameters()))

    def deaf(_: str, forward: Forward, args: Args, kwargs: Kwargs) -> object:
        noting.listens = False
        try:
            return forward(*args, **kwargs)
        finally:
            noting.listens = True

    with undisturbed(model), torch.no_grad(), Intercepted(model, names, deaf), noting:
        call(model, inputs)
    return noting.noted
