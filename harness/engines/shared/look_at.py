"""Look at a model and its data before anybody has written a scenario: one training step tells what a run must know."""

from __future__ import annotations

import copy
import inspect
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.core.cell import Named, Workload
from harness.core.errors import HarnessError, PluginError
from harness.costs.tracing import is_chain, named_blocks, num_parameters
from harness.engines.shared.findings import DataFindings, Findings, FoundBlock, Guess, ModelFindings
from harness.engines.shared.loads import DATA_SEED
from harness.engines.shared.replica import DTYPES, build_module, convert, seeded
from harness.engines.shared.trial import try_model
from harness.workloads.batches import OUTPUT_NAME, Inputs, blank, call, outputs_of
from harness.workloads.data import Data, prepare
from harness.workloads.entries import IGNORED, Dataset, Model, RawData, seen_shape
from harness.workloads.losses import weighted_loss
from harness.workloads.own_data import Unfit, for_loss
from harness.workloads.user import user_dataset, user_model
from harness.workloads.user_files import find_user_function, is_user_function
from harness.workloads.user_import import user_object

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.api.host import Host
    from harness.core.records import Json
    from harness.workloads.entries import Arrays

LOOK_SEED = 0
SAMPLES_LOOKED_AT = 64
"""Of a data set, that a look prepares; chosen: a batch and a validation split, small enough for any model."""
BATCH_SIZE = 32
"""Samples behind an update that are proposed; the harness's own default."""
TIMED_S = 5.0
"""Longest that steps are repeated for a time without the first one's set-up; chosen."""
TIMED_STEPS = 9
"""Chosen: the median of eight does not follow a single hiccup."""

IMAGE_CANDIDATES: tuple[tuple[str, Json], ...] = (
    ("digits", {}),
    ("synthetic", {"channels": 1, "size": 28}),
    ("synthetic", {"channels": 3, "size": 32}),
    ("synthetic", {"channels": 3, "size": 224, "samples": 512, "test_samples": 64}),
)
"""Built-in data that a model is tried on where none is named: sizes that people write models for."""
TEXT_CANDIDATES: tuple[tuple[str, Json], ...] = (("tokens", {}), ("tokens", {"labels": "kind"}))

NORMALISING = ("LayerNorm", "RMSNorm")


def look_at(model: str, dataset: tuple[str, Json] | None, folder: Path, host: Host) -> Findings:
    """Build a model, load its data, and take one training step.

    Args:
        model: what a scenario would say: FILE.py:FUNCTION, or a name.
        dataset: likewise, with options; None: the first built-in one that the model takes.
        folder: what files are relative to.

    Raises:
        HarnessError: one of them is not there, fails, or they do not fit; the message names the user's line.
    """
    found = user_model(model, folder) if is_user_function(model) else host.models[model]
    if dataset is not None:
        name, options = dataset
        entry = user_dataset(name, folder) if is_user_function(name) else host.datasets[name]
        return _look(found, entry, options)
    return _propose(found, host, text=found.takes == "tokens" or _asks_for_vocabulary(model, folder))


def _asks_for_vocabulary(model: str, folder: Path) -> bool:
    """Whether a model of the user's own is built from the number of tokens."""
    if not is_user_function(model):
        return False
    try:
        signature = inspect.signature(user_object(find_user_function("workload.model", model, folder)))  # type: ignore[arg-type]
    except (TypeError, ValueError):  # without a signature
        return False
    return "vocabulary" in signature.parameters


def _propose(model: Model, host: Host, text: bool) -> Findings:
    """Return what is found on the first built-in data set that the model takes.

    Args:
        text: the model's signature speaks for text.
    """
    refused: dict[str, HarnessError] = {}
    candidates = (*TEXT_CANDIDATES, *IMAGE_CANDIDATES) if text else (*IMAGE_CANDIDATES, *TEXT_CANDIDATES)
    for name, options in candidates:
        try:
            found = _look(model, host.datasets[name], _with_classes(model, host.datasets[name], options))
        except HarnessError as error:
            refused.setdefault(name, error)
            continue
        return replace(found, data=replace(found.data, proposed=True))
    if len({str(error) for error in refused.values()}) == 1:
        raise next(iter(refused.values()))  # it is not about the data
    reasons = "\n".join(f"  {name}: {error}" for name, error in refused.items())
    raise PluginError(
        f"{model.name} takes none of the data that ship with the harness; name its own by --data FILE.py:FUNCTION\n"
        f"{reasons}"
    )


