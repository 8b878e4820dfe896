"""What is run: a cell, the plan that holds all cells, and the id that follows from what decides the outcome."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.core.budget import Goal
from harness.core.faults import NO_FAULTS, Faults
from harness.core.given_cluster import ClusterFigures
from harness.core.machine import Machine
from harness.core.number_formats import AS_USUAL, Formats, FormatWord, ScalarBytes, scalar_bytes
from harness.core.records import Json, to_json
from harness.core.slurm_options import SITES_OWN, SlurmOptions

RECORD_SCHEMA = 2
"""Rises when records of the same cell would no longer mean the same; every stored cell is then run again.

1: ids followed the text of files. 2: they follow the code of strategy, model and data set.
"""


_DECIDING = (
    "strategy",
    "options",
    "engine",
    "device",
    "gpus",
    "batch_size",
    "micro_batch_size",
    "global_batch_size",
    "learning_rate",
    "seed",
    "workload",
    "goal",
    "measure",
    "threads_per_device",
    "code",
)


class NewerSchema(ValueError):
    """A record or plan was written by a newer version of the harness than reads it."""


def read_schema(content: object) -> int:
    """Return the schema that a record or plan was written in; the first ones of plans did not say it.

    Raises:
        TypeError: it holds no keys.
        ValueError: it is no schema.
        NewerSchema: a newer version of the harness wrote it.
    """
    if not isinstance(content, Mapping):
        raise TypeError(f"{type(content).__name__}, expected a table")
    schema = content.get("schema", 1)
    if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
        raise ValueError(f"schema {schema!r} is not a whole number of at least 1")
    if schema > RECORD_SCHEMA:
        raise NewerSchema(
            f"a newer version of the harness wrote it, in schema {schema}; this one reads schemas up to {RECORD_SCHEMA}"
        )
    return schema


POINT_FIELDS = (
    *("strategy", "options", "engine", "device", "gpus", "batch_size", "micro_batch_size", "global_batch_size"),
    *("learning_rate", "lr_rule", "workload", "goal", "swept", "threads_per_device", "faults"),
)
"""Fields that identify a cell's point: cells that agree in them differ in their seed. Not its id: that changes with
every edit of a strategy's file, and whether an edit made it worse may be the question."""


def point_key(cell: Cell) -> str:
    """Return what pairs a cell with those of other nights and seeds, as JSON.

    Nights of many versions are paired by it: a key that came later is no part of it where it is left at its default.
    """
    content = to_json(cell) | {"workload": without_later(cell.workload), "goal": without_later(cell.goal)}
    return json.dumps({key: content[key] for key in POINT_FIELDS}, sort_keys=True)


def cell_id(cell: Cell) -> str:
    """Return the id of a cell, whatever its own field holds."""
    content = {key: to_json(getattr(cell, key)) for key in _DECIDING} | {"record_schema": RECORD_SCHEMA}
    content |= {"workload": without_later(cell.workload), "goal": without_later(cell.goal)}
    if cell.faults:
        content["faults"] = to_json(cell.faults)
    if cell.dram_bytes is not None:
        content["dram_bytes"] = cell.dram_bytes
    if cell.context_bytes is not None:
        content["context_bytes"] = cell.context_bytes
    if cell.engine == "virtual":
        content |= {"cluster": to_json(cell.cluster), "profile_id": cell.profile_id}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    rate = f"{cell.learning_rate:.4g}".replace("+", "")
    return f"{cell.strategy}-b{cell.global_batch_size}-lr{rate}-g{cell.gpus}-s{cell.seed}-{digest}"


@dataclass(frozen=True)
class Named:
    """A name with options, defaults filled in."""

    name: str
    options: Json = field(default_factory=dict)


@dataclass(frozen=True)
class Loading:
    """How samples reach a device.

    Attributes:
        workers: processes that read samples ahead, of each device; 0: the device's own process reads them.
        prefetch: micro-batches that each of them reads ahead.
        pin_memory: whether batches are copied from page-locked memory; of GPUs only.
        resident: whether all samples stay in memory; "auto": where they fit.
    """

    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = True
    resident: str = "auto"


