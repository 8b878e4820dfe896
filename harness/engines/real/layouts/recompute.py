"""Activations that are dropped after the forward pass and computed again in the backward pass, layer by layer."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from harness.engines.shared.replica import draws


def recompute_blocks(blocks: Iterable[nn.Module], generators: Collection[str] = ()) -> None:
    """Make every block keep its input only; parameters and their names stay as they are.

    Args:
        generators: that the model draws random numbers from, as a replica has them: what is computed again draws the
            same ones again.

    Source: Chen, Xu, Zhang and Guestrin 2016, "Training Deep Nets with Sublinear Memory Cost", section 4.
    """
    others = bool({"numpy", "random"} & set(generators))
    for layer in blocks:
        torchs = bool(generators) or draws(layer)
        again = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=torchs)
        layer.forward = partial(again, context_fn=partial(_contexts, layer, others))  # type: ignore[method-assign]


def _contexts(layer: nn.Module, others: bool) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), _AsBefore(layer, others)


class _AsBefore(AbstractContextManager[None]):
    """Lets another forward pass draw what the first one drew, and undoes what it does to running statistics.

    One device updates those once a step. Made when the first pass begins; entered more than once where a backward pass
    comes in two halves. Through `.data`, because autograd would take a change of a tensor that it keeps for an error.

    Args:
        others: whether numpy's and Python's generators are drawn from; torch's are its own checkpoint's matter.
    """

    def __init__(self, layer: nn.Module, others: bool) -> None:
        self._buffers = list(layer.buffers())
        self._before: list[torch.Tensor] = []
        self._first = (np.random.get_state(), random.getstate()) if others else None
        self._now = self._first

    def __enter__(self) -> None:
        self._before = [buffer.detach().clone() for buffer in self._buffers]
        if self._first is not None:
            self._now = np.random.get_state(), random.getstate()
            _put_back(self._first)

    def __exit__(self, *_: object) -> None:
        with torch.no_grad():
            for buffer, value in zip(self._buffers, self._before, strict=True):
                buffer.data.copy_(value)
        if self._now is not None:
            _put_back(self._now)


_States = tuple[dict[str, object] | tuple[object, ...], tuple[object, ...]]


def _put_back(states: _States) -> None:
    np.random.set_state(states[0])  # type: ignore[arg-type]
    random.setstate(states[1])
