"""Make a cell's script in a process of its own: look at model and data, render, and prove it. Imports torch."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn

from harness.commands.export_script.data_lines import DataLines, lines_for, saved_lines
from harness.commands.export_script.loss_lines import loss_lines
from harness.commands.export_script.prove_script import Wanted, prove
from harness.commands.export_script.refused import OPTIMIZER_CLASSES, PIPELINE_SCHEDULES
from harness.api.host import load_host
from harness.core.errors import InputError
from harness.engines.shared.look_at import describe_module
from harness.engines.shared.replica import DTYPES, build_module, convert, seeded
from harness.engines.shared.setup import Setup, entries_of, make_setup
from harness.engines.shared.trial import try_model
from harness.workloads.data import SPLIT_SEED, Normalisation, measure_normalisation
from harness.workloads.entries import IGNORED, DataShape, RawData
from harness.workloads.own_data import for_loss
from harness.workloads.user import MODEL_PARAMETERS, is_user_function

if TYPE_CHECKING:
    from harness.core.cell import Cell, Named
    from harness.engines.shared.findings import ModelFindings

TITLES = {
    "single": "on one device",
    "sync-ddp": "with DistributedDataParallel",
    "fsdp": "with fully_shard",
    "model-split": "as a pipeline",
    "local-sgd": "by local SGD",
}

OWN_NAMES = frozenset(
    {
        *("argparse", "hashlib", "itertools", "math", "os", "random", "sys", "np", "torch", "dist", "nn", "functional"),
        *("stream", "seed", "samples", "take", "make_model", "forward", "sample_losses", "batches", "learning_rate"),
        *("validation_loss", "pieces", "micro_batches", "make_schedule", "average", "start", "main", "Path", "partial"),
        *("checkpoint", "default_collate", "OrderedDict", "PipelineStage", "nullcontext"),
    }
)
"""What scripts call their own: a function of the user's with such a name gets another one there."""


@dataclass(frozen=True)
class Script:
    """A script, and the arrays that it reads.

    Attributes:
        arrays: name of a file beside the script to arrays by name; empty where the user's function loads the data.
        notes: what the user should know.
    """

    text: str
    arrays: dict[str, dict[str, Any]]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Imported:
    """A function of the user's, as the script gets at it.

    Attributes:
        folder: that Python must search for it.
        line: imports it.
        name: what it is called in the script.
    """

    function: Any
    folder: Path
    line: str
    name: str


def make_script(cell: Cell, steps: int, placement: Any, target: Path, plugins: tuple[str, ...]) -> Script:
    """Return the script of a cell.

    Args:
        steps: that it takes unless told otherwise.
        placement: names of the layers of each pipeline stage, as they were recorded.
        target: where it will lie.

    Raises:
        HarnessError: the model or the data fail, or there is no script for them; the message says why.
    """
    setup = make_setup(cell, plugins)
    work, data = cell.workload, setup.data
    module = build_module(setup.model, setup.model.Options(**work.model.options), setup.shape, cell.seed)
    trial = try_model(module, data, work, cell.seed, [str(setup.model.file.path)])
    found = describe_module(work.model.name, module, data, trial.without_gradient, trial.draws)
    notes = [*_changed(setup)]
    model = imported(work.model.name, cell)
    raw = _raw(cell, plugins)
    lines, arrays, functions = _data(cell, setup, raw, model, target)
    ragged = data.counts is not None
    losses = loss_lines(work.loss, found.outputs, data.train.targets, data.classes, ragged, work.precision == "bf16")
    context = {
        "cell": cell,
        "steps": steps,
        "data": lines,
        "model": _model(found, model, setup, module),
        "loss_lines": losses,
        "rate_lines": rate_lines(setup),
        "ragged": ragged,
        "ignored": IGNORED,
        "split_seed": SPLIT_SEED,
        "held_out": len(data.validation),
        "clip_norm": work.clip_norm,
        "bf16": work.precision == "bf16",
        "dtype": DTYPES[work.precision],
        "recompute": bool(cell.options.get("recompute")),
        "imports": list(dict.fromkeys(_joined([model, *functions]))),
        "folders": folders([model, *functions], target),
        "distributed": cell.strategy != "single",
        "staged": cell.strategy == "model-split",
        "title": f"Train {work.model.name} on {work.dataset.name} {TITLES[cell.strategy]}.",
        "command": command(cell, target),
    }
    context |= _layout(cell, setup, found, placement)
    context["in_place"] = any(getattr(part, "inplace", False) for part in module.modules())
    text = render(f"{cell.strategy}.py.j2", context)
    wanted = Wanted(cell, data, convert(module, torch.device("cpu"), DTYPES[work.precision]), setup.rate, ragged)
    prove(text, target, wanted, arrays)
    return Script(text, arrays, tuple(notes))


