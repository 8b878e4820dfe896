"""A stand-in for CUDA graphs on the CPU: what torch is given to do is recorded, and done again on the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_WAITING = {"_local_scalar_dense", "nonzero", "_unique2"}
"""Operations whose result the host waits for: a stream that is captured refuses them."""


class _Recorder(TorchDispatchMode):
    """Keeps each operation below autograd, with the tensors that it read and wrote."""

    def __init__(self, calls: list[Any]) -> None:
        super().__init__()
        self.calls = calls

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in _WAITING:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, written))
        return written


class CUDAGraph:
    """Operations that are done again, each into the tensors that it wrote to first."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def replay(self) -> None:
        with torch.no_grad():
            for func, args, kwargs, written in self.calls:
                for old, new in zip(tree_leaves(written), tree_leaves(func(*args, **kwargs)), strict=True):
                    if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                        old.copy_(new)


class Stream:
    """The only one there is."""

    def wait_stream(self, other: Stream) -> None:
        assert isinstance(other, Stream)


def current_stream() -> Stream:
    return Stream()


def stream(_: Stream) -> nullcontext[None]:
    return nullcontext()


@contextmanager
def graph(recorded: CUDAGraph, stream: Stream) -> Iterator[None]:
    with _Recorder(recorded.calls):
        yield
