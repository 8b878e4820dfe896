"""All that the author of a strategy reads: Strategy, Layout, Worker, Server, Bucket.

A strategy has two halves. Its *layout* says how one step of one copy of the model is spread over devices: it is data,
read before the first step; replicas exchange gradients by its `reduce`, an async function over the words of `Bucket`.
Its *program* says what the workers tell each other: an async function over the words of `Worker`. A worker is the group
of devices that holds one copy of the training state; there are `gpus // layout.devices` of them. The same file runs on
real processes and on the virtual cluster.

Every awaitable word starts when it is called; `await` only waits. So

    pending = worker.mean(gradient)              # the exchange is under way
    ahead = await worker.gradient(next_batch)    # while this computes
    await worker.apply(await pending)

overlaps without a callback. Nothing else exists: no timer, no file, no torch, no global random generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from harness.core.addresses import Address
from harness.core.errors import PluginError
from harness.core.units import MIB

if TYPE_CHECKING:
    import random

    import torch


ANY = None
"""Receive from whoever sends next."""

SERVER: Address = -1
"""The first (usually the only) server."""


class Options(BaseModel):
    """What a user may set in `[strategy.NAME]`; unknown keys are refused, lists are swept."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Action(NamedTuple):
    """One entry of a pipeline table: which pass of which micro-batch through which stage.

    A stage's backward pass is whole ("backward"), or in two halves: gradients of the stage's input, which the stage
    before waits for, then gradients of its weights, which nobody waits for until the optimizer steps.
    """

    kind: Literal["forward", "backward", "backward_input", "backward_weight"]
    stage: int
    microbatch: int


Table = Sequence[Sequence[Action]]
"""What each rank of a pipeline does, in order. The virtual engine interprets it, torch's runtime executes it."""

Schedule = Callable[[int, int], Table]
"""A function of (ranks, micro-batches) that returns a Table with one row for each rank.

Stage k lives on rank k modulo the ranks. A schedule of several stages a rank knows how many: `interleaved(chunks)` of
harness.api.schedules returns one, and its layout says the same `chunks`.
"""


RecomputeOption = bool | Literal["all-but-last"]

Reduce = Callable[["Bucket"], Coroutine[object, None, "Value"]]
"""An async program that a replica runs for each bucket of gradients: it returns what all replicas take for its mean."""


@dataclass(frozen=True)
class Layout:
    """How one step of one copy of the model is spread over devices.

    Attributes:
        data: replicas that each compute part of a batch and share one gradient.
        pipeline: devices that the layers are spread over in stages, one after another.
        tensor: devices over which single layers are cut.
        shard: what data-parallel replicas split among themselves instead of each keeping all of it: the optimizer's
            state only ("states", which may stand beside the other axes), gradients too ("optimizer"), or all three.
        shard_group: neighbouring replicas that split it, where several groups of them each hold all of it; 0: all do.
        accumulate: pieces that each replica's part is computed in, one after another.
        bucket_bytes: gradients are exchanged in groups of about this size, 0: all in one; 25 MiB is DDP's own default.
        static_graph: tell DDP that the graph never changes between steps.
        wrapped: a wrapper's hooks run even where there is only one replica.
        overlap: exchange a bucket while the backward pass still computes the next one.
        recompute: drop activations and compute them again in the backward pass; "all-but-last" keeps those of the last
            micro-batch where there are several.
        sequence_parallel: tensor parallelism divides the activations of norms too, along the sequence.
        schedule: the pipeline's table of actions, from the number of its devices and of micro-batches.
        placement: "time" or "parameters" (cut so that stages balance), or layer names per stage.
        chunks: stages on each pipeline device; stage k lives on device k modulo `pipeline`.
        replicas: devices of each stage, which take micro-batches in turn; empty: one each.
        drains: the pipeline runs empty before every update; otherwise updates overlap, with weights of their own.
        reduce: how replicas exchange a bucket of gradients; None: by an all-reduce. It runs with one replica too.
    """

    data: int = 1
    pipeline: int = 1
    tensor: int = 1
    shard: Literal["none", "states", "optimizer", "parameters"] = "none"
    shard_group: int = 0
    accumulate: int = 1
    bucket_bytes: int = 25 * MIB
    static_graph: bool = False
    wrapped: bool = False
    overlap: bool = True
    recompute: RecomputeOption = False
    sequence_parallel: bool = False
    schedule: Schedule | None = None
    placement: Literal["time", "parameters"] | tuple[tuple[str, ...], ...] = "time"
    chunks: int = 1
    replicas: tuple[int, ...] = ()
    drains: bool = True
    reduce: Reduce | None = None

    @property
    def gathers(self) -> bool:
        """Whether replicas hold shards of parameters or gradients, which each pass gathers or scatters."""
        return self.shard in ("optimizer", "parameters")

    @property
    def sharers(self) -> int:
        """Replicas that each hold another part of what is split; 1 where nothing is."""
        return (self.shard_group or self.data) if self.shard != "none" else 1

    @property
    def groups(self) -> int:
        """Groups of sharers, each of which holds the whole."""
        return self.data // self.sharers

    @property
    def stages(self) -> int:
        """Stages that the layers are cut into."""
        return self.pipeline * self.chunks

    @property
    def devices(self) -> int:
        """Devices that hold one copy of the training state."""
        return self.data * (sum(self.replicas) or self.pipeline) * self.tensor


