"""Samples to trace with: as large as the data's, without meaning."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from harness.workloads.entries import DataShape

Inputs: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"


def blank(shape: DataShape, samples: int, dtype: torch.dtype) -> tuple[Inputs, torch.Tensor]:
    """Return inputs and targets of zeros."""
    targets = torch.zeros((samples, shape.width) if shape.labels_per_token else samples, dtype=torch.int64)
    if shape.vocabulary:
        return torch.zeros(samples, shape.width, dtype=torch.int64), targets
    return torch.zeros(samples, shape.channels, shape.height, shape.width, dtype=dtype), targets


def call(module: nn.Module, inputs: Inputs) -> Any:
    """Run a module on one tensor, or on keyword arguments."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def outputs_of(result: Any) -> torch.Tensor:
    """Return the output tensor."""
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, Mapping) and "logits" in result:
        return outputs_of(result["logits"])
    if hasattr(result, "logits"):
        return outputs_of(result.logits)
    if isinstance(result, tuple | list) and result:
        return outputs_of(result[0])
    raise TypeError(f"{type(result).__name__} holds no output")


def tensors_of(inputs: Inputs) -> list[torch.Tensor]:
    """Return the tensors of one batch."""
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def drawn(batch: tuple[Inputs, torch.Tensor], shape: DataShape) -> tuple[Inputs, torch.Tensor]:
    """Return a batch with values at random: whether a model with values keeps more for some of them, zeros would hide.

    Tensors without values stay as they are.
    """
    inputs, targets = batch
    generator = torch.Generator().manual_seed(0)
    for tensor in tensors_of(inputs):
        if not isinstance(tensor, FakeTensor):
            _fill(tensor, shape.vocabulary, generator)
    if not isinstance(targets, FakeTensor):
        _fill(targets, shape.classes, generator)
    return inputs, targets


def _fill(tensor: torch.Tensor, bound: int, generator: torch.Generator) -> None:
    if tensor.is_floating_point():
        tensor.normal_(generator=generator)
    elif bound > 1 and tensor.dtype != torch.bool:
        tensor.random_(0, bound, generator=generator)