def _with_classes(model: Model, dataset: Dataset, options: Json) -> Json:
    """Return the options with as many classes as the model has outputs, where data can be made with any number."""
    size = dataset.size(dataset.Options(**options))
    if "classes" not in dataset.Options.model_fields or size is None:
        return options
    try:
        shape = seen_shape(size.shape, model)
        module = build_module(model, model.Options(), shape, LOOK_SEED)
        with torch.no_grad(), seeded(LOOK_SEED, "trial"):
            outputs = outputs_of(call(module.eval(), blank(shape, 2)[0]))
    except Exception:
        return options  # the trial step says why, in the user's terms
    several = outputs.dim() == 2 and outputs.shape[1] > 1
    return options | {"classes": outputs.shape[1]} if several and outputs.shape[1] != shape.classes else options


def _look(model: Model, dataset: Dataset, options: Json) -> Findings:
    began = time.perf_counter()
    chosen = Named(dataset.name, dataset.Options(**options).model_dump(mode="json"))
    with seeded(DATA_SEED, "data"):
        raw = dataset.load(dataset.Options(**options))
    data = DataFindings(
        name=dataset.name,
        options=options,
        inputs=(),
        target=raw.shape.targets,
        classes=raw.classes,
        vocabulary=raw.vocabulary,
        num_train=len(raw.train_targets),
        num_test=len(raw.test_targets),
        remarks=raw.remarks,
        standardizes="standardize" in dataset.Options.model_fields,
        unscaled=raw.unscaled,
        load_s=time.perf_counter() - began,
    )
    refused: list[HarnessError] = []
    for loss in fitting_losses(raw.train_targets, raw.classes):
        try:
            return _with_loss(model, raw, data, chosen, loss)
        except HarnessError as error:
            refused.append(error)
    raise refused[0]


def fitting_losses(targets: npt.NDArray[np.generic], classes: int) -> tuple[str, ...]:
    """Return the losses that targets may be meant for, the likeliest first."""
    zero_or_one = targets.size > 0 and bool(np.isin(targets[:1000], (0, 1)).all())
    if targets.dtype.kind != "f":
        return ("cross-entropy", "bce-with-logits") if zero_or_one or classes <= 2 else ("cross-entropy",)
    if not zero_or_one:
        return ("mse",)
    one_hot = targets.ndim == 2 and targets.shape[1] > 1 and bool((targets.sum(axis=1) == 1).all())
    return ("cross-entropy", "mse") if one_hot else ("bce-with-logits", "mse")


def _with_loss(model: Model, raw: RawData, data: DataFindings, chosen: Named, loss: str) -> Findings:
    try:
        ready = for_loss(raw, loss)
    except Unfit as error:
        raise PluginError(f"{data.name}: returned {error}") from None
    shape = seen_shape(ready.shape, model)
    module = build_module(model, model.Options(), shape, LOOK_SEED)
    few = prepare(_few(ready), model.input_size, 0.1, as_images=model.takes == "images")
    work = workload(model.name, chosen, loss)
    trial = try_model(module, few, work, LOOK_SEED, [str(model.file.path)] if model.file else [])
    size, step_s = _timed(module, few, loss)
    data = replace(
        data,
        inputs=shape.inputs,
        target=shape.targets,
        classes=ready.classes,
        remarks=ready.remarks,
        guess=_guess(ready.train_targets, loss),
    )
    return Findings(
        describe_module(model.name, module, few, trial.without_gradient, trial.draws), data, loss, size, step_s
    )


def _guess(targets: npt.NDArray[np.generic], loss: str) -> Guess | None:
    """Return what the best constant answer reaches."""
    if loss == "mse" and targets.dtype.kind == "f":
        return Guess(float(targets.astype(np.float64).var(axis=0).mean()))
    if loss != "cross-entropy" or targets.dtype.kind == "f":
        return None
    counts = np.bincount(targets[targets != IGNORED].astype(np.int64))
    shares = counts[counts > 0] / counts.sum()
    return Guess(float(-(shares * np.log(shares)).sum()), float(shares.max()))