@dataclass(frozen=True)
class Batch:
    """What `worker.batches()` yields.

    Attributes:
        step: 0, 1, 2, ...: which batch of this worker.
        indices: this worker's part, as numbers of training samples; int64 array of shape (n,), possibly empty.
        size: samples in the whole batch, of which other workers may hold the rest.
        shares: parts that the whole batch was cut into: the workers for a shared batch, 1 for a batch of one's own.
        samples_before: samples in all whole batches before this one (of this worker, where it has its own).
        counted: what the loss of the whole batch is divided by: its samples, or, where these differ in how many of
            their targets count (ignored tokens), its counted targets.
    """

    step: int
    indices: Any
    size: int
    shares: int
    samples_before: int
    counted: int


class Value(ABC):
    """Weights or a gradient: immutable, with arithmetic. `a - b`, `a + b`, `a * number` and `average([a, b])` work.

    Other arithmetic is done on tensors: `value.with_tensor(value.tensor().sign())` is the value of the signs.

    Attributes:
        num_samples: training samples behind a gradient; of weights, those that their holder has applied itself.
        version: updates behind the weights, or behind the weights that the gradient was computed from.
    """

    num_samples: int
    version: int

    @property
    @abstractmethod
    def num_bytes(self) -> int:
        """Bytes on the wire."""

    @abstractmethod
    def tensor(self) -> torch.Tensor:
        """Return the parameters' part as one flat tensor of shape (parameters,); writing to it is refused."""

    @abstractmethod
    def with_tensor(self, parameters: torch.Tensor | Value) -> Value:
        """Return this value with other numbers in the parameters' place; buffers, samples and version stay.

        Args:
            parameters: of shape (parameters,), copied; or the value to take the parameters' part of.
        """

    @abstractmethod
    def zeros(self) -> Value:
        """Return zeros of this value's form, with no samples behind them: where a sum over steps begins."""

    @abstractmethod
    def averaged_with(self, others: Sequence[Value]) -> Value:
        """Return the mean of this value and `others`; `average` is the readable spelling."""

    @abstractmethod
    def __add__(self, other: Value) -> Value: ...

    @abstractmethod
    def __sub__(self, other: Value) -> Value: ...

    @abstractmethod
    def __mul__(self, factor: float) -> Value: ...

    __rmul__ = __mul__


class Encoded(Value):
    """A value in a codec's smaller form: on the wire it takes the bytes of its parts, in arithmetic it is decoded.

    Attributes:
        codec: that made it, and that decodes it.
    """

    codec: Codec

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Sequence[torch.Tensor]]:
        """Tensors of each layer, by its name; writing is refused. Buffers travel beside them, as they are."""


class Codec(ABC):
    """A smaller form of a value on the wire, said for one layer: a parameter tensor of the model.

    Bytes are counted from the tensors that `encode` returns, of whatever type and shape. A codec keeps nothing between
    calls: what changes from step to step (a seed, a basis) is given to a new one. One that is sent to somebody who has
    to decode it holds plain numbers only.

    Attributes:
        linear: whether the mean of encoded tensors, which then have the same shapes on every worker, is the encoded
            mean; `mean` takes these forms only.
        encode_passes, decode_passes: what either takes on the virtual cluster, in additions of two values of the
            decoded size: those of bundled codecs were measured on one core of a CPU with a million numbers in fp32.
            What is decoded in no passes has no use but its parts.
    """

    linear: bool = False
    encode_passes: float = 1.0
    decode_passes: float = 1.0

    @abstractmethod
    def encode(self, layer: torch.Tensor, name: str) -> Sequence[torch.Tensor]:
        """Return what is sent of a layer; none where nothing has to be."""

    @abstractmethod
    def decode(self, parts: Sequence[torch.Tensor], shape: torch.Size, name: str) -> torch.Tensor:
        """Return the layer, in its shape, from what was sent."""


AnyValue = TypeVar("AnyValue", bound=Value)
"""A value, encoded or not: what goes in comes out."""


