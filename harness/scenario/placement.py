"""What a point asks for - workers, servers, shares of the batch - and which engine can give it."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.core.cell import FASTEST, LARGEST, Workload
from harness.core.errors import HarnessError, Impossible, PluginError
from harness.core.given_cluster import devices_per_node, is_elsewhere
from harness.core.machine import Machine
from harness.core.text import Text
from harness.core.words import counted
from harness.scenario.executions import why_never, why_not_here
from harness.scenario.read import Point, Scenario
from harness.workloads.entries import EAGER

if TYPE_CHECKING:
    from harness.api.strategy import Layout, Strategy
    from harness.scenario.settings import Settings


@dataclass(frozen=True)
class Demand:
    """A possible point.

    Attributes:
        device: "cuda" or "cpu".
        batch_size: samples of one update that one data-parallel rank brings.
        micro_batch_size: samples that pass forward at once; `LARGEST` where memory decides,
            `FASTEST` where prices do.
        global_batch_size: samples behind one update of the weights.
    """

    point: Point
    strategy: type[Strategy]
    layout: Layout
    device: str
    workers: int
    servers: int
    batch_size: int
    micro_batch_size: int
    global_batch_size: int


@dataclass(frozen=True)
class Placed:
    """Where a point is run, or why it is not."""

    engine: str
    device: str
    oversubscribed: bool = False
    notes: tuple[str, ...] = ()
    not_possible: str = ""


def demand_of(point: Point, scenario: Scenario, strategy: type[Strategy], machine: Machine) -> Demand | str | None:
    """Return what a point asks for, the reason why it is impossible, or None after adding a problem to the scenario.

    Raises:
        PluginError: the strategy's layout raised something other than `Impossible`.
    """
    spread = _spread(point, strategy)
    if isinstance(spread, str):
        return spread
    layout, workers, servers = spread
    never = why_never(_workload(point), layout, workers, servers)
    if never:
        return never
    # Workers with batches of their own each bring a whole update; only their layout cuts it.
    ranks = layout.data * (workers if strategy.batches == "shared" else 1)
    batches = _batches(point, scenario, strategy.name, ranks, layout.accumulate)
    if batches is None or isinstance(batches, str):
        return batches
    device = _device(point, machine)
    return Demand(point, strategy, layout, device, workers, servers, *batches)


def _workload(point: Point) -> Workload:
    """Return what a point trains, with the optimizer of its strategy where that has one of its own."""
    workload = point.settings.workload
    return replace(workload, optimizer=point.variant.optimizer or workload.optimizer)


def _spread(point: Point, strategy: type[Strategy]) -> tuple[Layout, int, int] | str:
    try:
        chosen = strategy(strategy.Options(**point.variant.options))
        layout = chosen.layout(point.gpus)
        workers, rest = divmod(point.gpus, layout.devices)
        if rest or not workers:
            return f"{_devices(point)} cannot be divided into workers of {_equation(layout)} devices"
        return layout, workers, chosen.servers(workers)
    except Impossible as error:
        return str(error)
    except HarnessError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        raise PluginError(
            f"strategy {strategy.name} on {_devices(point)}: {where.filename}:{where.lineno}: "
            f"{type(error).__name__}: {error}"
        ) from error


def _devices(point: Point) -> str:
    return counted(point.gpus, "device")


def _equation(layout: Layout) -> str:
    return f"data {layout.data} x pipeline {layout.pipeline} x tensor {layout.tensor} = {layout.devices}"


def _batches(
    point: Point, scenario: Scenario, name: str, ranks: int, accumulate: int
) -> tuple[int, int, int] | str | None:
    """Return batch, micro-batch and global batch in samples, why there are none, or None after adding a problem."""
    key = scenario.axes.batch_key
    written = _samples(point, scenario)
    if written is None:
        return None
    if key == "batch_size" and point.batch != "full":
        batch, total = written, written * ranks
    elif written % ranks and point.batch == "full":
        # The training set is as large as it is: the last rank's part is smaller, as in every last batch.
        batch, total = -(-written // ranks), written
    elif written % ranks:
        allowed = f"must be a multiple of {ranks} ({_products(ranks, written)})"
        reason = f"{name} on {_devices(point)} divides it among {ranks} data-parallel ranks"
        problem = f"{allowed}, because {reason}; change it, or exclude the point"
        scenario.source.problem(("sweep", key), problem, written)
        return None
    else:
        batch, total = written // ranks, written
    micro = _micro_batch(point, scenario, batch, accumulate, name)
    return micro if isinstance(micro, str) else (batch, micro, total)


def _products(factor: int, number: int) -> str:
    """Write out the two products around a number that does not divide."""
    below = number // factor
    products = [f"{factor} x {count} = {factor * count}" for count in (below, below + 1) if count]
    return ", ".join(products)


def _samples(point: Point, scenario: Scenario) -> int | None:
    if isinstance(point.batch, int):
        return point.batch
    at = ("sweep", scenario.axes.batch_key)
    try:
        num_train = point.settings.num_train()
    except (HarnessError, OSError) as error:
        scenario.source.problem(at, " ".join(str(error).split()), point.batch)
        return None
    if num_train is None:
        unknown = (
            "is known only after loading it"
            if not point.settings.timing_only
            else "does not exist: the model reads no data"
        )
        scenario.source.problem(at, f"this data set's size {unknown}; write a number", "full")
    return num_train


def _micro_batch(point: Point, scenario: Scenario, batch: int, accumulate: int, name: str) -> int | str:
    """Return the micro-batch: as written, as the layout accumulates, or all of the batch; or why there is none."""
    key, written = scenario.axes.micro_key, point.micro
    whose = f"{name} on {_devices(point)}"
    if written is None:
        if batch % accumulate:
            rule = f"set {scenario.axes.batch_key} to a multiple of {accumulate} ({_products(accumulate, batch)})"
            return f"{whose} computes {batch} samples in {accumulate} equal pieces; {rule}"
        return batch // accumulate
    if written in (LARGEST, FASTEST):
        return written
    if batch % written == 0:
        return written if key == "micro_batch_size" else batch // written
    rule = f"which {key} = {written} does not divide ({_products(written, batch)}); set a divisor of {batch}"
    return f"{whose} has a batch_size of {batch}, {rule}"


def _device(point: Point, machine: Machine) -> str:
    wanted = point.settings.device
    return wanted if wanted != "auto" else "cuda" if machine.gpus else "cpu"


def _simulated_device(demand: Demand) -> str:
    """Return the kind of a simulated device: the catalogue's are GPUs, whatever this machine has."""
    settings = demand.point.settings
    if settings.cluster.catalogue_device:
        return "cuda"
    # Without mathematics nothing is computed here, so the same cell has the same id on every machine.
    return "cuda" if settings.timing_only and settings.device == "auto" else demand.device