def workload(model: str, dataset: Named, loss: str) -> Workload:
    """Return a workload for a trial step."""
    return Workload(Named(model), dataset, Named("sgd"), Named("constant"), loss, "fp32")


def _few(raw: RawData) -> RawData:
    """Return the first samples of a data set, with the classes and tokens of the whole."""
    return replace(
        raw,
        train_inputs=_first(raw.train_inputs),
        train_targets=raw.train_targets[:SAMPLES_LOOKED_AT],
        test_inputs=_first(raw.test_inputs),
        test_targets=raw.test_targets[:SAMPLES_LOOKED_AT],
    )


def _first(inputs: Arrays) -> Arrays:
    if isinstance(inputs, dict):
        return {name: array[:SAMPLES_LOOKED_AT] for name, array in inputs.items()}
    return inputs[:SAMPLES_LOOKED_AT]


def _timed(module: nn.Module, data: Data, loss: str) -> tuple[int, float]:
    """Return the samples of a batch, and the seconds of a step, its update included; the module is left as it was."""
    size = min(BATCH_SIZE, len(data.train))
    copied = convert(copy.deepcopy(module), data.train.device, DTYPES["fp32"]).train()
    inputs, targets = data.train.block(0, size)
    function = weighted_loss(loss, data.counts is not None)
    optimizer = torch.optim.AdamW(copied.parameters(), lr=0.0)
    times: list[float] = []
    with seeded(LOOK_SEED, "trial"):
        while len(times) < TIMED_STEPS and sum(times) < TIMED_S:
            began = time.perf_counter()
            optimizer.zero_grad()
            function(outputs_of(call(copied, inputs)), targets, 1.0 / size).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            times.append(time.perf_counter() - began)
    return size, statistics.median(times[1:] or times)


def describe_module(
    name: str, module: nn.Module, data: Data, without_gradient: Sequence[str], draws: bool, precision: str = "fp32"
) -> ModelFindings:
    """Return what a module is made of; it is run twice more, in the precision of the data."""
    inputs, _ = data.train.block(0, 2)
    copied = convert(copy.deepcopy(module), data.train.device, DTYPES[precision])
    with torch.no_grad(), seeded(LOOK_SEED, "trial"):
        returned = call(copied.train(), inputs)
    return ModelFindings(
        name=name,
        parameters=num_parameters(module),
        tensors=len(list(module.parameters())),
        frozen=tuple(n for n, p in module.named_parameters() if not p.requires_grad),
        without_gradient=tuple(without_gradient),
        ties=ties(module),
        buffers=tuple(n for n, _ in module.named_buffers()),
        batch_norms=tuple(n for n, m in module.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)),
        blocks=found_blocks(copied, inputs),
        chain=is_chain(module),
        draws=draws,
        normalises=any(type(part).__name__.endswith(NORMALISING) for part in module.modules()),
        outputs=tuple(outputs_of(returned).shape[1:]),
        result=way_to_outputs(returned),
    )


def ties(module: nn.Module) -> tuple[tuple[str, ...], ...]:
    """Return the groups of names that stand for one parameter."""
    names: dict[int, list[str]] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return tuple(tuple(group) for group in names.values() if len(group) > 1)


def found_blocks(module: nn.Module, inputs: Inputs) -> tuple[FoundBlock, ...]:
    """Return the blocks of a module, as costs, sharding and pipelines take them."""
    found = named_blocks(module, inputs)
    return tuple(FoundBlock(name, type(part).__name__, num_parameters(part)) for name, part in found)


def way_to_outputs(returned: object) -> str:
    """Return the Python that takes the outputs from what a model returned: "" for the tensor itself."""
    if isinstance(returned, torch.Tensor):
        return ""
    if isinstance(getattr(returned, OUTPUT_NAME, None), torch.Tensor):
        return f".{OUTPUT_NAME}"
    if isinstance(returned, Mapping) and OUTPUT_NAME in returned:
        return f'["{OUTPUT_NAME}"]{way_to_outputs(returned[OUTPUT_NAME])}'
    assert isinstance(returned, tuple | list)  # the trial step has taken outputs from it
    return f"[0]{way_to_outputs(returned[0])}"
