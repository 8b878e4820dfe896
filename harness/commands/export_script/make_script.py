"""Make a cell's script in a process of its own: see model and data, fill a template, prove it. Imports torch."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from torch import nn

from harness.api.host import load_host
from harness.commands.export_script.data_lines import DataLines, lines_for, saved_lines
from harness.commands.export_script.loss_lines import loss_lines, own_loss_lines
from harness.commands.export_script.pipeline_stages import PipelineStages, Stages
from harness.commands.export_script.prove_script import SavedFiles, Wanted, prove_parts
from harness.commands.export_script.user_imports import UserImport, UserImports
from harness.core.errors import InputError
from harness.core.streams import stream_seed
from harness.engines.shared.layer_timing import blocks_of
from harness.engines.shared.loads import DATA_SEED
from harness.engines.shared.look_at import describe_module
from harness.engines.shared.optimizers import CLASSES, OwnOptimizer
from harness.engines.shared.own_parts import what_it_takes
from harness.engines.shared.replica import DTYPES, build_module, convert, seeded
from harness.engines.shared.setup import Setup, entries_of, make_setup
from harness.workloads.batches import Samples
from harness.workloads.data import SPLIT_SEED, Normalisation, measure_normalisation
from harness.workloads.entries import IGNORED, DataShape, Feature, RawData
from harness.workloads.own_data import for_loss
from harness.workloads.user import MODEL_PARAMETERS
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.core.cell import Cell, Named
    from harness.engines.shared.findings import ModelFindings
    from harness.engines.shared.replica import Replica
    from harness.engines.shared.shown import Trial

Context = dict[str, object]
"""What a template is filled with."""

TRAINED_HOW = {
    "single": "on one device",
    "sync-ddp": "with DistributedDataParallel",
    "fsdp": "with fully_shard",
    "zero-2": "with fully_shard, parameters whole while they compute",
    "hsdp": "with fully_shard inside groups that are replicas of each other",
    "model-split": "as a pipeline",
    "local-sgd": "by local SGD",
}


SHARDED = ("fsdp", "zero-2", "hsdp")
"""Strategies whose scripts call fully_shard."""


@dataclass(frozen=True)
class PlainScript:
    """A script, and the arrays that it reads.

    Attributes:
        arrays: name of a file beside the script to arrays by name; empty where the user's function loads the data.
        notes: what the user should know.
    """

    text: str
    arrays: SavedFiles
    notes: tuple[str, ...]


def make_script(
    cell: Cell, steps: int, placement: Stages | None, target: Path, plugins: tuple[str, ...]
) -> PlainScript:
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
    if not isinstance(data.train, Samples):
        raise InputError([f"{work.dataset.name}: its samples are read as they are needed; scripts keep all in memory"])
    module = build_module(setup.model, setup.model.Options(**work.model.options), setup.shape, cell.seed)
    replica = setup.replica()
    trial = setup.trial
    assert trial is not None  # the model is the user's own
    found = describe_module(work.model.name, module, data, trial.without_gradient, trial.draws, work.precision)
    notes = [*_changed(setup)]
    imports = UserImports(cell)
    model = imports.add("workload.model", work.model.name)
    lines, arrays = _data(setup, _raw(cell, plugins), imports)
    recompute = bool(cell.options.get("recompute"))
    context = {
        "cell": cell,
        "steps": steps,
        "data": lines,
        "model": _model(found, model, setup, module, trial),
        "loss_lines": _loss(setup, found, imports),
        "rate_lines": rate_lines(setup, imports),
        "optimizer": _optimizer(setup, found, imports),
        "own_optimizer": isinstance(setup.optimizer, OwnOptimizer),
        "ragged": setup.counts is not None,
        "ignored": IGNORED,
        "split_seed": SPLIT_SEED,
        "held_out": len(data.validation),
        "clip_norm": work.clip_norm,
        "bf16": work.precision == "bf16",
        "dtype": DTYPES[work.precision],
        "recompute": recompute,
        "leaves_traces": bool(found.buffers) or draws_elsewhere(trial),
        "blocks": [name for name, _ in blocks_of(replica)] if recompute and not found.chain else [],
        "data_seed": stream_seed(DATA_SEED, "data"),
        "imports": imports.lines(),
        "folders": imports.folders(target),
        "distributed": cell.strategy != "single",
        "staged": cell.strategy == "model-split",
        "listed": False,
        "title": f"Train {_short(work.model.name)} on {_short(work.dataset.name)} {TRAINED_HOW[cell.strategy]}.",
        "command": command(cell, target),
    }
    _refuse_idle_norms(cell, setup.num_train, trial)
    context |= _layout(cell, setup, found, placement, trial)
    sharded = cell.strategy in SHARDED
    if sharded:
        from harness.engines.real.layouts.sharded import computes_in_halves

        context |= {"units": _units(replica), "halved": computes_in_halves(replica, cell.device)}
    context["in_place"] = any(getattr(part, "inplace", False) for part in module.modules())
    text = filled_in(f"{'fsdp' if sharded else cell.strategy}.py.j2", context)
    prove_parts(text, target, Wanted(setup, convert(module, torch.device("cpu"), DTYPES[work.precision])), arrays)
    return PlainScript(text, arrays, tuple(notes))


def _short(name: str) -> str:
    """Return a function's name with its file, without folders."""
    return name.replace("\\", "/").rpartition("/")[2]