SHARING_BY_ITSELF = 2
"""Workers that share the only GPU without being told to; chosen: two show asynchrony, more only fight for it."""


def place(demand: Demand, machine: Machine) -> list[Placed]:
    """Return where a point runs, and why it is not possible there where its steps cannot be executed so."""
    return [_judged(demand, placed) for placed in _places(demand, machine)]


def _judged(demand: Demand, placed: Placed) -> Placed:
    settings, simulated = demand.point.settings, placed.engine == "virtual"
    trains = not settings.timing_only and settings.goal.evaluate_every is not None
    timed_here = settings.cluster.device is None and not settings.timing_only
    reason = why_not_here(settings.workload, placed.device, computed_here=not simulated or timed_here)
    if reason and not placed.not_possible:
        return replace(placed, not_possible=reason)
    if simulated and trains and settings.workload.step != EAGER:
        return replace(
            placed, notes=(*placed.notes, f"its times are those of {settings.workload.step} steps; it computes eagerly")
        )
    return placed


def _places(demand: Demand, machine: Machine) -> list[Placed]:
    """Return where a point runs: on the real engine as far as devices exist, virtually beyond; twice for "both".

    Two asynchronous workers on a machine with one GPU share it: a real run, noted and not ranked, says more than none.
    """
    settings = demand.point.settings
    engine = "virtual" if settings.timing_only else settings.engine
    unready = _not_yet(demand.layout) or _only_timed(demand.layout, settings)
    if unready:
        return [Placed("virtual" if engine == "virtual" else "real", demand.device, not_possible=unready)]
    if engine == "virtual" or _is_simulated(settings):
        return [
            Placed(
                "virtual",
                _simulated_device(demand),
                notes=("timing only, nothing is trained",) if settings.timing_only else (),
            )
        ]
    hindrance = _hindrance(demand, machine)
    if engine == "real":
        return [_forced(demand, machine, hindrance)]
    virtual = Placed("virtual", _simulated_device(demand))
    shares = demand.workers <= SHARING_BY_ITSELF and _shares_one_gpu(demand, machine, hindrance)
    if hindrance and not shares:
        return [virtual]
    real = _forced(demand, machine, hindrance)
    return [real, virtual] if engine == "both" else [real]


def missing_link(demand: Demand) -> str:
    """Say that a virtual point fills several nodes and nothing is known of the link between them; else nothing."""
    cluster, gpus = demand.point.settings.cluster, demand.point.gpus
    per_node = devices_per_node(cluster, gpus)
    if cluster.inter_node or gpus <= per_node:
        return ""
    return (
        f"required: {gpus} devices need {-(-gpus // per_node)} nodes of {per_node}. Set the link between nodes, such "
        'as "25 Gb/s" or "infiniband-hdr", or raise cluster.gpus_per_node'
    )


