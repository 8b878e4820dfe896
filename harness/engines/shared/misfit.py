"""Why a model does not take its data, in the terms of whoever wrote it: which layer, what it got, what to change."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from harness.api.host import describe
from harness.core.errors import Misfit
from harness.core.words import listed
from harness.engines.processes.torch_errors import mending
from harness.workloads.batches import Inputs, call, mapped, tensors_of


@dataclass(frozen=True)
class Raised:
    """The innermost module of a model that an error came from.

    Attributes:
        name: dotted; "" for the model itself.
        got: the tensors that it was called with.
    """

    name: str
    layer: nn.Module
    got: tuple[torch.Tensor, ...]

    @property
    def words(self) -> str:
        """What it is called, and what it got."""
        shapes = listed([f"{tuple(tensor.shape)} {_type(tensor)}" for tensor in self.got])
        called = f"its layer {self.name} ({type(self.layer).__name__})" if self.name else "its own forward"
        return f"{called} got {shapes}" if self.got else called


def raised_in(module: nn.Module, error: BaseException) -> Raised | None:
    """Return the innermost part of a model that was running when an error was raised; None where none was."""
    names = {id(part): name for name, part in module.named_modules()}
    found: Raised | None = None
    for frame, _ in traceback.walk_tb(error.__traceback__):
        part = frame.f_locals.get("self")
        if not isinstance(part, nn.Module) or id(part) not in names or (found is not None and found.layer is part):
            continue
        given = chain(frame.f_locals.get("args", ()), frame.f_locals.get("kwargs", {}).values())
        found = Raised(names[id(part)], part, tuple(value for value in given if isinstance(value, torch.Tensor)))
    return found


@dataclass(frozen=True)
class GivenBatch:
    """What the data give to a model.

    Attributes:
        data: what the scenario calls them.
        options: names of their options.
        inputs: a batch.
    """

    data: str
    options: tuple[str, ...]
    inputs: Inputs


def not_taken(name: str, files: Sequence[str], module: nn.Module, error: Exception, sample: GivenBatch) -> Misfit:
    """Return what is to be raised where a model failed on its inputs.

    Args:
        files: the user's own, for his line.
    """
    why = _why(module, error, sample)
    return Misfit(f"{name}: fails on inputs of shape {_shapes(sample.inputs)}: {describe(error, files)}{why}")


def _shapes(inputs: Inputs) -> str:
    if isinstance(inputs, dict):
        return ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in inputs.items())
    return str(tuple(inputs.shape))


def _why(module: nn.Module, error: BaseException, sample: GivenBatch) -> str:
    """Return which layer raised and what usually mends it, in lines; empty where nothing is known."""
    raised = raised_in(module, error)
    lines = [] if raised is None else [raised.words]
    return "".join(f"\n  {line}" for line in [*lines, *_advice(module, error, raised, sample)][:3])


def _advice(module: nn.Module, error: BaseException, raised: Raised | None, sample: GivenBatch) -> Iterator[str]:
    most = most_places(module, sample.inputs)
    if most:
        yield _too_long(most, sample)
        return
    found = ("" if raised is None else _of_layer(raised, sample)) or mending(error)
    if found:
        yield found


# -- sequences ---------------------------------------------------------------------------------------------------------


def most_places(module: nn.Module, inputs: Inputs) -> int:
    """Return how many places of a sequence a model takes, where it takes fewer than samples have; else 0.

    Found by passing beginnings of the samples, their tokens replaced by the first two: whatever limits a model, an
    embedding of positions, a mask or a check of its own, it is a length then.
    """
    tensors = tensors_of(inputs)
    lengths = {tensor.shape[1] for tensor in tensors if tensor.dim() == 2 and not tensor.is_floating_point()}
    if len(lengths) != 1 or any(tensor.dim() < 2 for tensor in tensors):
        return 0
    taken, refused = 0, lengths.pop()
    if _takes(module, inputs, refused):
        return 0
    while refused - taken > 1:
        middle = (taken + refused) // 2
        taken, refused = (middle, refused) if _takes(module, inputs, middle) else (taken, middle)
    return taken


def _takes(module: nn.Module, inputs: Inputs, places: int) -> bool:
    def begun(tensor: torch.Tensor) -> torch.Tensor:
        return tensor if tensor.is_floating_point() else tensor[:, :places].clamp(0, 1)

    try:
        with torch.no_grad():
            call(module, mapped(begun, inputs))
    except Exception:  # whatever a model of the user's raises
        return False
    return True


def _too_long(most: int, sample: GivenBatch) -> str:
    length = max(tensor.shape[1] for tensor in tensors_of(sample.inputs) if tensor.dim() > 1)
    shorter = (
        f"set sequence = {most} in workload.dataset"
        if "sequence" in sample.options
        else f"let {sample.data} give sequences of {most}"
    )
    return (
        f"it takes at most {most} places of a sequence, and samples have {length}. Build it for {length}, or {shorter}"
    )


# -- layers ------------------------------------------------------------------------------------------------------------


def _of_layer(raised: Raised, sample: GivenBatch) -> str:
    """Return what a layer of torch's wants and did not get; empty for others, and where it got what it wants."""
    if not raised.got:
        return ""
    got = raised.got[0]
    if isinstance(raised.layer, nn.Embedding):
        return _of_embedding(raised.layer, got, sample)
    weight = next(raised.layer.parameters(recurse=False), None)
    if weight is not None and weight.is_floating_point() and not got.is_floating_point():
        return f"it computes with fractions and got whole numbers. {_FRACTIONS}"
    for kind, wanted, axis, what in _WANTED:
        if isinstance(raised.layer, kind) and axis < got.dim() and got.shape[axis] != wanted(raised.layer):
            return _sized(raised, wanted(raised.layer), got.shape[axis], what, sample)
    return ""


