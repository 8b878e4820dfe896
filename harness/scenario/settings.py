"""Everything in a scenario but the sweep, judged and completed with defaults, for one combination of swept keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from harness.api.strategy import Options
from harness.core.budget import Goal
from harness.core.cell import Loading, Measure, Named, Workload
from harness.core.code_hash import file_hash
from harness.core.errors import HarnessError, InputError, one_of
from harness.core.faults import Faults
from harness.core.given_cluster import ClusterFigures, DeviceFigures, GivenServers, StepFigures, is_elsewhere
from harness.core.metrics import ACCURACIES, WORDS
from harness.core.number_formats import AS_USUAL, NOT_TRAINED, PRECISIONS, Formats
from harness.core.records import Json, to_json
from harness.core.words import listed
from harness.costs.catalogue import ARITHMETIC
from harness.scenario.mistakes import ABSENT, Source, validated, wordings
from harness.scenario.optimizer_options import OPTIMIZERS
from harness.scenario.override import put, resolve_key
from harness.scenario.resolve_cluster import resolve
from harness.scenario.schema import (
    EPOCHS_BY_DEFAULT,
    LR_SCHEDULES,
    NOT_SWEPT,
    STEPS_WITHOUT_TARGET,
    Document,
    FormatsSection,
    LoadingSection,
    WorkloadSection,
    key_paths,
)
from harness.scenario.toml_lines import Path
from harness.scenario.without_data import is_without_data, read_given, refuse_training
from harness.workloads.entries import seen_shape, training_size
from harness.workloads.user_files import UserFunctionError, find_user_function, is_user_function

if TYPE_CHECKING:
    from harness.api.host import Host

EVALUATE_BY_DEFAULT = "0.25 epoch"


@dataclass(frozen=True)
class Settings:
    """What holds for all points that share one combination of swept keys.

    Attributes:
        swept: keys swept by their path, as they were written.
        learning_rate: the model's own, used where the sweep gives none.
        code: hashes of the code of model and data set, and of data that lies in the user's own files.
        dataset_entry: what the workload's data set is called in the host, with its options.
        batch_norm: the model is a registered one with BatchNorm.
        timing_only: the workload has no mathematics.
        dram_bytes: cap on one device's memory that the scenario sets.
        context_bytes: what no tensor takes of it; None: as is usual.
        per_gpu_hour: price of a device, in `currency`.
        profile_id: hash of the file that the workload's times are from.
    """

    swept: Json
    engine: str
    device: str
    threads_per_device: int
    workload: Workload
    goal: Goal
    cluster: ClusterFigures
    measure: Measure
    faults: Faults
    cell_timeout_s: float
    learning_rate: float
    code: dict[str, str]
    dataset_entry: tuple[Any, Any] = field(repr=False, compare=False)
    batch_norm: bool = False
    timing_only: bool = False
    dram_bytes: int | None = None
    context_bytes: int | None = None
    per_gpu_hour: float | None = None
    currency: str = ""
    profile_id: str = ""

    def num_train(self) -> int | None:
        """Return the number of samples that are trained on; None where only loading tells.

        Raises:
            HarnessError: the data set's files are missing or cannot be read.
        """
        entry, options = self.dataset_entry
        if entry is None:
            return None
        size = entry.size(options)
        return None if size is None else training_size(size.num_train, self.goal.validation_fraction)


@dataclass(frozen=True)
class Entry:
    """A name from the scenario that was found, with its options."""

    entry: Any
    options: Any

    def named(self, name: str) -> Named:
        """Return it as a cell has it, defaults filled in."""
        return Named(name, self.options.model_dump(mode="json"))


def read_settings(
    content: Mapping[str, object], swept: Mapping[str, object], host: Host, folder: FilePath, source: Source
) -> Settings | None:
    """Return the settings with `swept` written over `content`, or None after adding the problems to `source`."""
    content = {key: value for key, value in content.items() if key not in ("sweep", "strategy")}
    for path, value in swept.items():
        put(content, path, value)
    source = _lines_of_swept(source, swept)
    # The names in the workload are worth judging too where other keys do not hold.
    document = _document(content, source) or _without_problems(content, source)
    entries = _entries(document.workload, host, folder, source)
    cluster = resolve(document.cluster, host, folder, source)
    if entries is None or cluster is None:
        return None
    if is_without_data(document.workload.model):
        refuse_training(content, source)
    _refuse_precision(document.workload.precision, cluster.device, source)
    _refuse_tf32(document.workload.tf32, cluster.device, source)
    _refuse_servers(document.engine, cluster, source)
    _refuse_gradients(document, cluster, source)
    return _completed(document, dict(swept), entries, cluster, source)


def _refuse_precision(precision: str, device: DeviceFigures | StepFigures | None, source: Source) -> None:
    if isinstance(device, DeviceFigures) and ARITHMETIC.get(precision, precision) not in device.peak_flops_per_s:
        known = ", ".join(name for name in PRECISIONS if ARITHMETIC.get(name, name) in device.peak_flops_per_s)
        source.problem(("workload", "precision"), f"{device.name} supports {known}; choose one of these", precision)


def _refuse_training_in(document: Document, simulated: bool, source: Source) -> None:
    """Refuse a precision whose losses would have to be scaled, where anything is trained in it."""
    precision = document.workload.precision
    if precision in NOT_TRAINED and not simulated and not source.problems:  # with problems this is half a scenario
        problem = (
            "nothing is trained in it, since losses are not scaled; choose bf16, or only time it: on simulated devices "
            "(cluster.preset or cluster.device) and without a target or evaluations"
        )
        source.problem(("workload", "precision"), problem, precision)


def _refuse_tf32(tf32: bool | None, device: DeviceFigures | StepFigures | None, source: Source) -> None:
    if tf32 and isinstance(device, DeviceFigures) and "tf32" not in device.peak_flops_per_s:
        source.problem(("workload", "tf32"), f"{device.name} does not compute in TF32; remove this key", tf32)


def _refuse_servers(engine: str, cluster: ClusterFigures, source: Source) -> None:
    """Refuse servers of a cluster whose cells may be real, but for where they run.

    There the strategy's own processes serve, on hosts, and exchange whole values between steps.
    """
    servers = cluster.servers
    if servers is None or engine == "virtual" or is_elsewhere(cluster):
        return
    only_placed = replace(servers, placement="cpu") == GivenServers("cpu", overlap=False)
    if not only_placed or servers.placement == "gpu":
        problem = (
            'needs a simulated cluster: set cluster.preset, cluster.device or engine = "virtual", or remove this key; '
            'where cells may be real it says only on which machine servers run: { placement = "dedicated", overlap = '
            "false }"
        )
        source.problem(("cluster", "servers"), problem, servers.placement)


def _simulated(document: Document, cluster: ClusterFigures) -> bool:
    """Say whether all cells run on devices that are not this machine's."""
    return is_elsewhere(cluster) and document.engine in ("auto", "virtual")


