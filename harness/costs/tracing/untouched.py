"""Leave a model, random generators and types as they were, whatever a trace does to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import parameter as parameters


@contextmanager
def kept_module(module: nn.Module) -> Iterator[None]:
    """Put a module's tensors, their gradients and its modes back: it may be one that the user goes on with."""
    parts = [(part, part.training, dict(part._parameters), dict(part._buffers)) for part in module.modules()]
    gradients = [(p, p.grad) for p in module.parameters()]
    values = [(b, b.detach().clone()) for b in module.buffers() if not parameters.is_lazy(b)]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in values:
                if buffer.shape == value.shape:  # one that a pass has made is kept
                    buffer.copy_(value)
        for parameter, gradient in gradients:
            parameter.grad = gradient
        for part, training, own, buffers in parts:
            part.training = training
            for name, parameter in own.items():
                if parameter is not None and part._parameters.get(name) is not parameter:
                    setattr(part, name, parameter)
            for name, held in buffers.items():
                if part._buffers.get(name) is not held:
                    part._buffers[name] = held


def in_precision(module: nn.Module, dtype: torch.dtype) -> None:
    """Do what a cell does with `Module.to`; that one swaps tensors in place, which fake ones refuse."""
    pair = torch.complex128 if dtype == torch.float64 else torch.complex64

    def converted(tensor: torch.Tensor) -> torch.Tensor:
        wanted = dtype if tensor.is_floating_point() else pair if tensor.is_complex() else tensor.dtype
        return tensor if tensor.dtype == wanted else tensor.detach().to(wanted)

    replace_tensors(module, converted)


def make_fake(module: nn.Module, mode: FakeTensorMode) -> None:
    """Take the values from a module's tensors: what was built where values are needed can then be traced without."""
    replace_tensors(module, mode.from_tensor)


def replace_tensors(module: nn.Module, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """Put other tensors in place of a module's parameters and buffers; one that two layers share stays one."""
    done: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # with the old ones: an address in use stands for one

    def changed(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in done:
            made = change(tensor)
            if isinstance(tensor, nn.Parameter) and not isinstance(made, nn.Parameter):
                made = nn.Parameter(made, tensor.requires_grad)
            done[id(tensor)] = (tensor, made)
        return done[id(tensor)][1]

    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None and changed(parameter) is not parameter:
                setattr(part, name, changed(parameter))  # an LSTM notes its weights a second time
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = changed(buffer)


def is_lazy(module: nn.Module) -> bool:
    """Whether a module learns the sizes of its tensors from its first batch."""
    tensors = (*module.parameters(), *module.buffers())
    return any(map(parameters.is_lazy, tensors))