_FRACTIONS = (
    "Begin with an Embedding if they are tokens or codes, write x.float() in forward, or give data of fractions"
)

_Wanted = Callable[[nn.Module], int]


def _field(name: str) -> _Wanted:
    return lambda layer: int(getattr(layer, name))


_WANTED: tuple[tuple[type[nn.Module], _Wanted, int, str], ...] = (
    (nn.Linear, _field("in_features"), -1, "features"),
    (nn.modules.conv._ConvNd, _field("in_channels"), 1, "channels"),
    (nn.modules.batchnorm._BatchNorm, _field("num_features"), 1, "channels"),
    (nn.RNNBase, _field("input_size"), -1, "features"),
    (nn.MultiheadAttention, _field("embed_dim"), -1, "features"),
    (nn.LayerNorm, lambda layer: int(layer.normalized_shape[-1]), -1, "features"),  # type: ignore[index]
)
"""Which axis of its input a layer wants of which size."""


def _sized(raised: Raised, wanted: int, got: int, what: str, sample: GivenBatch) -> str:
    direct = any(tensor.shape == raised.got[0].shape for tensor in tensors_of(sample.inputs))
    whose = f"the samples of {sample.data} have {got}" if direct else f"what the layers before it make has {got}"
    if direct and what == "channels":
        how = f"Build it for {got} (a parameter `channels` of the function that builds it is told), or give data of "
        return f"it takes {wanted} {what}, and {whose}. {how}{wanted}"
    how = f"Build it for {got}, or give samples of the size that the model was written for"
    lazy = " (nn.LazyLinear finds the number by itself)" if what == "features" else ""
    return f"it takes {wanted} {what}, and {whose}. {how}{lazy}"


def _of_embedding(layer: nn.Embedding, got: torch.Tensor, sample: GivenBatch) -> str:
    if got.is_floating_point():
        return "it takes whole numbers and got fractions. Give data of whole numbers, or begin with a Linear layer"
    rows, largest = layer.num_embeddings, int(got.max()) if got.numel() else 0
    if int(got.min()) < 0:
        return f"it has rows from 0 on and was asked for {int(got.min())}. Replace negative numbers in {sample.data}"
    if largest < rows:
        return ""
    tokens = any(tensor.shape == got.shape and bool((tensor == got).all()) for tensor in tensors_of(sample.inputs))
    whose = f"{sample.data} has such a token" if tokens else "positions or codes go so far"
    told = " (a parameter `vocabulary` of the function that builds it is told)" if tokens else ""
    return f"it has {rows} rows and was asked for row {largest}: {whose}. Build it with more rows{told}"


def classes_expected(name: str, data: str, rows: int, classes: int, got: tuple[int, ...]) -> str:
    """Say that outputs are not one for each class, and what to change."""
    return (
        f"{name}: must give outputs of shape {(rows, classes)}, one for each class; got {got}\n"
        f"  {data} has {classes} classes. Let the last layer have {classes} outputs (a parameter `classes` of the "
        "function that builds it is told), or give data of other classes"
    )


def _type(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
