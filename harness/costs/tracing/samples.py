"""Samples to trace with: as large as the data's, without meaning. Where tensors have values, they differ."""

from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensor

from harness.workloads.batches import Inputs, blank, tensors_of
from harness.workloads.entries import DataShape

BOUND = 2
"""Below it lie whole numbers of which nobody knows how large they may be; chosen: any table has two rows."""


def drawn(shape: DataShape, samples: int, dtype: torch.dtype) -> tuple[Inputs, torch.Tensor]:
    """Return inputs and targets with values at random: a model may keep more for some of them, and zeros would hide it.

    Tensors without values are only as large.
    """
    inputs, targets = blank(shape, samples, dtype)
    generator = torch.Generator().manual_seed(0)
    for tensor, feature in zip((*tensors_of(inputs), targets), (*shape.inputs, shape.targets), strict=True):
        if isinstance(tensor, FakeTensor):
            continue
        if tensor.is_floating_point():
            tensor.normal_(generator=generator)
        else:
            tensor.random_(0, feature.bound or BOUND, generator=generator)
    return inputs, targets
