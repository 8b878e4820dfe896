"""The keys of a scenario: types, defaults and what each means. `harness schema` prints what stands here.

In [sweep], and for any key by its path, a list or a range of these values may stand; that is read in
`harness.scenario.sweep`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator

from harness.api.strategy import Options
from harness.core.faults import Death, Jitter, Straggler
from harness.core.given_cluster import AllReduce, ServerPlacement
from harness.core.metrics import DIRECTIONS, WORDS
from harness.core.number_formats import FRAMEWORKS, PRECISIONS
from harness.core.records import Json
from harness.core.words import aligned
from harness.scenario.optimizer_options import OPTIMIZERS
from harness.scenario.read_faults import DEATH_FORMS, STRAGGLER_FORMS, read_deaths, read_jitter, read_stragglers
from harness.scenario.value_types import (
    Amount,
    AtLeastZero,
    BatchSize,
    ByteRate,
    Bytes,
    Count,
    CountFromZero,
    DeviceCosts,
    Every,
    FolderName,
    LayerCount,
    Limit,
    LinkValue,
    MicroBatch,
    ModelName,
    NameOrTable,
    Pace,
    PriceValue,
    RateValue,
    Share,
    TargetValue,
    TaskTime,
    TextValue,
    Time,
    file_list,
    resident,
    sbatch_options,
    sbatch_value,
    shell_lines,
    table_list,
    word,
    word_or_function,
)
from harness.workloads.entries import EXECUTIONS, LOSSES
from harness.workloads.user_files import is_user_function

EPOCHS_BY_DEFAULT = 10
STEPS_WITHOUT_TARGET = 60
"""Length of a cell that only measures speed and memory: after the warm-up, most of it still counts."""


NOT_SWEPT = (
    *("name", "description", "plugins", "limits.cell_timeout", "limits.budget", "measure.reference"),
    *("sweep.", "cost.", "slurm.", "observed"),
)
"""Keys that do not make another cell."""


class SectionModel(BaseModel):
    """A table of the scenario; unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, model_title_generator=lambda section: section.__name__.removesuffix("Section")
    )


def _words(*words: str) -> tuple[BeforeValidator, WithJsonSchema]:
    return BeforeValidator(word(*words)), WithJsonSchema({"enum": list(words)})


def _word_or_function(*words: str) -> tuple[BeforeValidator, WithJsonSchema]:
    schema = {"anyOf": [{"enum": list(words)}, {"type": "string", "pattern": r":\w+$"}]}
    return BeforeValidator(word_or_function(*words)), WithJsonSchema(schema)


Loss = Annotated[str, *_word_or_function(*LOSSES)]
Precision = Annotated[str, *_words(*PRECISIONS)]
InputWord = Annotated[Literal["read", "ready"], *_words("read", "ready")]
NumberFormat = Annotated[Literal["fp32", "bf16", "fp16"], *_words("fp32", "bf16", "fp16")]
Framework = Annotated[str, *_words(*FRAMEWORKS)]
MasterWord = Annotated[str, *_words("fp32", "none")]
StepWord = Annotated[str, *_words(*EXECUTIONS)]
Scaling = Annotated[str, *_words("none", "linear", "sqrt")]
Engine = Annotated[str, *_words("auto", "real", "virtual", "both")]
AttentionKind = Annotated[str, *_words("fused", "eager")]
DeviceKind = Annotated[
    str,
    BeforeValidator(word("auto", "cuda", "cpu", other="a kind of GPU to simulate stands in cluster.device")),
    WithJsonSchema({"enum": ["auto", "cuda", "cpu"]}),
]
Resident = Annotated[
    str | bool, BeforeValidator(resident), WithJsonSchema({"anyOf": [{"type": "boolean"}, {"enum": ["auto"]}]})
]
AllReduceWord = Annotated[AllReduce, *_words(*get_args(AllReduce))]
PlacementWord = Annotated[ServerPlacement, *_words(*get_args(ServerPlacement))]
ObservedUse = Annotated[str, *_words("compare", "calibrate")]
SbatchValue = Annotated[str, BeforeValidator(sbatch_value), WithJsonSchema({"type": "string"})]
SetupLines = Annotated[
    list[str],
    BeforeValidator(shell_lines),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
SbatchOptions = Annotated[
    dict[str, str | int | bool],
    BeforeValidator(sbatch_options),
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "integer", "boolean"]}}),
]
_FAULT_TABLES = {"type": "array", "items": {"type": "object"}}
JitterTable = Annotated[
    Jitter | None,
    BeforeValidator(read_jitter),
    WithJsonSchema({"anyOf": [{"type": "number", "minimum": 0, "maximum": 2}, {"type": "object"}]}),
]
Stragglers = Annotated[list[Straggler], BeforeValidator(read_stragglers), WithJsonSchema(_FAULT_TABLES)]
Deaths = Annotated[list[Death], BeforeValidator(read_deaths), WithJsonSchema(_FAULT_TABLES)]