def _refuse_gradients(document: Document, cluster: ClusterFigures, source: Source) -> None:
    """Refuse number formats where cells may be real: there torch's DDP and fully_shard decide."""
    if _simulated(document, cluster):
        return
    problem = "needs simulated devices: set cluster.preset or cluster.device, or remove this key"
    for key in ("gradients", "formats"):
        said = getattr(document.workload, key)
        if said:
            source.problem(("workload", key), problem, said if isinstance(said, str) else "a table")


def _lines_of_swept(source: Source, swept: Mapping[str, object]) -> Source:
    """Let problems of a swept value point to [sweep], where it stands."""
    lines, sets = dict(source.lines), dict(source.sets)
    for path in swept:
        key, written = tuple(path.split(".")), ("sweep", path)
        nested = ("sweep", *key)
        sets |= {key: sets[written]} if written in sets else {}
        lines |= {key: source.lines.get(written) or source.lines.get(nested, 0)}
    return replace(source, lines=lines, sets=sets)


def _document(content: Mapping[str, object], source: Source) -> Document | None:
    try:
        return Document.model_validate({**content, "sweep": {"strategy": "any"}})
    except ValidationError as error:
        for path, allowed, got in wordings(error, Document, content):
            source.problem(path, allowed + _where_instead(path, got), got)
        return None


def _where_instead(path: Path, got: object) -> str:
    """Say where a list, or a key of another table, belongs."""
    dotted = ".".join(str(part) for part in path)
    lists = ("faults.stragglers", "faults.deaths")
    if isinstance(got, list) and dotted in key_paths() and not dotted.startswith((*NOT_SWEPT, *lists)):
        return f'; to sweep it, write "{dotted}" = [...] in [sweep]'
    elsewhere, _ = resolve_key(str(path[-1]), key_paths()) if path else (None, "")
    return f"; did you mean {elsewhere}?" if got is ABSENT and elsewhere and elsewhere != dotted else ""


