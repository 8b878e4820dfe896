"""What codecs share: whole numbers in few bits each, and random numbers from a program's own stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    import torch

BIT_WIDTHS = (1, 2, 4, 8, 16, 32)
"""Bits of a number: those that fill bytes, or are filled by them, without rest."""


def width_for(count: int) -> int:
    """Return the bits that tell the numbers from 0 to `count` - 1 apart: 1, 2, 4, 8, 16 or 32.

    Raises:
        ValueError: `count` is above 2**31.
    """
    for width in BIT_WIDTHS:
        if count <= 1 << min(width, 31):
            return width
    raise ValueError(f"{count} different numbers are more than 32 bits tell apart here; at most {1 << 31}")


def pack(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """Return whole numbers from 0 to 2**width - 1 in `width` bits each.

    Args:
        numbers: of shape (n,).
        width: one of `BIT_WIDTHS`; with 32 bits numbers go up to 2**31 - 1.

    Returns:
        Below 16 bits uint8 of shape (ceil(n * width / 8),), the first number in the lowest bits; else int16 or int32 of
        shape (n,).
    """
    import torch

    if width == 32:
        return numbers.to(torch.int32)
    if width == 16:
        return (numbers - (1 << 15)).to(torch.int16)
    per_byte = 8 // width
    columns = torch.nn.functional.pad(numbers.to(torch.uint8), (0, -len(numbers) % per_byte)).view(-1, per_byte)
    packed = columns[:, 0].clone()
    for place in range(1, per_byte):
        packed |= columns[:, place] << (place * width)
    return packed


def unpack(packed: torch.Tensor, width: int, count: int) -> torch.Tensor:
    """Return the `count` numbers that `pack` put into `width` bits each: int32 of shape (count,)."""
    import torch

    if width >= 16:
        return packed.to(torch.int32) + ((1 << 15) if width == 16 else 0)
    places = torch.arange(0, 8, width, dtype=torch.uint8, device=packed.device)
    numbers = (packed[:, None] >> places) & ((1 << width) - 1)
    return numbers.reshape(-1)[:count].to(torch.int32)


def uniform(stream: random.Random, like: torch.Tensor) -> torch.Tensor:
    """Return numbers evenly distributed from 0 to 1, in the shape and type of a tensor and on its device.

    Args:
        stream: as `worker.random(name)` returns it; one number of it is the seed.
    """
    import torch

    return _drawn(torch.Tensor.uniform_, stream, like)


def normal(stream: random.Random, like: torch.Tensor) -> torch.Tensor:
    """Return normally distributed numbers of mean 0 and variance 1; arguments as of `uniform`."""
    import torch

    return _drawn(torch.Tensor.normal_, stream, like)


def _drawn(fill: Callable[..., torch.Tensor], stream: random.Random, like: torch.Tensor) -> torch.Tensor:
    import torch

    seed, numbers = stream.getrandbits(63), torch.empty_like(like)
    if like.is_meta:  # it has no numbers, and no generator
        return numbers
    return fill(numbers, generator=torch.Generator(like.device).manual_seed(seed))