def filled_in(template: str, context: Context) -> str:
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


def _changed(setup: Setup) -> Iterator[str]:
    """Yield what is no longer as it was."""
    now = setup.model.code_hash
    if setup.cell.code.get("model", now) != now:
        yield f"{setup.model.name} has changed since the cell ran; the script trains it as it is now"


# -- data --------------------------------------------------------------------------------------------------------------


def _raw(cell: Cell, plugins: tuple[str, ...]) -> RawData:
    _, dataset = entries_of(load_host(plugins), cell)
    with seeded(DATA_SEED, "data"):
        loaded: RawData = dataset.load(dataset.Options(**cell.workload.dataset.options))
    return for_loss(loaded, cell.workload.loss)


def _data(setup: Setup, raw: RawData, imports: UserImports) -> tuple[DataLines, SavedFiles]:
    """Return the lines that read the data, and arrays to be saved beside the script."""
    normalisation: Normalisation | None = None
    if raw.full_scale is not None and not raw.vocabulary and not isinstance(raw.train_inputs, dict):
        normalisation = measure_normalisation(raw.train_inputs, raw.full_scale)
    name = setup.cell.workload.dataset.name
    if not is_user_function(name):
        file = f"{name}.npz"
        arrays = {"inputs": raw.train_inputs, "targets": raw.train_targets}
        lines = saved_lines(file, raw.train_inputs, raw.train_targets, setup.data.train, normalisation)
        return lines, {file: arrays}
    function = imports.add("workload.dataset", name)
    with seeded(DATA_SEED, "data"):
        result = function.function()
    try:
        lines = lines_for(result, f"{function.call}()", setup.data.train, normalisation)
    except (TypeError, ValueError, KeyError, IndexError) as error:
        raise InputError([f"{name}: scripts do not read such data: {type(error).__name__}: {error}"]) from None
    return lines, {}


# -- model and settings ------------------------------------------------------------------------------------------------


def _model(found: ModelFindings, model: UserImport, setup: Setup, module: nn.Module, trial: Trial) -> Context:
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
    assert isinstance(built, nn.Module)
    lazy = any(isinstance(p, nn.parameter.UninitializedParameter) for p in built.parameters())
    return {
        "call": f"{model.call}({', '.join(f'{key}={value}' for key, value in accepted.items())})",
        "blank": _blank(setup.shape) if lazy else "",
        "convert": f".to({dtype})" if any(each != dtype for each in held) else "",
        "chain": found.chain,
        "draws": found.draws,
        "draws_elsewhere": draws_elsewhere(trial),
        "sparse": any(getattr(part, "sparse", False) is True for part in built.modules()),
        "sparse_parameters": [name for name in trial.sparse if not hasattr(_owner(module, name), "sparse")],
        "result": found.result,
        "buffers": bool(found.buffers),
    }


def draws_elsewhere(trial: Trial) -> bool:
    """Whether a forward pass draws from generators that are not torch's."""
    return bool({"random", "numpy"} & set(trial.generators))


def _owner(module: nn.Module, parameter: str) -> nn.Module:
    return module.get_submodule(parameter.rpartition(".")[0])


def _blank(shape: DataShape) -> str:
    """Return the Python for a batch of zeros."""

    def zeros(field: Feature) -> str:
        dtype = "" if field.dtype == "float" else f", dtype=torch.{field.dtype}"
        return f"torch.zeros({', '.join(map(str, (2, *field.shape)))}{dtype})"

    fields = shape.inputs
    if len(fields) == 1 and not fields[0].name:
        return zeros(fields[0])
    return ", ".join(f"{field.name}={zeros(field)}" for field in fields)


def _loss(setup: Setup, found: ModelFindings, imports: UserImports) -> list[str]:
    """Return the body of the function from outputs and targets to the sum of the losses."""
    loss, ragged = setup.loss, setup.counts is not None
    if not isinstance(loss, str):
        return own_loss_lines(imports.add("workload.loss", loss.name).call, loss.reduces, ragged)
    low_precision = setup.cell.workload.precision == "bf16"
    return loss_lines(loss, found.outputs, setup.data.train.targets, ragged, low_precision)