def _without_problems(content: Mapping[str, object], source: Source) -> Document:
    """Return the scenario's workload with every key that does not hold replaced by its default."""
    quiet = Source(source.where)
    workload = content.get("workload")
    kept = dict(workload) if isinstance(workload, dict) else {}
    kept = {key: value for key, value in kept.items() if validated(WorkloadSection, {key: value}, quiet) is not None}
    return Document.model_validate({"workload": kept, "sweep": {"strategy": "any"}})


def _entries(workload: WorkloadSection, host: Host, folder: FilePath, source: Source) -> dict[str, Entry] | None:
    found = {
        "model": _model(workload.model, host, folder, source),
        "dataset": NO_DATA
        if is_without_data(workload.model)
        else _registered("dataset", workload.dataset, host, folder, source),
        "optimizer": _builtin_or_own("optimizer", workload.optimizer, OPTIMIZERS, folder, source),
        "lr_schedule": _builtin_or_own("lr_schedule", workload.lr_schedule, LR_SCHEDULES, folder, source),
        "loss": _named_or_own("loss", workload.loss, folder, source),
        "metric": _named_or_own("metric", workload.metric.name if workload.metric else "", folder, source),
    }
    entries = {key: entry for key, entry in found.items() if entry is not None}
    return entries if len(entries) == len(found) else None


def _builtin_or_own(
    key: str, named: Named, known: Mapping[str, type[BaseModel]], folder: FilePath, source: Source
) -> Entry | None:
    """Return the options of a built-in optimizer or schedule, or the user's function with none."""
    path = ("workload", key)
    if not is_user_function(named.name):
        return builtin(path, named, known, source, besides="; or write FILE.py:FUNCTION for a function of your own")
    for option in named.options:
        source.problem((*path, option), f"no such key; {named.name} sets its options itself")
        return None
    return _own(path, named.name, folder, source)


def _named_or_own(key: str, name: str, folder: FilePath, source: Source) -> Entry | None:
    return _own(("workload", key), name, folder, source) if is_user_function(name) else Entry(None, Options())


def _own(path: tuple[str, ...], name: str, folder: FilePath, source: Source) -> Entry | None:
    try:
        return Entry(find_user_function(".".join(path), name, folder), Options())
    except UserFunctionError as error:
        source.problem(path, error.problem, name)
        return None


NO_DATA = Entry(None, Options())
"""What a model without mathematics reads."""


def _model(named: Named, host: Host, folder: FilePath, source: Source) -> Entry | None:
    if not is_without_data(named):
        return _registered("model", named, host, folder, source)
    given = read_given(named, folder, source)
    return None if given is None else Entry(*given)


def builtin(
    path: tuple[str, ...], named: Named, known: Mapping[str, type[BaseModel]], source: Source, besides: str = ""
) -> Entry | None:
    """Return the options of an optimizer or schedule, or None after adding what is wrong.

    Args:
        besides: what is allowed besides the names.
    """
    if named.name not in known:
        source.problem(path, one_of(named.name, known) + besides, named.name)
        return None
    for key in {"lr", "learning_rate"} & set(named.options):
        source.problem((*path, key), "no such key; set the rate in sweep.learning_rate")
        return None
    fusable = [name for name, options in known.items() if "fused" in options.model_fields]
    if "fused" in named.options and fusable and named.name not in fusable:
        source.problem((*path, "fused"), f"no such key; torch has fused kernels of {listed(fusable)} only")
        return None
    options = validated(known[named.name], named.options, source, path)
    return None if options is None else Entry(None, options)


def _registered(kind: str, named: Named, host: Host, folder: FilePath, source: Source) -> Entry | None:
    path = ("workload", kind)
    known: Mapping[str, Any] = host.models if kind == "model" else host.datasets
    entry = known.get(named.name)
    if entry is None and is_user_function(named.name):
        entry = _user_function(kind, named.name, folder, source)
        if entry is None:
            return None
    if entry is None:
        refuse_name(
            source, path, named.name, known, host, besides="; or write FILE.py:FUNCTION for a function of your own"
        )
        return None
    options = validated(entry.Options, named.options, source, path)
    return None if options is None else Entry(entry, options)