def render(template: str, context: dict[str, Any]) -> str:
    """Return a filled-in template, with no more than two empty lines in a row."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    text = environment.get_template(template).render(context)
    lines: list[str] = []
    for line in text.splitlines():
        if line.strip() or lines[-2:] != ["", ""]:
            lines.append(line.rstrip())
    return "\n".join(lines).rstrip() + "\n"


def command(cell: Cell, target: Path) -> str:
    """Return how the script is started."""
    if cell.strategy == "single":
        return f"python {target.name}"
    if cell.nodes > 1:
        each = -(-cell.gpus // cell.nodes)
        rendezvous = "--rdzv-backend c10d --rdzv-endpoint HOST:29500"
        return f"torchrun --nnodes {cell.nodes} --nproc-per-node {each} {rendezvous} {target.name}"
    return f"torchrun --standalone --nproc-per-node {cell.gpus} {target.name}"


# -- the user's functions ----------------------------------------------------------------------------------------------


def imported(name: str, cell: Cell) -> Imported:
    """Import a function as the script will.

    Raises:
        InputError: its file's name is none that Python can import.
    """
    place, _, function = name.rpartition(":")
    if place.endswith(".py"):
        path = (Path(cell.folder) / Path(place).expanduser()).resolve()
        folder, module = path.parent, path.stem
    else:
        folder, module = Path(cell.folder).resolve(), place
    first = module.partition(".")[0]
    if not all(part.isidentifier() for part in module.split(".")) or first in sys.stdlib_module_names:
        raise InputError(
            [f"{name}: a script cannot import a module called {module}; give the file another name, such as train.py"]
        )
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found = getattr(importlib.import_module(module), function)
    if function in OWN_NAMES:
        own = f"{first}_{function}"
        return Imported(found, folder, f"from {module} import {function} as {own}", own)
    return Imported(found, folder, f"from {module} import {function}", function)


def _joined(functions: list[Imported]) -> Iterator[str]:
    """Yield import lines, one for each module."""
    by_module: dict[str, list[str]] = {}
    for each in functions:
        module, _, names = each.line.partition(" import ")
        by_module.setdefault(module, []).append(names)
    for module, names in by_module.items():
        yield f"{module} import {', '.join(sorted(dict.fromkeys(names)))}"


def folders(functions: list[Imported], target: Path) -> list[str]:
    """Return the folders that Python does not search by itself, relative to the script's, as Python writes them."""
    here = target.resolve().parent
    there = dict.fromkeys(each.folder for each in functions if each.folder != here)
    return [f'"{Path(os.path.relpath(folder, here)).as_posix()}"' for folder in there]


def _changed(setup: Setup) -> Iterator[str]:
    """Yield what is no longer as it was."""
    now = setup.model.code_hash
    if setup.cell.code.get("model", now) != now:
        yield f"{setup.model.name} has changed since the cell ran; the script trains it as it is now"


# -- data --------------------------------------------------------------------------------------------------------------


