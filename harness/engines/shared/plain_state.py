"""What a module keeps outside its parameters and buffers: counters, switches, a hidden state carried on.

A model may count its own forward passes, or carry something from one batch to the next. Nobody but the run's own steps
may move that, and every worker has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

PlainState = dict[str, dict[str, object]]
"""By a submodule's name, its attributes that are plain values or tensors which are no parameters or buffers."""

_OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that torch keeps in every module, its mode among them."""


def plain_state(module: nn.Module) -> PlainState:
    """Return the attributes as they are now; tensors by reference, as a step replaces them."""
    found = {name: _kept(part) for name, part in module.named_modules()}
    return {name: kept for name, kept in found.items() if kept}


def put_back(module: nn.Module, state: Mapping[str, Mapping[str, object]]) -> None:
    """Give a module the attributes that `plain_state` returned; what came up since then is kept."""
    for name, part in module.named_modules():
        vars(part).update(state.get(name, {}))


def changed(before: PlainState, after: PlainState) -> tuple[str, ...]:
    """Return what a step changed, as "submodule.attribute"; a tensor that was not there before is a cache."""
    return tuple(
        f"{name}.{key}".lstrip(".")
        for name, kept in after.items()
        for key, value in kept.items()
        if key in before.get(name, {}) and _other(before[name][key], value)
    )


def _kept(part: nn.Module) -> dict[str, object]:
    return {key: value for key, value in vars(part).items() if key not in _OF_TORCH and _is_plain(value)}


def _is_plain(value: object) -> bool:
    return isinstance(value, (*_PLAIN, torch.Tensor)) or (
        isinstance(value, tuple) and all(isinstance(each, (*_PLAIN, torch.Tensor)) for each in value)
    )


def _other(old: Any, new: Any) -> bool:
    if old is None:
        return not _has_tensor(new) and new is not None
    if _has_tensor(old) or _has_tensor(new):
        return old is not new
    return type(old) is not type(new) or bool(old != new)


def _has_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor) or (
        isinstance(value, tuple) and any(isinstance(each, torch.Tensor) for each in value)
    )