def refuse_name(source: Source, path: Path, name: str, known: Iterable[str], host: Host, besides: str = "") -> None:
    """Add the problem that there is no such name: which there are, or why the plugin that should bring it is broken.

    Args:
        besides: what is allowed besides the names.
    """
    reason = host.why_broken(name)
    if reason is not None:
        source.broken_plugin = True
        return source.problem(path, f"the plugin is broken: {reason}", name)
    names = sorted(known)
    source.problem(path, one_of(name, names, "harness plugins") + besides, name)


def _user_function(kind: str, name: str, folder: FilePath, source: Source) -> object:
    from harness.workloads.user import user_dataset, user_model

    try:
        return user_model(name, folder) if kind == "model" else user_dataset(name, folder)
    except UserFunctionError as error:
        source.problem(("workload", kind), error.problem, name)
        return None


def _completed(
    document: Document,
    swept: Json,
    entries: dict[str, Entry],
    cluster: ClusterFigures,
    source: Source,
) -> Settings | None:
    dataset = entries["dataset"].entry
    default = dataset.target_accuracy if dataset and _metric(document)[0] in ("", *ACCURACIES) else None
    goal = _goal(document, default, source)
    code = _code(document.workload, entries, source) if dataset else {}
    if goal is None or code is None or not _fit(entries, source):
        return None
    timed = _simulated(document, cluster) and (dataset is None or goal.evaluate_every is None)
    _refuse_training_in(document, timed, source)
    price = document.cost.per_gpu_hour or {}
    interval_s = document.measure.telemetry_interval
    assert interval_s is not None  # it has a default
    return Settings(
        swept=swept,
        engine=document.engine,
        device=document.device,
        threads_per_device=document.threads_per_device,
        workload=_workload(document, entries),
        goal=goal,
        cluster=cluster,
        measure=Measure(document.measure.warmup_steps, interval_s),
        faults=_faults(document),
        cell_timeout_s=document.limits.cell_timeout or 0.0,
        learning_rate=entries["model"].entry.learning_rate,
        code=code,
        dataset_entry=(dataset, entries["dataset"].options),
        batch_norm=dataset is not None and entries["model"].entry.batch_norm,
        timing_only=dataset is None,
        dram_bytes=document.limits.dram,
        context_bytes=document.limits.context,
        per_gpu_hour=price.get("amount"),
        currency=price.get("currency", ""),
        profile_id=entries["model"].entry.file_hash if dataset is None else "",
    )


def _fit(entries: Mapping[str, Entry], source: Source) -> bool:
    """Add a problem where the shape of the data, as far as it is known unread, is none that the model takes."""
    model, dataset = entries["model"], entries["dataset"]
    size = dataset.entry.size(dataset.options) if dataset.entry is not None else None
    if size is None:
        return True
    try:
        shape = seen_shape(size.shape, model.entry)
        if model.entry.check is not None:
            model.entry.check(model.options, shape)
    except InputError as error:
        for problem in error.problems:
            source.add(("workload", "dataset"), problem)
        return False
    return True


def _faults(document: Document) -> Faults:
    """Return the faults that there are; wherever cells may be real, jitter only delays, on all of them alike."""
    written = document.faults
    floor = 1.0 if written.compute_jitter and document.engine != "virtual" else 0.0
    return Faults(written.compute_jitter, tuple(written.stragglers), tuple(written.deaths), floor)


def _metric(document: Document) -> tuple[str, str]:
    """Return the metric and its direction as a cell has them: the workload's, or that of the target."""
    metric, target = document.workload.metric, document.goal.target
    if metric is not None:
        return metric.name, metric.better or ""
    return (target.metric, "") if target is not None and target.metric != LOSS_AS_TARGET else ("", "")


def _workload(document: Document, entries: dict[str, Entry]) -> Workload:
    workload = document.workload
    names = {key: getattr(workload, key).name for key in entries if key not in ("loss", "metric")}
    if is_without_data(workload.model):
        names |= {"model": entries["model"].entry.name, "dataset": "none"}
    return Workload(
        **{key: entries[key].named(name) for key, name in names.items()},
        loss=workload.loss,
        precision=workload.precision,
        lr_warmup=workload.lr_warmup,
        clip_norm=workload.clip_norm,
        step=workload.step,
        loading=_loading(workload.loading),
        sync_batchnorm=workload.sync_batchnorm,
        find_unused_parameters=workload.find_unused_parameters,
        metric=_metric(document)[0],
        metric_better=_metric(document)[1],
        channels_last=workload.channels_last,
        tf32=workload.tf32,
        gradients=workload.gradients or "",
        input=workload.input,
        formats=_formats(workload.formats),
    )