def _raw(cell: Cell, plugins: tuple[str, ...]) -> RawData:
    _, dataset = entries_of(load_host(plugins), cell)
    with seeded(cell.seed, "data"):
        loaded: RawData = dataset.load(dataset.Options(**cell.workload.dataset.options))
    return for_loss(loaded, cell.workload.loss)


def _data(
    cell: Cell, setup: Setup, raw: RawData, model: Imported, target: Path
) -> tuple[DataLines, dict[str, dict[str, Any]], list[Imported]]:
    """Return the lines that read the data, arrays to be saved beside the script, and functions to import."""
    normalisation: Normalisation | None = None
    if raw.full_scale is not None and not isinstance(raw.train_inputs, dict):
        normalisation = measure_normalisation(raw.train_inputs, raw.full_scale)
    name = cell.workload.dataset.name
    if not is_user_function(name):
        file = f"{name}.npz"
        arrays = {"inputs": raw.train_inputs, "targets": raw.train_targets}
        lines = saved_lines(file, raw.train_inputs, raw.train_targets, setup.data.train, normalisation)
        return lines, {file: arrays}, []
    function = imported(name, cell)
    if function.name == model.name and function.line != model.line:
        function = replace(function, line=f"{function.line} as load_{function.name}", name=f"load_{function.name}")
    with seeded(cell.seed, "data"):
        result = function.function()
    return lines_for(result, f"{function.name}()", setup.data.train, normalisation), {}, [function]


# -- model and settings ------------------------------------------------------------------------------------------------


def _model(found: ModelFindings, model: Imported, setup: Setup, module: nn.Module) -> dict[str, Any]:
    values = {key: getattr(setup.shape, key) for key in MODEL_PARAMETERS}
    taken = inspect.signature(model.function).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in taken.values()):
        accepted = values
    else:
        accepted = {key: value for key, value in values.items() if key in taken}
    dtype = DTYPES[setup.cell.workload.precision]
    held = [t.dtype for t in (*module.parameters(), *module.buffers()) if t.is_floating_point()]
    with seeded(setup.cell.seed, "init"):
        built = model.function(**accepted)
    lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in built.parameters())
    return {
        "call": f"{model.name}({', '.join(f'{key}={value}' for key, value in accepted.items())})",
        "blank": _blank(setup.shape) if lazy else "",
        "convert": f".to({dtype})" if any(each != dtype for each in held) else "",
        "chain": found.chain,
        "draws": found.draws,
        "result": found.result,
        "buffers": bool(found.buffers),
    }


def _blank(shape: DataShape) -> str:
    """Return the Python for a batch of zeros."""

    def zeros(field: Any) -> str:
        dtype = "" if field.dtype == "float" else f", dtype=torch.{field.dtype}"
        return f"torch.zeros({', '.join(map(str, (2, *field.shape)))}{dtype})"

    fields = shape.inputs
    if len(fields) == 1 and not fields[0].name:
        return zeros(fields[0])
    return ", ".join(f"{field.name}={zeros(field)}" for field in fields)


def rate_lines(setup: Setup) -> list[str]:
    """Return the body of the function from samples to the learning rate; nothing where it never changes."""
    cell, num_train = setup.cell, setup.num_train
    schedule, warmup = cell.workload.lr_schedule, cell.workload.lr_warmup * num_train
    lines = [f"rate = LEARNING_RATE * min(1.0, (before + 1) / {warmup:.12g})  # warm-up"] if warmup else []
    rate = "rate" if warmup else "LEARNING_RATE"
    if schedule.name == "cosine":
        budget = setup.budget
        steps = budget.max_updates
        total = budget.max_samples or (steps * cell.global_batch_size if steps is not None else None) or num_train
        return [*lines, f"return {rate} * 0.5 * (1 + math.cos(math.pi * min(1.0, before / {total})))"]
    if schedule.name == "step":
        length, factor = schedule.options["epochs"] * num_train, schedule.options["factor"]
        return [*lines, f"return {rate} * {factor} ** (before // {length:.12g})"]
    return [*lines, f"return {rate}"] if lines else []


