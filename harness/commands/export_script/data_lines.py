"""How the script reads the data: the user's own function, and what makes tensors of its answer. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.core.errors import InputError
from harness.workloads.batches import Samples
from harness.workloads.data import Normalisation
from harness.workloads.own_data import TARGET_NAMES, TEST_SHARE


@dataclass(frozen=True)
class DataLines:
    """The lines that leave `inputs` and `targets` behind.

    Attributes:
        named: whether inputs are a dictionary by the model's keywords.
        collates: whether they use torch's default_collate.
        saved: whether they read a file beside the script.
    """

    lines: tuple[str, ...]
    named: bool
    collates: bool = False
    saved: bool = False


def lines_for(result: Any, call: str, ready: Samples, normalisation: Normalisation | None) -> DataLines:
    """Return the lines for what a data function returned.

    Args:
        result: what it returned.
        call: the Python that calls it.
        ready: the training samples as a cell has them: their types and shapes are what the lines must end in.
        normalisation: of images.

    Raises:
        InputError: the answer is in a form that scripts do not read.
    """
    lines = list(_read(result, call))
    given, targets = _given(result)
    named = isinstance(given, Mapping)
    if named:
        kept = ready.inputs if isinstance(ready.inputs, dict) else {}
        parts = ", ".join(f'"{name}": {_tensor(given[name], f"inputs[{name!r}]", kept[name])}' for name in kept)
        lines.append(f"inputs = {{{parts}}}".replace("'", '"'))
    else:
        assert isinstance(ready.inputs, torch.Tensor)
        made = _tensor(given, "inputs", ready.inputs)
        lines += [] if made == "inputs" else [f"inputs = {made}"]
        lines += _image_lines(_shape(given), ready.inputs, normalisation)
    lines += _target_lines(targets, ready.targets)
    text = "\n".join(lines)
    return DataLines(tuple(lines), named, collates="default_collate" in text)


def saved_lines(file: str, inputs: Any, targets: Any, ready: Samples, normalisation: Normalisation | None) -> DataLines:
    """Return the lines that read arrays from a file beside the script."""
    assert isinstance(ready.inputs, torch.Tensor)
    lines = [
        f'with np.load(Path(__file__).with_name("{file}")) as file:',
        '    inputs, targets = file["inputs"], file["targets"]',
        f"inputs = {_tensor(inputs, 'inputs', ready.inputs)}",
        *_image_lines(inputs.shape, ready.inputs, normalisation),
        *_target_lines(targets, ready.targets),
    ]
    return DataLines(tuple(lines), named=False, saved=True)


# -- forms -------------------------------------------------------------------------------------------------------------


def _read(result: Any, call: str) -> Iterator[str]:
    """Yield the lines that give `inputs` and `targets` of the training samples."""
    whole, source = _training_set(result, call)
    if source is None:
        yield f"inputs, targets, _, _ = {call}"
        return
    if hasattr(whole, "column_names"):
        yield f'columns = {source}.with_format("numpy")[:]'
        yield f'targets = columns.pop("{_target_of(whole.column_names)}")'
        yield "inputs = columns"
    else:
        join = "default_collate"
        yield f"samples = {source}"
        if hasattr(whole, "collate_fn"):
            join = "samples.collate_fn"
            yield "join, samples = samples.collate_fn, samples.dataset"
            join = "join"
        yield f"batch = {join}([samples[number] for number in range(len(samples))])"
        batch = _first_batch(whole)
        if isinstance(batch, Mapping):
            yield f'targets = batch.pop("{_target_of(batch)}")'
            yield "inputs = batch"
        else:
            yield "inputs, targets = batch"
    if _is_alone(result):
        yield f"number = len(targets) - max(1, round({TEST_SHARE} * len(targets)))  # the others are for a test"
        cut = "{name: values[:number] for name, values in inputs.items()}" if _is_named(whole) else "inputs[:number]"
        yield f"inputs, targets = {cut}, targets[:number]"


def _training_set(result: Any, call: str) -> tuple[Any, str | None]:
    """Return the training split and the Python for it; no Python where the answer is four arrays."""
    if isinstance(result, Mapping) and "train" in result:
        return result["train"], f'{call}["train"]'
    if isinstance(result, tuple | list) and len(result) == 4:
        return result, None
    if isinstance(result, tuple | list) and len(result) == 2:
        return result[0], f"{call}[0]"
    return result, call


def _is_alone(result: Any) -> bool:
    if isinstance(result, Mapping):
        return not ("test" in result or "validation" in result)
    return not isinstance(result, tuple | list)


def _given(result: Any) -> tuple[Any, Any]:
    """Return inputs and targets as the first lines leave them, or a few samples of them."""
    whole, source = _training_set(result, "")
    if source is None:
        return whole[0], whole[1]
    if hasattr(whole, "column_names"):
        columns = dict(whole.with_format("numpy")[:])
        targets = columns.pop(_target_of(whole.column_names))
        return columns, targets
    batch = _first_batch(whole)
    if isinstance(batch, Mapping):
        rest = dict(batch)
        targets = rest.pop(_target_of(batch))
        return rest, targets
    return batch[0], batch[1]


def _first_batch(whole: Any) -> Any:
    from torch.utils.data import default_collate

    samples, join = getattr(whole, "dataset", whole), getattr(whole, "collate_fn", default_collate)
    if not (hasattr(samples, "__getitem__") and hasattr(samples, "__len__")):
        raise InputError(["its data are an iterable, which scripts do not read; return arrays or a map-style data set"])
    return join([samples[number] for number in range(min(2, len(samples)))])


def _is_named(whole: Any) -> bool:
    return hasattr(whole, "column_names") or isinstance(_first_batch(whole), Mapping)


def _target_of(names: Any) -> str:
    return next(name for name in TARGET_NAMES if name in names)


# -- tensors -----------------------------------------------------------------------------------------------------------


def _tensor(given: Any, name: str, ready: torch.Tensor) -> str:
    """Return the Python that makes a tensor of the right type."""
    made = f"torch.as_tensor({name})" if isinstance(given, np.ndarray | torch.Tensor) else f"torch.as_tensor(np.asarray({name}))"
    found = given.dtype if isinstance(given, torch.Tensor) else torch.as_tensor(np.asarray(given)[:1]).dtype
    if isinstance(given, torch.Tensor):
        made = name
    return made + ("" if found == ready.dtype else _CASTS.get(ready.dtype, f".to({ready.dtype})"))


_CASTS = {torch.float32: ".float()", torch.float64: ".double()", torch.int64: ".long()"}


def _shape(given: Any) -> tuple[int, ...]:
    return tuple(given.shape if hasattr(given, "shape") else np.asarray(given).shape)


def _image_lines(shape: tuple[int, ...], ready: torch.Tensor, normalisation: Normalisation | None) -> Iterator[str]:
    """Yield what turns axes, and what normalises."""
    each, wanted = shape[1:], tuple(ready.shape[1:])
    if each != wanted and len(each) == 3 and (each[2], each[0], each[1]) == wanted:
        yield "inputs = inputs.permute(0, 3, 1, 2).contiguous()  # channels first"
    elif each != wanted and (1, *each) == wanted:
        yield "inputs = inputs.unsqueeze(1)  # one channel"
    elif each != wanted:
        raise InputError([f"its inputs of shape {each} are trained on as {wanted}, which scripts do not write yet"])
    if normalisation is not None:
        mean, sd = normalisation.mean * normalisation.full_scale, normalisation.sd * normalisation.full_scale
        yield f"inputs = (inputs - {mean!r}) / {sd!r}  # mean and deviation of all training pixels"


def _target_lines(given: Any, ready: torch.Tensor) -> Iterator[str]:
    shape, made = _shape(given), _tensor(given, "targets", ready)
    if made != "targets":
        yield f"targets = {made}"
    if len(shape) == ready.dim():
        return
    yield "targets = targets[:, 0]" if shape[1] == 1 else "targets = targets.argmax(dim=1)  # one-hot"
