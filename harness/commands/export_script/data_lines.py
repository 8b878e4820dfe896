"""How the script reads the data: the user's own function, and what makes tensors of its answer. Imports torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch

from harness.core.errors import InputError
from harness.workloads.batches import Samples
from harness.workloads.data import Normalisation
from harness.workloads.found_data import TARGET_NAMES
from harness.workloads.own_data import TEST_SEED, TEST_SHARE

GivenData: TypeAlias = Any
"""What a function of the user's returned, or a part of it."""


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


def lines_for(result: GivenData, call: str, ready: Samples, normalisation: Normalisation | None) -> DataLines:
    """Return the lines for what a data function returned.

    Args:
        result: what it returned.
        call: the Python that calls it.
        ready: the training samples as a cell has them: their types and shapes are what the lines must end in.
        normalisation: of images.

    Raises:
        InputError: the answer is in a form that scripts do not read.
    """
    part, source, alone = _training_part(result, call)
    lines, given, targets = _read(part, source)
    if alone:
        lines.append(f"order = np.random.RandomState({TEST_SEED}).permutation(len(targets))  # some are for a test")
        lines.append(f"kept = np.sort(order[max(1, round({TEST_SHARE} * len(targets))) :])")
        cut = (
            "{name: values[kept] for name, values in inputs.items()}" if isinstance(given, Mapping) else "inputs[kept]"
        )
        lines.append(f"inputs, targets = {cut}, targets[kept]")
    named = isinstance(given, Mapping)
    if named and isinstance(ready.inputs, dict):
        parts = ", ".join(f'"{name}": {_tensor(given[name], _key(name), kept)}' for name, kept in ready.inputs.items())
        lines.append(f"inputs = {{{parts}}}")
    elif isinstance(ready.inputs, torch.Tensor):
        made = _tensor(given, "inputs", ready.inputs)
        lines += [] if made == "inputs" else [f"inputs = {made}"]
        lines += _image_lines(_shape(given), ready.inputs, normalisation)
    else:
        raise InputError([_OTHER_FORM])
    lines += _target_lines(targets, ready.targets)
    return DataLines(tuple(lines), named, collates="default_collate" in "\n".join(lines))


def _key(name: str) -> str:
    return f'inputs["{name}"]'


def saved_lines(
    file: str, inputs: GivenData, targets: GivenData, ready: Samples, normalisation: Normalisation | None
) -> DataLines:
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

_OTHER_FORM = "its data are in a form that scripts do not read; return four arrays, or two map-style data sets"


def _training_part(result: GivenData, call: str) -> tuple[GivenData, str, bool]:
    """Return the training split, the Python for it, and whether there is no other split."""
    if isinstance(result, Mapping) and "train" in result:
        return result["train"], f'{call}["train"]', not ("test" in result or "validation" in result)
    if not isinstance(result, tuple | list):
        return result, call, True
    if len(result) == 4:
        return tuple(result[:2]), f"{call}[:2]", False
    pair = len(result) == 2 and not _holds_samples(result[0]) and not isinstance(result[0], tuple)
    if pair and not isinstance(result[0], Mapping):
        return tuple(result), call, True
    return result[0], f"{call}[0]", False


def _holds_samples(value: GivenData) -> bool:
    """Whether this is a data set of samples rather than an array or a table."""
    array = hasattr(value, "detach") or hasattr(value, "dtype") or hasattr(value, "iloc")
    reads = hasattr(value, "__getitem__") or hasattr(value, "collate_fn")
    return reads and not array and not isinstance(value, Mapping | tuple | list)


def _read(part: GivenData, source: str) -> tuple[list[str], GivenData, GivenData]:
    """Return the lines that give `inputs` and `targets` of one split, and a few of both.

    Raises:
        InputError: scripts do not read such a split.
    """
    if isinstance(part, tuple) and len(part) == 2:
        return [f"inputs, targets = {source}"], part[0], part[1]
    if hasattr(part, "iloc") and hasattr(part, "columns"):
        target = _target_of(part.columns)
        lines = [
            f"table = {source}",
            f'inputs, targets = table.drop(columns="{target}").to_numpy(), table["{target}"].to_numpy()',
        ]
        return lines, part.drop(columns=target).to_numpy(), part[target].to_numpy()
    if isinstance(part, Mapping):
        return _popped(dict(part), source)
    if not _holds_samples(part):
        raise InputError([_OTHER_FORM])
    if getattr(part, "column_names", None) is not None and part.format["type"] != "custom":
        return _popped(dict(part.with_format("numpy")[:]), f'{source}.with_format("numpy")[:]')
    return _of_samples(part, source)


def _popped(columns: dict[str, GivenData], source: str) -> tuple[list[str], GivenData, GivenData]:
    target = _target_of(columns)
    return [f"inputs = dict({source})", f'targets = inputs.pop("{target}")'], columns, columns.pop(target)


def _of_samples(part: GivenData, source: str) -> tuple[list[str], GivenData, GivenData]:
    """Return the lines that collate all samples of a map-style data set."""
    from torch.utils.data import default_collate

    samples, join, lines = part, default_collate, [f"samples, join = {source}, default_collate"]
    if hasattr(part, "dataset") and hasattr(part, "collate_fn"):
        samples, join = part.dataset, part.collate_fn
        lines = [f"loader = {source}", "samples, join = loader.dataset, loader.collate_fn"]
    if not hasattr(samples, "__len__") or not hasattr(samples, "__getitem__"):
        raise InputError([_OTHER_FORM])
    batch = join([samples[number] for number in range(min(2, len(samples)))])
    joined = "join([samples[number] for number in range(len(samples))])"
    if isinstance(batch, Mapping):
        found, given, targets = _popped(dict(batch), joined)
        return [*lines, *found], given, targets
    return [*lines, f"inputs, targets = {joined}"], batch[0], batch[1]


def _target_of(names: GivenData) -> str:
    found = next((name for name in TARGET_NAMES if name in names), None)
    if found is None:
        raise InputError([_OTHER_FORM])
    return found


# -- tensors -----------------------------------------------------------------------------------------------------------


def _tensor(given: GivenData, name: str, ready: torch.Tensor) -> str:
    """Return the Python that makes a tensor of the right type."""
    if isinstance(given, torch.Tensor):
        found, made = given.dtype, name
    else:
        array = np.asarray(given)
        if array.dtype.kind not in "biuf":
            raise InputError([_OTHER_FORM])
        found = torch.as_tensor(array[:1].copy()).dtype
        made = f"torch.as_tensor({name})" if isinstance(given, np.ndarray) else f"torch.as_tensor(np.asarray({name}))"
    return made + ("" if found == ready.dtype else _CASTS.get(ready.dtype, f".to({ready.dtype})"))


_CASTS = {torch.float32: ".float()", torch.float64: ".double()", torch.int64: ".long()"}


def _shape(given: GivenData) -> tuple[int, ...]:
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


def _target_lines(given: GivenData, ready: torch.Tensor) -> Iterator[str]:
    shape, made = _shape(given), _tensor(given, "targets", ready)
    if made != "targets":
        yield f"targets = {made}"
    if len(shape) == ready.dim():
        return
    yield "targets = targets[:, 0]" if shape[1] == 1 else "targets = targets.argmax(dim=1)  # one-hot"