def optimizer_call(spec: Named, parameters: str) -> str:
    """Return the Python that makes the optimizer, with the options that differ from torch's own."""
    made = OPTIMIZER_CLASSES[spec.name]
    usual = inspect.signature(getattr(torch.optim, made)).parameters
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.options.items()}
    changed = "".join(f", {key}={value!r}" for key, value in options.items() if usual[key].default != value)
    return f"torch.optim.{made}({parameters}, lr=LEARNING_RATE{changed})"


# -- layouts -----------------------------------------------------------------------------------------------------------


def _layout(cell: Cell, setup: Setup, found: ModelFindings, placement: Any) -> dict[str, Any]:
    """Return what only some strategies need."""
    world, size = cell.gpus if cell.strategy != "single" else 1, cell.global_batch_size
    sizes = {size, setup.num_train % size or size}
    micro = cell.micro_batch_size or cell.batch_size
    trained = "[p for p in model.parameters() if p.requires_grad]" if found.frozen else "model.parameters()"
    staged = cell.strategy == "model-split"
    context: dict[str, Any] = {
        "pieces": any(-(-each // world) > micro for each in sizes),
        "piece": micro,
        "empties": any(each < world for each in sizes),
        "uneven": any(len({-(-each // micro) for each in _parts(total, world)}) > 1 for total in sizes),
        "optimizer": optimizer_call(cell.workload.optimizer, "parameters" if staged else trained),
        "static_graph": bool(cell.options.get("static_graph")),
        "ddp_options": _ddp_options(cell, found),
        "reshards": cell.options.get("shard", "parameters") == "parameters",
    }
    return context | (_pipeline(cell, sizes, micro, found, placement) if staged else {})


def _parts(total: int, world: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(total), world)]


def _ddp_options(cell: Cell, found: ModelFindings) -> str:
    options = {}
    if cell.options.get("bucket_mib", 25.0) != 25.0:
        options["bucket_cap_mb"] = cell.options["bucket_mib"]
    if cell.options.get("static_graph"):
        options["static_graph"] = True
    elif found.without_gradient:
        options["find_unused_parameters"] = True
    return "".join(f", {key}={value}" for key, value in options.items())


def _pipeline(cell: Cell, sizes: set[int], micro: int, found: ModelFindings, placement: Any) -> dict[str, Any]:
    """Return the stages and torch's schedules.

    Raises:
        InputError: torch's own pipeline cannot run them.
    """
    if not found.chain:
        raise InputError(
            [
                f"{found.name} is no plain nn.Sequential; torch's own pipeline runs stages that are sequences of layers. "
                "Export sync-ddp or fsdp, or write the model as one"
            ]
        )
    if placement is None:
        raise InputError(["the cell has no record of which layers were in which stage; run it again"])
    padded = any(each % micro for each in sizes)
    if padded and found.batch_norms:
        raise InputError(["its last micro-batch is filled up, which BatchNorm would count; choose sizes that divide"])
    wanted, with_few = PIPELINE_SCHEDULES[cell.options["schedule"]]
    stages, counts = [list(stage) for stage in placement], {-(-each // micro) for each in sizes}
    several = wanted.startswith("ScheduleInterleaved")
    few = min(counts) < len(stages) and not several
    if several or few:
        rounds = {count: max(1, count // cell.gpus) for count in counts if several or count < len(stages)}
        odd = [count for count, each in rounds.items() if count % each]
        if odd:
            raise InputError(
                [f"torch's {wanted} cannot run {odd[0]} micro-batches on {cell.gpus} devices; choose sizes that divide"]
            )
    schedules = (wanted, with_few if few else wanted)
    return {
        "stages": [repr(stage).replace("'", '"') for stage in stages],
        "schedules": schedules,
        "schedule_names": sorted(set(schedules)),
        "several": several,
    }
