"""Operations of which torch's fake tensors know less than the real ones can do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class FakeKernels(TorchDispatchMode):
    """Answer grouped matrix products of any type; torch 2.13 takes bf16 alone where tensors are fake.

    Mixtures of experts of transformers call them (`grouped_mm` in its `integrations/moe.py`).
    """

    def __torch_dispatch__(
        self, func: Callable[..., object], types: object, args: Any = (), kwargs: Any = None
    ) -> object:
        """Run the operation, or make what it would return."""
        kwargs = kwargs or {}
        if func is torch.ops.aten._grouped_mm.default:
            return _grouped_mm(*args, **kwargs)
        return func(*args, **kwargs)


def _grouped_mm(
    one: torch.Tensor,
    other: torch.Tensor,
    offs: torch.Tensor | None = None,
    bias: torch.Tensor | None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return a tensor as large as the products: groups are a dimension of their own, or runs of rows or columns."""
    groups = (len(offs),) if one.dim() == other.dim() == 2 and offs is not None else ()
    if one.dim() == other.dim() == 3:
        groups = (len(one),)
    made: torch.Tensor = one.new_empty((*groups, one.shape[-2], other.shape[-1]), dtype=out_dtype or one.dtype)
    return made
