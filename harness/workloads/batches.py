"""What passes through a model at once: one tensor, or several by keyword; and what comes out of it. Imports torch."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from harness.workloads.accelerator import has_queue, upload
from harness.workloads.entries import DataShape, Feature

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Inputs: TypeAlias = "torch.Tensor | dict[str, torch.Tensor]"
"""Samples along the first axis; a dictionary goes to the model as keywords, a tensor as its one argument."""

OUTPUT_NAME = "logits"
"""What models of transformers call their output, as an attribute or a key."""


def call(module: Callable[..., Any], inputs: Inputs) -> Any:
    """Run a model on its inputs, and return whatever it returns."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


def as_written() -> AbstractContextManager[object]:
    """Run what `torch.compile` was given as it was written: who looks at one step must not wait for a compiler.

    What was compiled already stays so for later.
    """
    if "torch._dynamo" not in sys.modules:  # nobody has compiled anything
        return nullcontext()
    stance: AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


def outputs_of(result: Any) -> torch.Tensor:
    """Return the tensor that a loss is computed from.

    That is the result itself, its `.logits`, its "logits", or the first of a tuple or list.

    Raises:
        TypeError: it is none of them.
    """
    if isinstance(result, torch.Tensor):
        return result
    if isinstance(result, Mapping) and OUTPUT_NAME in result:
        return outputs_of(result[OUTPUT_NAME])
    found = getattr(result, OUTPUT_NAME, None)
    if isinstance(found, torch.Tensor):
        return found
    if isinstance(result, tuple | list) and result:
        return outputs_of(result[0])
    raise TypeError(f"{type(result).__name__}, expected a tensor, an object with .logits, a dict, or a tuple of them")


def tensors_of(inputs: Inputs) -> list[torch.Tensor]:
    """Return the tensors of a batch, in their order."""
    return list(inputs.values()) if isinstance(inputs, dict) else [inputs]


def mapped(function: Callable[[torch.Tensor], torch.Tensor], inputs: Inputs) -> Inputs:
    """Return the inputs with a function applied to each tensor."""
    if isinstance(inputs, dict):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return function(inputs)


def rows(inputs: Inputs) -> int:
    """Return how many samples there are."""
    return len(tensors_of(inputs)[0])


def take(inputs: Inputs, index: torch.Tensor) -> Inputs:
    """Return a copy of the samples that `index` lists."""
    if isinstance(inputs, dict):
        return {name: tensor.index_select(0, index) for name, tensor in inputs.items()}
    return inputs.index_select(0, index)


def joined(parts: list[Inputs]) -> Inputs:
    """Return several batches as one."""
    named = [part for part in parts if isinstance(part, dict)]
    if named:
        return {name: torch.cat([part[name] for part in named]) for name in named[0]}
    return torch.cat([part for part in parts if isinstance(part, torch.Tensor)])


@dataclass(frozen=True)
class Samples:
    """A split as training sees it, resident on one device. What it lends out is a copy: models write to their inputs.

    Attributes:
        inputs: tensors of shape (n, ...): images normalised, tokens int64, anything else as it was given.
        targets: (n,) classes; (n, ...) where a sample has several labels or numbers.
    """

    inputs: Inputs
    targets: torch.Tensor
    draws: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """Where they lie."""
        return self.targets.device

    def take(self, index: torch.Tensor) -> tuple[Inputs, torch.Tensor]:
        """Return copies of the samples that `index` (int64, on the same device) lists, and their targets."""
        return take(self.inputs, index), self.targets.index_select(0, index)

    def rows(self, rows: npt.NDArray[np.int64]) -> tuple[Inputs, torch.Tensor]:
        """Return copies of the samples of these numbers, and their targets."""
        index = torch.from_numpy(rows)
        device = self.targets.device
        return self.take(upload(index, device) if has_queue(device) else index)

    def block(self, start: int, end: int) -> tuple[Inputs, torch.Tensor]:
        """Return copies of neighbouring samples."""
        return mapped(lambda tensor: tensor[start:end].clone(), self.inputs), self.targets[start:end].clone()


def blank(
    shape: DataShape, samples: int, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[Inputs, torch.Tensor]:
    """Return a batch of zeros in the shape of the data: (inputs, targets).

    Args:
        dtype: what "float" means.
    """

    def zeros(field: Feature) -> torch.Tensor:
        kind = dtype if field.dtype == "float" else getattr(torch, field.dtype)
        made: torch.Tensor = torch.zeros((samples, *field.shape), dtype=kind, device=device)
        return made

    fields = shape.inputs
    if len(fields) == 1 and not fields[0].name:
        return zeros(fields[0]), zeros(shape.targets)
    return {field.name: zeros(field) for field in fields}, zeros(shape.targets)