def rate_lines(setup: Setup, imports: UserImports) -> list[str]:
    """Return the body of the function from samples to the learning rate; nothing where it never changes."""
    cell, num_train = setup.cell, setup.num_train
    schedule, warmup = cell.workload.lr_schedule, cell.workload.lr_warmup * num_train
    lines = [f"rate = LEARNING_RATE * min(1.0, (before + 1) / {warmup:.12g})  # warm-up"] if warmup else []
    rate = "rate" if warmup else "LEARNING_RATE"
    if is_user_function(schedule.name):
        own, an_epoch = imports.add("workload.lr_schedule", schedule.name), -(-num_train // cell.global_batch_size)
        counted = f"epochs, rest = divmod(before, {num_train})"
        return [*lines, counted, f"return {rate} * {own.call}(epochs * {an_epoch} + rest // BATCH)"]
    if schedule.name == "cosine":
        budget = setup.budget
        steps = budget.max_updates
        total = budget.max_samples or (steps * cell.global_batch_size if steps is not None else None) or num_train
        return [*lines, f"return {rate} * 0.5 * (1 + math.cos(math.pi * min(1.0, before / {total})))"]
    if schedule.name == "step":
        length, factor = schedule.options["epochs"] * num_train, schedule.options["factor"]
        return [*lines, f"return {rate} * {factor} ** (before // {length:.12g})"]
    asked = lines or isinstance(setup.optimizer, OwnOptimizer)
    return [*lines, f"return {rate}"] if asked else []


def _optimizer(setup: Setup, found: ModelFindings, imports: UserImports) -> str:
    """Return the Python that makes the optimizer."""
    spec, cell = setup.optimizer, setup.cell
    if not isinstance(spec, OwnOptimizer):
        # A device of a pipeline keeps its own of them only, and some hold none that are trained.
        trained = found.frozen and cell.strategy != "model-split"
        return optimizer_call(spec, f"[p for p in {_PARAMETERS} if p.requires_grad]" if trained else _PARAMETERS)
    own = imports.add("workload.optimizer", spec.name)
    form, rates = what_it_takes(own.function)
    model = "model.module" if cell.strategy == "sync-ddp" else "model"
    first = {
        "model": model,
        "parameters": f"{model}.parameters()",
        "named_parameters": f"list({model}.named_parameters())",
    }[form]
    return f"{own.call}({', '.join([first, *(f'{name}=LEARNING_RATE' for name in rates)])})"


_PARAMETERS = "model.parameters()"


def optimizer_call(spec: Named, parameters: str) -> str:
    """Return the Python that makes one of torch's optimizers, with the options that differ from torch's own."""
    made = CLASSES[spec.name].__name__
    usual = inspect.signature(getattr(torch.optim, made)).parameters
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in spec.options.items()}
    changed = "".join(f", {key}={value!r}" for key, value in options.items() if usual[key].default != value)
    return f"torch.optim.{made}({parameters}, lr=LEARNING_RATE{changed})"


# -- layouts -----------------------------------------------------------------------------------------------------------


def _layout(cell: Cell, setup: Setup, found: ModelFindings, placement: Stages | None, trial: Trial) -> Context:
    """Return what only some strategies need."""
    world, size = cell.gpus if cell.strategy != "single" else 1, cell.global_batch_size
    sizes = {size, setup.num_train % size or size}
    micro = cell.micro_batch_size or cell.batch_size
    context: Context = {
        "pieces": any(-(-each // world) > micro for each in sizes),
        "piece": micro,
        "empties": any(each < world for each in sizes),
        "uneven": any(len({-(-each // micro) for each in _parts(total, world)}) > 1 for total in sizes),
        "static_graph": bool(cell.options.get("static_graph")) or (trial.reentrant and trial.unused),
        "ddp_options": _ddp_options(cell, trial),
        "reshards": setup.layout.shard == "parameters",
        "group": setup.layout.shard_group,
    }
    staged = cell.strategy == "model-split"
    return context | (PipelineStages(setup, found, placement, frozenset(sizes)).context() if staged else {})


def _refuse_idle_norms(cell: Cell, num_train: int, trial: Trial) -> None:
    """Refuse a last batch with fewer samples than devices, where BatchNorm would count what only fills up."""
    rest = num_train % cell.global_batch_size
    if trial.norms and 0 < rest < cell.gpus:
        raise InputError(
            [
                f"the last batch of an epoch has {rest} samples for {cell.gpus} devices, and BatchNorm would count "
                "what fills it up; choose another global_batch_size"
            ]
        )


def _units(replica: Replica) -> list[str]:
    """Return the names of the blocks that fully_shard gathers each for itself.

    Raises:
        InputError: a parameter has no axis to be cut along.
    """
    from harness.engines.real.layouts.sharded import units_of

    odd = [name for name, p in replica.module.named_parameters() if p.dim() == 0]
    if odd:
        raise InputError([f"{odd[0]} is a single number, which fully_shard cannot share out; give it the shape (1,)"])
    return [name for name, block in units_of(replica) if any(True for _ in block.parameters())]


def _parts(total: int, world: int) -> list[int]:
    return [len(part) for part in np.array_split(np.arange(total), world)]


def _ddp_options(cell: Cell, trial: Trial) -> str:
    options: Context = {}
    unused = trial.unused or cell.workload.find_unused_parameters
    if cell.options.get("bucket_mib", 25.0) != 25.0:
        options["bucket_cap_mb"] = cell.options["bucket_mib"]
    if cell.options.get("static_graph") or (trial.reentrant and unused):
        options["static_graph"] = True
    elif unused:
        options["find_unused_parameters"] = True
    return "".join(f", {key}={value}" for key, value in options.items())
