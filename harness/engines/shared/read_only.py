"""Tensors that are lent to a strategy's program: reading is free, writing is refused with the program's line."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch

from harness.core.errors import PluginError
from harness.engines.shared.started_words import place_in_program

_WRITING = frozenset(
    f"__i{name}__"
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "and", "or", "xor", "lshift", "rshift")
) | {"__setitem__", "__set__", "requires_grad_", "resize_", "set_"}
"""Methods of a tensor that change it, beside those whose name ends in one underscore (torch's own rule for names)."""


class ReadOnly(torch.Tensor):
    """A tensor, and all views of it, that refuses to be written to.

    The same memory is a value's, which others hold too. What is computed from one is a plain tensor.
    """

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., object],
        types: object,
        args: Sequence[object] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        """Call torch's function unless it would write."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if _writes(name) and args and any(isinstance(each, cls) for each in _tensors(args[0])):
            _refuse(name)
        if any(isinstance(each, cls) for each in _tensors(kwargs.get("out"))):
            _refuse(f"{name}(out=...)")
        with torch._C.DisableTorchFunctionSubclass():
            lent = {each.untyped_storage().data_ptr() for each in _tensors([*args, *kwargs.values()])}
            answer = func(*args, **kwargs)
            if isinstance(answer, np.ndarray):
                answer.flags.writeable = False
                return answer
            return _kept_read_only(answer, lent)


def read_only(tensor: torch.Tensor) -> torch.Tensor:
    """Return the same numbers in the same memory, not to be written to."""
    return tensor.detach().as_subclass(ReadOnly)  # type: ignore[no-untyped-call]


def plain(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor of the program's own as it is, and a copy of one that was lent to it."""
    if not isinstance(tensor, ReadOnly):
        return tensor.detach()
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.detach().as_subclass(torch.Tensor).clone()


def writable_copy(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return a copy of its own, of the type and on the device of another tensor."""
    with torch._C.DisableTorchFunctionSubclass():
        return torch.empty_like(like).copy_(tensor.detach().as_subclass(torch.Tensor))


def _writes(name: str) -> bool:
    return name in _WRITING or (name.endswith("_") and not name.endswith("__"))


def _tensors(given: object) -> Iterator[torch.Tensor]:
    if isinstance(given, torch.Tensor):
        yield given
    elif isinstance(given, (list, tuple)):
        for each in given:
            yield from _tensors(each)


def _kept_read_only(answer: object, lent: set[int]) -> object:
    if isinstance(answer, torch.Tensor):
        shares = answer.numel() and answer.untyped_storage().data_ptr() in lent
        return answer.as_subclass(ReadOnly) if shares else answer  # type: ignore[no-untyped-call]
    if isinstance(answer, (list, tuple)) and type(answer) in (list, tuple):
        return type(answer)(_kept_read_only(each, lent) for each in answer)
    return answer


def _refuse(name: str) -> NoReturn:
    file, line = place_in_program()
    raise PluginError(
        f"{file}:{line}: {name} writes into a value, and values are immutable. Change a copy (tensor.clone()) and make "
        "a value of it: value.with_tensor(changed)"
    )