class LoadingSection(SectionModel):
    """How samples reach a device: kept in memory, or read by torch's DataLoader as they are needed."""

    workers: CountFromZero = Field(
        default=0, description="processes of each device that read samples ahead; 0: its own process reads them"
    )
    prefetch: Count = Field(default=2, description="micro-batches that each of them reads ahead")
    pin_memory: bool = Field(
        default=True, description="copy batches from page-locked memory; of GPUs only", strict=True
    )
    resident: Resident = Field(default="auto", description='whether all samples stay in memory; "auto": where they fit')


class FormatsSection(SectionModel):
    """Number formats of what a device keeps of each parameter; where nothing stands, as the framework has it."""

    framework: Framework | None = Field(
        default=None,
        description="ddp, fsdp, megatron or deepspeed; default: fsdp where parameters are sharded, deepspeed of mixed "
        "precision, else ddp",
    )
    parameters: NumberFormat | None = Field(default=None, description="weights as they last on a device")
    gradients: NumberFormat | None = Field(default=None, description="as they are kept until the update")
    master: MasterWord | None = Field(
        default=None, description="the optimizer's own copy of the weights: fp32, or none; default: of half weights"
    )


class MetricName(Options):
    """What is measured on samples that are not trained on."""

    name: Annotated[str, *_word_or_function(*WORDS)] = Field(description="a metric, or file.py:function")
    better: Annotated[str, *_words(*DIRECTIONS)] | None = Field(
        default=None, description="of a function: its direction"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _functions_have_a_direction(self) -> MetricName:
        own = is_user_function(self.name)
        if own and self.better is None:
            raise ValueError(f'{{ name = "{self.name}", better = "higher" }}, or "lower": nobody knows which is better')
        if not own and self.better is not None:
            raise ValueError(f"better belongs to functions of your own; that of {self.name} is known")
        return self


class MetricTarget(Options):
    """When training has reached what was asked for."""

    metric: str = Field(description="workload.metric, or loss", strict=True)
    value: float = Field(description="at or beyond which it is reached", strict=True)


class WorkloadSection(SectionModel):
    """What is trained."""

    model: ModelName = Field(
        default="lenet5", validate_default=True, description="a model, or file.py:function of your own"
    )
    dataset: NameOrTable = Field(
        default="digits", validate_default=True, description="data, or file.py:function of your own"
    )
    loss: Loss = Field(
        default=LOSSES[0], description="cross-entropy, mse (of classes: one-hot), bce-with-logits, or file.py:function"
    )
    optimizer: NameOrTable = Field(
        default="sgd", validate_default=True, description=f"{', '.join(OPTIMIZERS)}, with options, or file.py:function"
    )
    precision: Precision = Field(
        default="fp32",
        description="number format of the forward and backward pass: fp32, fp64 or bf16; where speed and memory are "
        "simulated and nothing is trained also fp16, or mixed: fp16 with half weights and a master copy in fp32",
    )
    gradients: NumberFormat | None = Field(
        default=None,
        description="number format in which simulated devices exchange gradients: fp32, bf16 or fp16; default: as they "
        "are kept",
    )
    formats: FormatsSection | None = Field(
        default=None,
        description='number formats on simulated devices: { framework = "megatron", parameters = "bf16", gradients = '
        '"fp32", master = "fp32" }, of which any may stand alone',
    )
    input: InputWord = Field(
        default="read",
        description="of simulated devices elsewhere: read where every step reads its samples, so that devices wait for "
        "the one whose samples come last; ready where they lie in memory, as equal slices of tokens do",
    )
    lr_schedule: NameOrTable = Field(
        default="constant",
        validate_default=True,
        description="constant, cosine or step, or file.py:function from the number of updates to a factor",
    )
    lr_warmup: AtLeastZero = Field(default=0.0, description="epochs in which the rate rises to its full value")
    metric: MetricName | None = Field(
        default=None,
        description=f'{", ".join(WORDS)}, or {{ name = "file.py:function", better = "higher" }} of outputs and '
        "targets; default: accuracy, of numbers mse",
    )
    clip_norm: Limit = Field(default=None, description='largest norm of a gradient; default "none"')
    sync_batchnorm: bool = Field(
        default=False, strict=True, description="BatchNorm by the statistics of all replicas of sync-ddp or fsdp"
    )
    find_unused_parameters: bool = Field(
        default=False,
        strict=True,
        description="look in every step for parameters without a gradient; default: where a trial step finds some",
    )
    step: StepWord = Field(
        default="eager",
        description="how a step is executed: as Python calls it, by torch.compile, or replayed as CUDA graphs",
    )
    channels_last: bool = Field(
        default=False, strict=True, description="pictures and weights of convolutions in torch's channels_last order"
    )
    tf32: bool | None = Field(
        default=None,
        strict=True,
        description="single precision in TF32 on NVIDIA GPUs; default: torch's own, convolutions only",
    )
    loading: LoadingSection | None = Field(
        default=None,
        description='how samples reach a device: { workers = 4, prefetch = 2, pin_memory = true, resident = "auto" }',
    )


class GivenSizes(Options, defer_build=True):
    """A model without mathematics: equal layers, timed but not trained."""

    parameters: Amount = Field(description='trainable scalars: "335 M"')
    layers: LayerCount = Field(description="equal layers, or the blocks of a transformer")
    sequence: Count | None = Field(default=None, description="tokens of one sample; without, a sample is one input")
    hidden: Count | None = Field(default=None, description="width of a transformer: gives its activations")
    heads: Count | None = Field(default=None, description="of attention; default hidden / 64")
    gated: bool = Field(
        default=False,
        strict=True,
        description="blocks as Llama has them: three matrices, no biases, keys of fewer heads",
    )
    ffn: Count | None = Field(default=None, description="width between a gated block's matrices; default 8/3 hidden")
    kv_heads: Count | None = Field(
        default=None, description="heads of keys and values of a gated block; default: heads"
    )
    vocabulary: Count | None = Field(
        default=None, description="with hidden: outputs of the head, whose logits then count in memory"
    )
    attention: AttentionKind = Field(
        default="fused", description="fused keeps no scores; eager keeps heads x sequence^2"
    )
    forward_flops: Amount | None = Field(
        default=None, description='operations of one sample\'s forward pass, such as "8.2 G"; default 2 per token'
    )
    embedding: Amount | None = Field(
        default=None,
        description="of the parameters, those of tables before the layers: they take no time, and their gradients are "
        "there last; with hidden, what the blocks leave",
    )
    activations: Bytes = Field(default=None, description='kept by one sample for the backward pass, such as "104 MB"')


class GivenTimes(Options, defer_build=True):
    """A model without mathematics: times and sizes of its layers from a file."""

    profile: TextValue = Field(description="CSV with name, forward_ms, backward_ms, activation_bytes, parameter_bytes")
    batch_size: Count = Field(description="samples that these times and sizes are of")


class SweepSection(SectionModel):
    """Every combination of these lists is a cell of the plan. Any other key may stand here too, by its path."""

    strategy: NameOrTable = Field(description="strategies; the only key without a default")
    batch_size: BatchSize | None = Field(default=None, description='samples of one data-parallel rank, or "full"')
    global_batch_size: BatchSize | None = Field(default=None, description="samples behind one update; default 32")
    micro_batch_size: MicroBatch = Field(
        default=None,
        description='samples that pass forward at once; "largest" that fits; or "fastest", which the plan finds by '
        "price; default: all of batch_size; of a pipeline on simulated devices the fastest",
    )
    microbatches: Count | None = Field(
        default=None, description="number of micro-batches in a batch, instead of micro_batch_size"
    )
    learning_rate: RateValue | None = Field(default=None, description="default: the model's own")
    lr_scaling: Scaling = Field(
        default="none",
        description="how the rate grows with the global batch; it holds for the smallest one of the sweep",
    )
    gpus: Count | None = Field(default=None, description="devices of a cell; default [1, those present], on CPU [1, 2]")
    seeds: Count | None = Field(default=None, description="number of seeds, or a list of seeds; default 1")
    seed: CountFromZero | None = Field(default=None, description="a single seed")
    exclude: Any = Field(default=None, description='points to leave out: [{ strategy = "async-ps", gpus = 1 }]')


class GoalSection(SectionModel):
    """When a cell is done, and how it is judged."""

    target_accuracy: TargetValue = Field(
        default=None, description="accuracy on the validation split; default: the dataset's own"
    )
    target_loss: Limit = Field(default=None, description="loss to reach, instead of target_accuracy")
    target: MetricTarget | None = Field(
        default=None, description='{ metric = "perplexity", value = 12 }: of any metric, or of the loss'
    )
    max_epochs: Limit = Field(default=None, description=f"default {EPOCHS_BY_DEFAULT} if no other limit is set")
    max_steps: Count | None = Field(default=None, description=f"default {STEPS_WITHOUT_TARGET} if there is no target")
    max_seconds: Limit = Field(
        default=None, description="real seconds of a real cell, simulated seconds of a simulated one"
    )
    evaluate_every: Every = Field(
        default=None,
        description='samples or epochs between evaluations; default "0.25 epoch", or never without a target',
    )
    validation_fraction: Share = Field(default=0.1, description="share of the training data that is held out")


class ServersSection(SectionModel):
    """Where the server of a strategy runs on a simulated cluster: as equal shards, each with a part of the weights."""

    placement: PlacementWord = Field(
        default="cpu",
        description="host memory of the first node, every device, the workers' nodes, or nodes of their own",
    )
    count: Count | None = Field(
        default=None, description="shards; default: one; on every node where they are co-located"
    )
    apply_rate: ByteRate = Field(
        default=None, description='gradients that one shard adds to its weights: "2 GB/s"; default: as a device updates'
    )
    link: LinkValue = Field(default=None, description="of a dedicated server's node; default: as inter_node")
    overlap: bool = Field(
        default=True,
        strict=True,
        description="layers' gradients leave, and layers' weights come back, while devices compute, as TensorFlow, "
        "MXNet and BytePS do it; false: after the backward pass, and before the forward pass",
    )


class ClusterSection(SectionModel):
    """What the virtual engine computes with; rates are per direction."""

    preset: TextValue = Field(default="this-machine", description="a whole cluster; `harness plugins` lists them")
    device: DeviceCosts = Field(
        default=None,
        description='"h200", { samples_per_second, batch_size } or { step_time = "312 ms", batch_size }, name',
    )
    gpus_per_node: Count | None = Field(default=None, description="devices of one node; default: the preset's")
    intra_node: LinkValue = Field(
        default=None,
        description="between devices of a node: a name, a rate, { bandwidth or nominal, medium, latency, shared_by, "
        "groups_of, between_groups, graph }, { bus_bandwidth } or { table }",
    )
    inter_node: LinkValue = Field(
        default=None, description="between nodes: the rate of all adapters of a node together; written like intra_node"
    )
    host_link: LinkValue = Field(
        default=None, description="between a device and its host's memory; written like intra_node"
    )
    all_reduce: AllReduceWord = Field(default="auto", description="algorithm between nodes; auto: the fastest")
    shared_host: bool = Field(
        default=False, strict=True, description="devices are threads of processors that others use too"
    )
    overheads: bool = Field(
        default=True,
        strict=True,
        description="what no data sheet says, as published tables imply it; false: figures mean what they say",
    )
    servers: ServersSection | None = Field(
        default=None,
        description='parameter servers of simulated cells: { placement = "cpu", "gpu", "co-located" or '
        '"dedicated", count = shards, apply_rate = "2 GB/s" and link = "25 Gb/s" of each }; default: one server, '
        "behind an interface of its own",
    )


class FaultsSection(SectionModel):
    """Faults to inject on both engines; the seed decides when they happen. Ranks number devices from 0."""

    compute_jitter: JitterTable = Field(
        default=None,
        description="spread of a step's compute time: sigma of a lognormal with mean 1, or "
        '{ distribution = "exponential" }',
    )
    stragglers: Stragglers = Field(default=[], description=STRAGGLER_FORMS)
    deaths: Deaths = Field(default=[], description=f"{DEATH_FORMS}; a synchronous strategy then crashes")


class MeasureSection(SectionModel):
    """How speed is measured."""

    warmup_steps: CountFromZero = Field(
        default=10, description="first steps that throughput leaves out; at most a tenth of the run"
    )
    telemetry_interval: Time = Field(
        default="100 ms", validate_default=True, description="time between two samples of memory and utilisation"
    )
    reference: CountFromZero = Field(
        default=0, description="runs of a plain PyTorch loop, spread over the run; they tell the machine from the code"
    )


class LimitsSection(SectionModel):
    """Limits on time and memory."""

    cell_timeout: Time = Field(
        default="15 min",
        validate_default=True,
        description="longest time for a cell to get ready, and again to train; then it has failed",
    )
    budget: Time = Field(default=None, description="wall-clock time after which the whole run is stopped")
    dram: Bytes = Field(default=None, description="usable memory of one device; default: the device's own")
    context: Bytes = Field(
        default=None,
        description="of it, what no tensor takes: the driver's context, and what process groups and a framework keep; "
        'default "450 MiB" on GPUs',
    )


class CostSection(SectionModel):
    """What a device costs."""

    per_gpu_hour: PriceValue = Field(
        default=None, description='price such as "2.80 EUR"; plan and answer then show costs'
    )


class SlurmSection(SectionModel):
    """What `harness run --executor slurm` asks Slurm for; no other executor reads it."""

    partition: SbatchValue = Field(default="", description="where tasks run; default: the site's")
    account: SbatchValue = Field(default="", description="that is charged; default: the site's")
    qos: SbatchValue = Field(default="", description="quality of service; default: the site's")
    constraint: SbatchValue = Field(default="", description="features that nodes must have")
    time: TaskTime = Field(
        default="1 h",  # type: ignore[assignment]
        validate_default=True,
        description="longest time of a task, from 3 min on; what is left of it then is requeued and goes on",
    )
    memory: Bytes = Field(default=None, description="of a task; default: the site's")
    gres: SbatchValue = Field(
        default="", description='what a GPU is called, such as "gpu:a100"; default: --gpus-per-node asks for them'
    )
    cells_per_task: Count = Field(default=16, description="cells that a task of the array runs, one after another")
    at_once: Count | None = Field(default=None, description="tasks that may run at one time; default: no limit of ours")
    exclusive: bool = Field(
        default=True, strict=True, description="whether cells that are measured have their node for themselves"
    )
    setup: SetupLines = Field(default=[], description='lines of shell before a task: ["module load cuda"]')
    options: SbatchOptions = Field(
        default={}, description='other options of sbatch by their long names: { mail-type = "FAIL" }; they win'
    )


class ObservedSection(SectionModel, defer_build=True):
    """A measurement from elsewhere, shown beside what is predicted for every cell that its keys fit."""

    strategy: TextValue | None = Field(default=None, description="name of the strategy")
    gpus: Count | None = Field(default=None, description="number of devices")
    nodes: Count | None = Field(default=None, description="number of machines with these devices")
    batch_size: Count | None = Field(default=None, description="samples of one data-parallel rank")
    global_batch_size: Count | None = Field(default=None, description="samples behind one update")
    micro_batch_size: Count | None = Field(default=None, description="samples that pass forward at once")
    throughput: Pace = Field(default=None, description='of the whole job: "205 samples/s"')
    step_time: Time = Field(default=None, description='such as "312 ms"; give this, throughput, or both')
    source: str = Field(default="", description="where the measurement is from", strict=True)
    use: ObservedUse = Field(
        default="compare",
        description="compare with the prediction; or calibrate: a device's speed, a link and a server's rate, in this "
        "order, are fitted to such measurements",
    )

    @model_validator(mode="after")
    def _has_a_value(self) -> ObservedSection:
        if self.throughput is None and self.step_time is None:
            raise ValueError('a throughput = "205 samples/s", a step_time = "312 ms", or both')
        return self


ObservedTables = Annotated[
    list[dict[str, Any]],
    BeforeValidator(table_list),
    WithJsonSchema({"type": "array", "items": {}}),  # `json_schema` says of what
]


class Document(SectionModel):
    """A whole scenario."""

    name: FolderName | None = Field(default=None, description="folder under results/; default: the name of the file")
    description: str = Field(default="", description="shown in plan and report", strict=True)
    plugins: Annotated[list[str], BeforeValidator(file_list)] = Field(default=[], description="plugin files or folders")
    engine: Engine = Field(
        default="auto",
        description="auto: real where devices exist, virtual beyond; both: real cells get a virtual twin",
    )
    device: DeviceKind = Field(default="auto", description="auto: cuda where there is one")
    threads_per_device: Count = Field(default=1, description="threads of one CPU device")
    workload: WorkloadSection = Field(default_factory=WorkloadSection)
    sweep: SweepSection
    goal: GoalSection = Field(default_factory=GoalSection)
    strategy: dict[str, dict[str, Any]] = Field(default={}, description="[strategy.NAME]: see `harness plugins NAME`")
    cluster: ClusterSection = Field(default_factory=ClusterSection)
    faults: FaultsSection = Field(default_factory=FaultsSection)
    measure: MeasureSection = Field(default_factory=MeasureSection)
    limits: LimitsSection = Field(default_factory=LimitsSection)
    cost: CostSection = Field(default_factory=CostSection)
    slurm: SlurmSection = Field(default_factory=SlurmSection)
    observed: ObservedTables = Field(
        default=[],
        description="measurements from elsewhere, shown beside the predictions; swept keys may stand here too",
    )


class StepSchedule(Options, defer_build=True):
    """Multiply the rate by `factor` after every so many epochs; chosen so that ten epochs see three drops."""

    epochs: float = Field(default=3.0, gt=0)
    factor: float = Field(default=0.1, gt=0, lt=1)


LR_SCHEDULES: dict[str, type[Options]] = {"constant": Options, "cosine": Options, "step": StepSchedule}


def sections() -> dict[str, type[SectionModel]]:
    """Return the tables of a scenario that have fixed keys."""
    fields = Document.model_fields.items()
    return {name: info.annotation for name, info in fields if _is_section(info.annotation)}  # type: ignore[misc]


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, SectionModel)