def _formats(section: FormatsSection | None) -> Formats:
    said = {} if section is None else section.model_dump(exclude_none=True)
    return Formats(**said) if said else AS_USUAL


def _loading(section: LoadingSection | None) -> Loading:
    if section is None:
        return Loading()
    stays = section.resident if isinstance(section.resident, str) else "yes" if section.resident else "no"
    return Loading(section.workers, section.prefetch, section.pin_memory, stays)


LOSS_AS_TARGET = "loss"
"""What goal.target calls the loss."""


def _target(document: Document, source: Source) -> Goal | None:
    """Return the targets alone: goal.target says in one form what three keys say; None after adding a problem."""
    goal, named = document.goal, _metric(document)[0]
    target, accuracy = goal.target, goal.target_accuracy
    if named and named not in ACCURACIES and isinstance(accuracy, float):
        source.problem(("goal", "target_accuracy"), f"workload.metric is {named}; write goal.target", accuracy)
        return None
    if target is None:
        return Goal(accuracy if isinstance(accuracy, float) else None, goal.target_loss)
    if accuracy not in (None, "none") or goal.target_loss is not None:
        source.problem(("goal", "target"), "give target, target_accuracy or target_loss, not several")
        return None
    if target.metric == LOSS_AS_TARGET:
        return Goal(target_loss=target.value)
    if document.workload.metric and target.metric != named:
        allowed = f'"{named}", which is workload.metric, or "loss"'
        source.problem(("goal", "target", "metric"), allowed, target.metric)
        return None
    if not document.workload.metric and target.metric not in WORDS:
        source.problem(("goal", "target", "metric"), one_of(target.metric, (LOSS_AS_TARGET, *WORDS)), target.metric)
        return None
    if target.metric in ACCURACIES:
        if not 0 < target.value <= 1:
            source.problem(("goal", "target", "value"), "a share above 0 and up to 1, such as 0.95", target.value)
            return None
        return Goal(target_accuracy=target.value)
    return Goal(target_metric=target.value)


def _goal(document: Document, target_of_dataset: float | None, source: Source) -> Goal | None:
    """Complete the goal: the data set's own target, ten epochs, or sixty steps where there is nothing to reach."""
    goal, given = document.goal, _target(document, source)
    if given is None:
        return None
    if goal.target_accuracy not in (None, "none") and goal.target_loss is not None:
        source.problem(("goal", "target_loss"), "give target_accuracy or target_loss, not both", goal.target_loss)
        return None
    epochs, steps = goal.max_epochs, goal.max_steps
    limited = any(limit is not None for limit in (epochs, steps, goal.max_seconds))
    accuracy = "none" if goal.target_accuracy == "none" else given.target_accuracy
    others = given.target_loss is not None or given.target_metric is not None
    if accuracy is None and not others:
        accuracy = target_of_dataset
    no_target = accuracy in (None, "none") and not others
    speed_only = no_target and (accuracy == "none" or not limited)
    if not limited and speed_only:
        steps = STEPS_WITHOUT_TARGET
    elif not limited:
        epochs = float(EPOCHS_BY_DEFAULT)
    return Goal(
        target_accuracy=None if isinstance(accuracy, str) else accuracy,
        target_loss=given.target_loss,
        target_metric=given.target_metric,
        max_epochs=epochs,
        max_steps=steps,
        max_seconds=goal.max_seconds,
        evaluate_every=goal.evaluate_every or (None if speed_only else EVALUATE_BY_DEFAULT),
        validation_fraction=goal.validation_fraction,
    )


def _code(workload: WorkloadSection, entries: dict[str, Entry], source: Source) -> dict[str, str] | None:
    """Hash what names and options do not identify: the code behind them, and data in files of the user's own."""
    model, dataset = entries["model"].entry, entries["dataset"]
    code = {"model": model.code_hash, "dataset": dataset.entry.code_hash}
    owns = {key: entries[key].entry for key in ("loss", "metric", "optimizer", "lr_schedule")}
    code |= {key: file_hash(own.file.path, own.file.text) for key, own in owns.items() if own is not None}
    if not any(isinstance(value, FilePath) for _, value in dataset.options):
        return code
    try:
        checksum = dataset.entry.checksum(dataset.options)
    except (HarnessError, OSError) as error:
        source.problem(("workload", "dataset"), " ".join(str(error).split()), to_json(workload.dataset))
        return None
    return code | ({"data": checksum} if checksum else {})