def average(values: Sequence[Value] | Mapping[Address, Value]) -> Value:
    """Return the mean of `values`; its `num_samples` is their sum, its version the oldest.

    Values by rank are added in the order of ranks, so that the sum does not depend on who came first.
    """
    first, *others = [values[rank] for rank in sorted(values)] if isinstance(values, Mapping) else values
    return first.averaged_with(others)


class Message(NamedTuple):
    """What `receive` answers; `value` is None where `leavers=True` reports that `source` has left."""

    source: Address
    value: Any


class _Program(ABC):
    """Words of every program: of a worker, of a server, and of a bucket of gradients."""

    options: Any

    @abstractmethod
    def random(self, name: str, shared: bool = False) -> random.Random:
        """Return this program's own random stream of that name; the same in every run with the same seed.

        A shared stream is the same on every worker, server and replica: what one draws, all draw.
        """

    @abstractmethod
    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        """Return a value's parameters by name, each in the shape that it has in the model; writing is refused.

        Join them again by `torch.cat([layer.reshape(-1) for layer in layers.values()])`: the order is that of the
        flat tensor.
        """

    @abstractmethod
    def encode(self, value: Value, codec: Codec) -> Awaitable[Encoded]:
        """Return a value in its smaller form, to be sent, gathered or averaged."""

    @abstractmethod
    def compute(self, function: Callable[..., Any], *args: Any) -> Awaitable[Any]:
        """Run the strategy's own arithmetic on the clock."""

    @abstractmethod
    def record(self, **numbers: float) -> None:
        """Add a column `x_<name>` to the cell's results; the last number given stands."""

    @abstractmethod
    def note(self, text: str) -> None:
        """Add a line to the record, shown in the report."""


class _Endpoint(_Program):
    """What a worker and a server have in common."""

    @property
    @abstractmethod
    def workers(self) -> Sequence[Address]:
        """Workers that have not left."""

    @property
    @abstractmethod
    def servers(self) -> Sequence[Address]:
        """Servers that have not left."""

    @property
    @abstractmethod
    def weights(self) -> Value:
        """Parameters and buffers as of now, with their version."""

    @property
    @abstractmethod
    def learning_rate(self) -> float:
        """The rate that the next `apply` uses, schedule and warm-up included."""

    @abstractmethod
    def apply(self, gradient: Value, scale: float = 1.0) -> Awaitable[None]:
        """Take one optimizer step along `gradient` at `scale` times the learning rate; the version rises by one.

        After the run has stopped it does nothing. Optimizer state stays here and is never sent.
        """

    @abstractmethod
    def load(self, weights: Value) -> Awaitable[None]:
        """Replace parameters, buffers and version; optimizer state stays."""

    @abstractmethod
    def send(self, value: Any, to: Address) -> Awaitable[None]:
        """Send a value (weights, a gradient, a number, None). Waits until it has been taken over, never for `to`."""

    @abstractmethod
    def receive(self, source: Address | None = ANY, leavers: bool = False) -> Awaitable[Message | None]:
        """Wait for the next message, from anybody or from `source`; None when nobody is left to send.

        With `leavers` an endpoint that leaves is reported too, as a message without a value.
        """

    @abstractmethod
    def arrived(self) -> list[Message]:
        """Return what is already here, without waiting."""


class Worker(_Endpoint):
    """The group of devices that holds one copy of the training state, as its program sees it."""

    rank: Address

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Yield batches until the run has stopped: parts of shared ones, or the worker's own, as the strategy says."""

    @abstractmethod
    def gradient(self, batch: Batch) -> Awaitable[Value]:
        """Compute the gradient at the present weights, the layout's communication included.

        It is scaled so that its plain mean over the workers is the gradient of the mean loss over the whole batch,
        however unevenly that was cut; the buffers that the forward pass changed travel with it.
        """

    @abstractmethod
    def mean(self, value: AnyValue, by_samples: bool = False) -> Awaitable[AnyValue]:
        """Exchange with all workers and return the mean; `by_samples` weights each by its `num_samples`.

        The mean of encoded values is encoded too, and their codec must be linear.
        """

    @abstractmethod
    def gather(self, value: AnyValue) -> Awaitable[list[AnyValue]]:
        """Exchange with all workers and return everybody's value, in the order of their ranks."""


class Server(_Endpoint):
    """A parameter server: no device, no data, but weights and an optimizer of its own."""

    rank: Address


