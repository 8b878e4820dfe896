"""Buffers of a module as numbers of the type that values travel in, and back: whole numbers exactly."""

from __future__ import annotations

import torch
from torch import nn


def as_real(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor itself, or the pairs of numbers that a complex one is made of; the same memory."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def buffer_places(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return where a module's buffers are, each once, in torch's order."""
    parts = dict(module.named_modules())
    names = [name.rpartition(".") for name, _ in module.named_buffers()]
    return [(parts[owner], name) for owner, _, name in names]


_DIGIT = 2**16
"""A whole number travels as four numbers below this: every float type here holds them and sums of some hundreds."""
_DIGITS = 4


def encoded_size(buffer: torch.Tensor) -> int:
    """Return how many numbers stand for a buffer."""
    each = 2 if buffer.is_complex() else _DIGITS if _needs_digits(buffer) else 1
    return each * int(buffer.numel())


def _needs_digits(buffer: torch.Tensor) -> bool:
    return buffer.dtype in (torch.int64, torch.int32, torch.uint32, torch.uint64)


def encoded(buffer: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a buffer as numbers of a type."""
    if not _needs_digits(buffer):
        return as_real(buffer).to(dtype).reshape(-1)
    digits, rest = [], buffer.reshape(-1).to(torch.int64)
    for _ in range(_DIGITS - 1):
        digits.append(rest % _DIGIT)
        rest = rest // _DIGIT
    return torch.cat([*digits, rest]).to(dtype)


def decode(numbers: torch.Tensor, buffer: torch.Tensor) -> None:
    """Write into a buffer what `encoded` made of it, or a mean of such numbers."""
    if not _needs_digits(buffer):
        as_real(buffer).copy_(numbers.view_as(as_real(buffer)))
        return
    whole = torch.zeros(buffer.numel(), dtype=torch.float64, device=numbers.device)
    exact = torch.zeros(buffer.numel(), dtype=torch.int64, device=numbers.device)
    for place, digit in enumerate(numbers.view(_DIGITS, -1).double()):
        # The whole part exactly; what averaging left behind the point adds up in floats.
        exact += digit.floor().long() * _DIGIT**place
        whole += (digit - digit.floor()) * float(_DIGIT**place)
    buffer.copy_((exact + whole.round().long()).view_as(buffer))