@dataclass(frozen=True)
class Workload:
    """What is trained, every option filled in.

    Attributes:
        loss: its name, or FILE.py:FUNCTION.
        precision: of the arithmetic in forward and backward.
        lr_warmup: epochs in which the rate rises to its full value.
        clip_norm: largest norm of a gradient; None: none is clipped.
        step: how a step is executed: "eager", "compiled" or "cuda-graph".
        channels_last: pictures, and the weights that convolve them, lie channel by channel of each pixel.
        tf32: whether single precision may be computed in TF32 on GPUs; None: as torch has it.
        input: of simulated devices elsewhere: "read" where every step reads its samples, which takes now longer and
            now shorter; "ready" where they lie in memory.
        gradients: number format in which simulated devices exchange them; empty: as they are kept.
        formats: number formats of weights, gradients and master copy on simulated devices.
        loading: how samples reach a device.
        sync_batchnorm: BatchNorm's statistics are those of all replicas together.
        metric: what evaluations measure beside the loss, by its name or as FILE.py:FUNCTION; empty: by the targets.
        metric_better: "higher" or "lower", of a function.
        find_unused_parameters: parameters without a gradient in some steps are looked for in every step.
    """

    model: Named
    dataset: Named
    optimizer: Named
    lr_schedule: Named
    loss: str
    precision: str
    lr_warmup: float = 0.0
    clip_norm: float | None = None
    step: str = "eager"
    loading: Loading = Loading()
    sync_batchnorm: bool = False
    find_unused_parameters: bool = False
    metric: str = ""
    metric_better: str = ""
    channels_last: bool = False
    tf32: bool | None = None
    gradients: FormatWord = ""
    input: Literal["read", "ready"] = "read"
    formats: Formats = AS_USUAL


_ONLY_WHERE_SET = (
    *("loading", "sync_batchnorm", "find_unused_parameters", "metric", "metric_better", "target_metric"),
    *("channels_last", "tf32", "gradients", "input", "formats"),
)
"""Keys of workload and goal that came later: left at their default they are no part of an id, so that no cell runs
again."""


def without_later(part: Workload | Goal) -> Json:
    """Return a workload or goal as it decides an id."""
    defaults = {key: to_json(getattr(type(part), key)) for key in _ONLY_WHERE_SET if hasattr(type(part), key)}
    return {key: value for key, value in to_json(part).items() if key not in defaults or value != defaults[key]}


@dataclass(frozen=True)
class Measure:
    """How speed is measured.

    Attributes:
        warmup_steps: left out of throughput.
        telemetry_interval_s: between two samples.
    """

    warmup_steps: int = 10
    telemetry_interval_s: float = 0.1


@dataclass(frozen=True)
class LayoutDegrees:
    """How one worker spreads a model over its devices.

    Attributes:
        shard: what data parallelism shards; "none": nothing.
    """

    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    shard: str = "none"


ONE_DEVICE = LayoutDegrees()


@dataclass(frozen=True)
class Observation:
    """A measurement from elsewhere.

    Attributes:
        keys: what a cell must be to fit.
        throughput_samples_per_s, step_time_s: None where not given.
        source: where it is from.
        calibrates: figures of the cluster are fitted to it, so that it is no test of a prediction.
    """

    keys: Json = field(default_factory=dict)
    throughput_samples_per_s: float | None = None
    step_time_s: float | None = None
    source: str = ""
    calibrates: bool = False


