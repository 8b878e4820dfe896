"""Activations that are dropped after the forward pass and computed again in the backward pass, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.engines.shared.replica import draws


def recompute_blocks(blocks: Iterable[nn.Module], drawing: bool = False) -> None:
    """Make every block keep its input only; parameters and their names stay as they are.

    Args:
        drawing: the model draws random numbers, and not only where its layers show it.

    Source: Chen, Xu, Zhang and Guestrin 2016, "Training Deep Nets with Sublinear Memory Cost", section 4.
    """
    for layer in blocks:
        again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=drawing or draws(layer))
        layer.forward = partial(again, context_fn=partial(_contexts, layer))  # type: ignore[method-assign]


def _contexts(layer: nn.Module) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _BuffersKept(layer)


class _BuffersKept(AbstractContextManager[None]):
    """Undoes what another forward pass does to running statistics: one device updates them once a step.

    Entered more than once where a backward pass comes in two halves. Through `.data`, because autograd would take a
    change of a tensor that it keeps for an error.
    """

    def __init__(self, layer: nn.Module) -> None:
        self._buffers = list(layer.buffers())
        self._before: list[torch.Tensor] = []

    def __enter__(self) -> None:
        self._before = [buffer.detach().clone() for buffer in self._buffers]

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers, self._before, strict=True):
                buffer.data.copy_(value)