def key_paths() -> list[str]:
    """Return every fixed key by its path."""
    tables = sections()
    return [
        path
        for name in Document.model_fields
        if name != "strategy"
        for path in ([f"{name}.{key}" for key in tables[name].model_fields] if name in tables else [name])
    ]


def json_schema() -> Json:
    """Return the JSON Schema of a scenario, for editors; keys of [sweep] may be lists and ranges."""
    schema = Document.model_json_schema()
    observed = ObservedSection.model_json_schema() | {"additionalProperties": True}
    schema["properties"]["observed"]["items"] = observed
    sweep = schema["$defs"]["SweepSection"]
    sweep["properties"] = {
        key: value if key == "exclude" else _swept(value) for key, value in sweep["properties"].items()
    }
    sweep["additionalProperties"] = {"description": "any other key by its path: a list or a range of its values"}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "harness scenario"}


def _swept(value: Json) -> Json:
    about = {key: item for key, item in value.items() if key in ("description", "default")}
    scalar = {key: item for key, item in value.items() if key not in ("description", "default", "title")}
    span = {
        "type": "object",
        "properties": {"from": {"type": "number"}, "to": {"type": "number"}, "points": {"type": "integer"}},
        "required": ["from", "to", "points"],
    }
    return {"anyOf": [scalar, {"type": "array", "items": scalar, "minItems": 1}, span], **about}


def schema_text() -> str:
    """Return the keys with their defaults and meanings, a line each."""
    return "\n".join(aligned(_rows())) + "\n"


def _rows() -> Iterator[tuple[str, str]]:
    tables = sections()
    for key, info in Document.model_fields.items():
        if key in tables:
            yield f"[{key}]", (tables[key].__doc__ or "").splitlines()[0]
            for inner, field in tables[key].model_fields.items():
                yield f"  {inner}{_default(field.default, field.is_required())}", field.description or ""
        elif key == "observed":
            yield "[[observed]]", info.description or ""
            yield from (
                (f"  {inner}", field.description or "") for inner, field in ObservedSection.model_fields.items()
            )
        else:
            yield f"{key}{_default(info.default, info.is_required())}", info.description or ""


def _default(value: Any, required: bool) -> str:
    if required or value is None:
        return ""
    if isinstance(value, str):
        return f' = "{value}"'
    if isinstance(value, bool):
        return f" = {str(value).lower()}"
    return f" = {value}"