class Bucket(_Program):
    """Gradients of some layers, as one replica's `reduce` sees them in one step.

    It runs as soon as the backward pass has computed them, beside the rest of that pass, one bucket after another in
    the same order everywhere. With `Layout.overlap` off it runs after the pass.

    Attributes:
        gradient: of these layers, of this replica's samples; its plain mean over the replicas is the gradient of the
            worker's batch, however unevenly that was cut. It counts no samples, and has no buffers.
        kept: what this replica keeps of this bucket from step to step, by name; empty in the first step.
        number: 0, 1, 2, ...: which bucket of the step.
        rank: of this replica.
        replicas: how many there are.
    """

    gradient: Value
    kept: dict[str, Any]
    number: int
    rank: int
    replicas: int

    @abstractmethod
    def mean(self, value: AnyValue) -> Awaitable[AnyValue]:
        """Exchange with all replicas and return the mean; of encoded values it is encoded."""

    @abstractmethod
    def gather(self, value: AnyValue) -> Awaitable[list[AnyValue]]:
        """Exchange with all replicas and return everybody's value, in the order of their ranks."""


class Strategy:
    """One parallelism strategy. Subclass it, give it a name, and change what differs from plain training.

    Attributes:
        name: what scenarios call it.
        also_known_as: what else people call it; read as its name, if no other strategy is called so.
        suggested_for: what it can be set to, and what is close to it; answered with its name.
        synchrony: shown in every table.
        equals: "single" where the strategy must train exactly like one device; it is examined before it is ranked.
        alone: "single" where one worker trains exactly like one device; None where the strategy changes the update
            itself, as an outer optimizer or compression does.
        batches: "shared": all workers cut one order of batches between them; "own": each has its own part of the data.
        model_at: where the trained model is whole: on every worker, on the server, only as the workers' mean, or as an
            ensemble of them all, whose predictions are averaged: probabilities of classes, or numbers.
            There progress is counted: at the server in gradients applied, at the workers in batches.
    """

    name: ClassVar[str]
    also_known_as: ClassVar[tuple[str, ...]] = ()
    suggested_for: ClassVar[tuple[str, ...]] = ()
    synchrony: ClassVar[Literal["synchronous", "stale-synchronous", "asynchronous"]] = "synchronous"
    equals: ClassVar[Literal["single"] | None] = None
    alone: ClassVar[Literal["single"] | None] = "single"
    batches: ClassVar[Literal["shared", "own"]] = "shared"
    model_at: ClassVar[Literal["worker", "server", "mean", "ensemble"]] = "worker"
    Options: ClassVar[type[Options]] = Options

    def __init__(self, options: Any = None) -> None:
        """Keep the options, an instance of the class's own `Options`."""
        self.options = options if options is not None else self.Options()

    def layout(self, gpus: int) -> Layout:
        """Say how a step is spread over devices; default: one device per worker.

        Raises:
            Impossible: the strategy makes no sense on `gpus` devices; the message says why.
        """
        return Layout()

    def servers(self, workers: int) -> int:
        """Return how many servers run beside the workers; they are not devices."""
        return 0

    async def work(self, worker: Worker) -> None:
        """Run the worker's program; default: plain training."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))

    async def serve(self, server: Server) -> None:
        """Run the server's program; only called where `servers` is above 0."""
        raise NotImplementedError(f"{type(self).__name__} asks for servers but has no serve()")


class ParameterServer(Strategy):
    """What strategies with one central server share: workers push gradients to it, and pull weights. A base only.

    A strategy says in `serve` what the server does with a push, and when it answers: every push is answered once, with
    weights, or its worker waits for ever.

    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server", section 2.
    """

    model_at = "server"

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Push a gradient, wait for weights; the server decides how long.

        Raises:
            PluginError: the server's program has ended without an answer.
        """
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            answer = await worker.receive(SERVER)
            if answer is None:
                raise PluginError(
                    f"{type(self).__name__}.serve() ended while worker {worker.rank} waited for weights; receive until "
                    "there is None, and answer every push"
                )
            await worker.load(answer.value)


class DataParallel(Strategy):
    """What strategies with one replica on each device share: gradients are exchanged as they are computed. A base only.

    A strategy says in `reduce` what replicas do with a bucket of them; here they average it, as torch's DDP does.

    Source: Li et al. 2020, "PyTorch Distributed: Experiences on Accelerating Data Parallel Training", section 3.
    """

    reduce: ClassVar[Callable[[Any, Bucket], Coroutine[object, None, Value]] | None] = None

    class Options(Options):
        """What goes together, and when."""

        bucket_mib: float = Field(25.0, gt=0, description="gradients are exchanged in groups of this many MiB")
        overlap: bool = Field(
            True, description="exchange gradients while others are computed; false: all at once, afterwards"
        )
        static_graph: bool = Field(False, description="promise that every step uses the same graph")

    def layout(self, gpus: int) -> Layout:
        """Put one replica on each device."""
        options = self.options
        assert isinstance(options, DataParallel.Options)
        return Layout(
            data=gpus,
            bucket_bytes=int(options.bucket_mib * MIB) if options.overlap else 0,
            overlap=options.overlap,
            static_graph=options.static_graph,
            wrapped=True,
            reduce=self.reduce,
        )