@dataclass(frozen=True)
class Cell:
    """A point with its seed and engine: all that running it takes.

    Attributes:
        gpus: devices that it uses, on CPU cores.
        batch_size: samples of one update that one data-parallel rank brings.
        micro_batch_size: samples that pass forward at once; 0: the largest that fits, still to be found.
        global_batch_size: samples behind one update of the weights.
        lr_rule: how the rate came about where it was scaled with the batch; else empty.
        swept: keys swept by their path, as they were written.
        folder: what file names in the workload are relative to; not part of the id.
        oversubscribed: more workers than devices; shown, not ranked.
        notes: what the record and the report have to say beside the figures.
        not_possible: why this machine cannot run it; empty where it can.
        model_at: where the strategy's model is whole: "worker", "server", "mean" or "ensemble".
        cluster: the scenario's cluster in figures.
        dram_bytes: usable memory of one device: what the scenario allows, or a catalogue device has; None: no limit.
        context_bytes: of a device's memory, what no tensor takes; None: as is usual.
        timing_only: times and memory, no training: the workload has no mathematics, or nobody asks for its results.
        observed: measurements of this cell from elsewhere.
        per_gpu_hour: price of one device for an hour, in `currency`.
        profile_id: hash of the file or measurement that the workload's times are from; else empty.
        nodes: machines that the devices fill.
        code: hashes of the code of strategy, model and data set, and of data in files of the user's own.
        faults: what goes wrong on purpose.
        confirms: its seed had no part in choosing its point, and bears the choice out; not part of the id.
    """

    cell_id: str
    strategy: str
    options: Json
    synchrony: str
    equals: str | None
    engine: str
    device: str
    gpus: int
    workers: int
    servers: int
    batch_size: int
    micro_batch_size: int
    global_batch_size: int
    learning_rate: float
    lr_rule: str
    seed: int
    workload: Workload
    goal: Goal
    measure: Measure
    cluster: ClusterFigures
    swept: Json
    threads_per_device: int
    cell_timeout_s: float
    folder: str
    oversubscribed: bool = False
    notes: tuple[str, ...] = ()
    not_possible: str = ""
    model_at: str = "worker"
    faults: Faults = NO_FAULTS
    dram_bytes: int | None = None
    context_bytes: int | None = None
    timing_only: bool = False
    observed: tuple[Observation, ...] = ()
    per_gpu_hour: float | None = None
    currency: str = ""
    profile_id: str = ""
    nodes: int = 1
    layout: LayoutDegrees = ONE_DEVICE
    code: dict[str, str] = field(default_factory=dict)
    confirms: bool = False

    @property
    def cores_per_node(self) -> int:
        """CPU cores that its workers on a node and its servers keep busy where workers compute on CPUs."""
        return -(-self.gpus // self.nodes) * self.threads_per_device + self.servers

    @property
    def seed_matters(self) -> bool:
        """Whether another seed could rank it otherwise: simulated speed has no chance in it but that of faults."""
        return self.engine != "virtual" or self.faults.drawn or (self.goal.has_target and not self.timing_only)

    @property
    def server_counts(self) -> bool:
        """Whether progress is counted, marked and ended at the server, where the model is; else at the workers."""
        return self.servers > 0 and self.model_at == "server"

    @property
    def scalar_bytes(self) -> ScalarBytes:
        """Bytes of a parameter, of its gradient, and of what the optimizer keeps for it."""
        work, sharded = self.workload, self.layout.shard in ("optimizer", "parameters")
        return scalar_bytes(work.precision, work.formats, work.gradients, sharded)


@dataclass(frozen=True)
class LeftOut:
    """A point of the product that is no cell.

    Attributes:
        point: the point in words, without its strategy.
        kind: excluded by the user, or impossible for the strategy on any machine.
    """

    strategy: str
    point: str
    kind: Literal["excluded", "impossible"]
    reason: str


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes:
        cells: in the order of rounds: the first seed of every point, then the second. Among them are those that this
            machine cannot run, so that each gets a record. Those that confirm come last.
        notes: what holds for the whole plan.
        understood: quantities with units, as they were read.
        confirm: fresh seeds that are to bear the answer out; 0: nobody asked for any.
        reference_runs: runs of a plain PyTorch loop that are wanted beside the cells.
        plugins: files that its cells load.
        slurm: what the executor slurm asks for.
    """

    name: str
    description: str
    machine: Machine
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    budget_s: float | None = None
    confirm: int = 0

    @property
    def swept(self) -> tuple[Cell, ...]:
        """The cells of the sweep itself: those whose seeds choose."""
        return tuple(cell for cell in self.cells if not cell.confirms)

    reference_runs: int = 0
    plugins: tuple[str, ...] = ()
    slurm: SlurmOptions = SITES_OWN


LARGEST = 0
"""What a micro-batch size of "largest" is until memory has been counted."""

FASTEST = -1
"""What a micro-batch size of "fastest" is until the plan has priced those that there are; no cell keeps it."""