def _not_yet(layout: Layout) -> str:
    if layout.gathers and layout.pipeline * layout.tensor > 1:
        return f"sharding (shard = {layout.shard!r}) inside {_equation(layout)} is not supported yet"
    if layout.reduce is not None and (layout.pipeline * layout.tensor > 1 or layout.shard != "none"):
        return (
            "a layout's own reduce exchanges gradients of replicas that each hold the whole model, as under torch's "
            f"DDP; not of {_equation(layout)} with shard = {layout.shard!r}"
        )
    return ""


def _only_timed(layout: Layout, settings: Settings) -> str:
    """Say what of a layout has a cost and no program yet; nothing where nothing is trained."""
    timed = settings.timing_only or (settings.goal.evaluate_every is None and _is_simulated(settings))
    if timed or (layout.drains and layout.recompute != "all-but-last"):
        return ""
    what = 'schedule = "pipedream"' if not layout.drains else 'recompute = "all-but-last"'
    return f'{what} is timed, not trained: set engine = "virtual" and leave goal.evaluate_every out'


def _is_simulated(settings: Settings) -> bool:
    return settings.engine == "virtual" or (settings.engine == "auto" and is_elsewhere(settings.cluster))


def present(demand: Demand, machine: Machine) -> int:
    """Return how many devices of the cell's kind there are; a CPU device is `threads_per_device` cores."""
    if demand.device == "cuda":
        return machine.gpus
    return machine.cores // demand.point.settings.threads_per_device


@dataclass(frozen=True)
class Hindrance:
    """Why the real engine cannot run a point.

    Attributes:
        shortage: devices that the machine lacks; 0 where it is not for want of devices.
    """

    text: Text
    shortage: int = 0


def _hindrance(demand: Demand, machine: Machine) -> Hindrance | None:
    """Return why the real engine cannot run a point, if it cannot."""
    layout = demand.layout
    if layout.shard == "states" and (layout.overlap or layout.pipeline * layout.tensor > 1):
        return Hindrance(
            Text('shard = "states" with overlap, stages or cut layers runs on the virtual engine only; zero-1 on both')
        )
    if demand.layout.sequence_parallel:
        return Hindrance(Text("sequence_parallel runs on the virtual engine only"))
    if demand.workers > 1 and layout.devices > 1 and (demand.servers or not _under_ddp(layout)):
        return Hindrance(
            Text(
                f"{demand.workers} workers of {layout.devices} devices each: real processes run those whose devices "
                'are replicas under DDP and that need no server; set engine = "virtual" for all others'
            )
        )
    there, gpus = present(demand, machine), demand.point.gpus
    if gpus <= there:
        return None
    needs = f'needs {_count(demand, gpus)}, but this machine has {there}; engine = "virtual" simulates them'
    return Hindrance(Text(needs), gpus - there)


def _under_ddp(layout: Layout) -> bool:
    """Whether a worker's devices are whole replicas that average gradients while they compute them."""
    return layout.data == layout.devices and layout.shard == "none" and (layout.overlap or layout.reduce is not None)


def _count(demand: Demand, number: int) -> str:
    threads = demand.point.settings.threads_per_device
    if demand.device == "cuda" or threads == 1:
        return counted(number, "GPU" if demand.device == "cuda" else "CPU core")
    return counted(number, f"set of {threads} CPU cores", f"sets of {threads} CPU cores")


def _forced(demand: Demand, machine: Machine, hindrance: Hindrance | None) -> Placed:
    """Place a point that must be real: more CPU workers than cores share them; more GPUs than there are cannot be."""
    if hindrance and hindrance.shortage and demand.device == "cpu":
        there, gpus = present(demand, machine), demand.point.gpus
        note = f"oversubscribed: {gpus} devices share {_count(demand, there)}, so its speed is shown but not ranked"
        return Placed("real", "cpu", True, (note, *_real_notes(demand, machine)))
    if _shares_one_gpu(demand, machine, hindrance):
        note = f"{demand.workers} workers share one GPU, so their speed is shown but not ranked"
        return Placed("real", "cuda", True, (note, *_real_notes(demand, machine)))
    if hindrance:
        return Placed("real", demand.device, not_possible=hindrance.text)
    return Placed("real", demand.device, notes=tuple(_real_notes(demand, machine)))


def _shares_one_gpu(demand: Demand, machine: Machine, hindrance: Hindrance | None) -> bool:
    """Say whether asynchronous workers can share the only GPU: they never wait for each other, and need no NCCL."""
    meets_nobody = demand.servers > 0 and demand.strategy.model_at == "server"
    independent = demand.strategy.synchrony == "asynchronous" and meets_nobody and demand.layout.devices == 1
    scarce = hindrance is not None and hindrance.shortage > 0
    return scarce and demand.device == "cuda" and machine.gpus == 1 and independent


def _real_notes(demand: Demand, machine: Machine) -> Iterator[str]:
    threads = demand.point.settings.threads_per_device
    busy = demand.point.gpus * threads
    if demand.device == "cpu" and demand.servers and busy + demand.servers > machine.cores:
        yield f"the server shares the machine's {machine.cores} cores with {demand.workers} workers"
