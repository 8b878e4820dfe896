"""From a scenario to cells: the product of the sweep, what is left out and why, and an id for what is run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from harness.cell_id import RECORD_SCHEMA, cell_id, strategy_source
from harness.clusters import is_elsewhere, usable_bytes
from harness.costs.find import devices_per_node
from harness.costs.measured import measured_id, needs_measuring
from harness.errors import InputError
from harness.faults import Faults
from harness.machine import Machine, detect_machine
from harness.observed import of_cell, unmatched
from harness.override import parse_value, resolve_key
from harness.placement import Demand, Placed, demand_of, missing_link, place
from harness.scenario import Point, Scenario
from harness.source import show

if TYPE_CHECKING:
    from harness.host import Host

__all__ = [
    "RECORD_SCHEMA",
    "Cell",
    "LeftOut",
    "Machine",
    "Plan",
    "detect_machine",
    "make_plan",
    "select",
]


@dataclass(frozen=True)
class Cell:
    """A point with its seed and engine: all that running it takes, and JSON throughout.

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
        model_at: where the strategy's model is whole: "worker", "server" or "mean".
        cluster: what `harness.clusters.resolve` makes of the scenario: figures, no names that need a catalogue.
        dram_bytes: usable memory of one device: what the scenario allows, or a catalogue device has; None: no limit.
        timing_only: times and memory, no training: the workload has no mathematics, or nobody asks for its results.
        observed: measurements of this cell from elsewhere: `throughput_samples_per_s`, `step_time_s`, `source`.
        per_gpu_hour: price of one device for an hour, in `currency`.
        profile_id: hash of the file or measurement that the workload's times are from; else empty.
        nodes: machines that the devices fill.
        layout: degrees of one worker: data, pipeline, tensor, and what is sharded.
        faults: what `harness.faults.Faults.of` reads; empty where nothing goes wrong.
    """

    cell_id: str
    strategy: str
    options: dict[str, Any]
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
    workload: dict[str, Any]
    goal: dict[str, Any]
    measure: dict[str, Any]
    cluster: dict[str, Any]
    swept: dict[str, Any]
    threads_per_device: int
    cell_timeout_s: float
    folder: str
    oversubscribed: bool = False
    notes: tuple[str, ...] = ()
    not_possible: str = ""
    model_at: str = "worker"
    faults: dict[str, Any] = field(default_factory=dict)
    dram_bytes: int | None = None
    timing_only: bool = False
    observed: tuple[dict[str, Any], ...] = ()
    per_gpu_hour: float | None = None
    currency: str = ""
    profile_id: str = ""
    nodes: int = 1
    layout: dict[str, Any] = field(default_factory=dict)

    @property
    def server_counts(self) -> bool:
        """Whether progress is counted, marked and ended at the server, where the model is; else at the workers."""
        return self.servers > 0 and self.model_at == "server"

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {**asdict(self), "notes": list(self.notes), "observed": list(self.observed)}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Cell:
        """Return the cell that `to_dict` was called on; keys that a cell does not have are ignored."""
        known = {item.name: content[item.name] for item in fields(cls) if item.name in content}
        return cls(**known | {key: tuple(known.get(key, ())) for key in ("notes", "observed")})


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
            machine cannot run, so that each gets a record.
        notes: what holds for the whole plan.
        understood: quantities with units, as they were read.
    """

    name: str
    description: str
    machine: Machine
    cells: tuple[Cell, ...]
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    understood: tuple[str, ...] = ()
    budget_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as plan.json holds it."""
        content = {item.name: getattr(self, item.name) for item in fields(self)}
        return content | {
            "machine": asdict(self.machine),
            "cells": [cell.to_dict() for cell in self.cells],
            "left_out": [asdict(item) for item in self.left_out],
            "notes": list(self.notes),
            "understood": list(self.understood),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Plan:
        """Return the plan that `to_dict` was called on."""
        return cls(
            name=content["name"],
            description=content["description"],
            machine=Machine(**content["machine"]),
            cells=tuple(Cell.from_dict(cell) for cell in content["cells"]),
            left_out=tuple(LeftOut(**item) for item in content["left_out"]),
            notes=tuple(content["notes"]),
            understood=tuple(content["understood"]),
            budget_s=content["budget_s"],
        )


def make_plan(scenario: Scenario, host: Host, machine: Machine) -> Plan:
    """Turn a scenario into cells.

    Args:
        scenario: what was read; its problems are reported with their lines.
        host: the strategies, and the sources of files that ids depend on.
        machine: what cells can really run on.

    Raises:
        InputError: batches do not divide, or nothing is left to run; all such mistakes are in it.
        PluginError: a strategy's layout raised something of its own.
    """
    # Problems of an earlier plan, for another machine perhaps, are not this one's.
    scenario = replace(scenario, source=replace(scenario.source, problems=[]))
    demands, left_out = _demands(scenario, host, machine)
    scenario.source.raise_problems()
    base = min((demand.global_batch_size for demand in demands), default=0)
    placed = [(demand, item) for demand in demands for item in place(demand, machine)]
    for demand, item in placed:
        if item.engine == "virtual" and (missing := missing_link(demand)):
            scenario.source.problem(("cluster", "inter_node"), missing)
    scenario.source.raise_problems()
    sources = {demand.strategy.name: strategy_source(demand.strategy.name, host) for demand in demands}
    cells = [
        _cell(demand, item, seed, base, sources[demand.strategy.name], scenario)
        for seed in scenario.axes.seeds
        for demand, item in placed
    ]
    if not cells:
        reasons = "; ".join(dict.fromkeys(f"{item.strategy}: {item.reason}" for item in left_out))
        raise InputError([f"nothing is left to run: {reasons}"], scenario.source.where)
    unique = {cell.cell_id: cell for cell in cells}
    return Plan(
        name=scenario.name,
        description=scenario.description,
        machine=machine,
        cells=tuple(unique.values()),
        left_out=tuple(left_out),
        notes=(*scenario.axes.notes, *_plan_notes(scenario, tuple(unique.values()), len(cells) - len(unique))),
        understood=scenario.understood,
        budget_s=scenario.budget_s,
    )


def _plan_notes(scenario: Scenario, cells: Sequence[Cell], repeated: int) -> Iterator[str]:
    if repeated:
        yield f"{repeated} of the product differ from others only in what cannot change their outcome; run once"
    if any(is_elsewhere(item.cluster) and item.engine == "auto" for item in scenario.settings):
        yield "the cluster is not this machine: every cell is simulated"
    for cluster in (item.cluster for item in scenario.settings):
        if (cluster["inter_node"] or cluster["intra_node"]) and not cluster["device"]:
            yield "virtual cells mix this machine's measured devices with the links that the scenario gives"
            break
    yield from unmatched(scenario.observed, cells)


def _demands(scenario: Scenario, host: Host, machine: Machine) -> tuple[list[Demand], list[LeftOut]]:
    """Return what every possible point asks for, and the other points with their reasons."""
    demands: list[Demand] = []
    left_out: list[LeftOut] = []
    for point in scenario.points(default_gpus(scenario, machine)):
        entry = scenario.excludes(point)
        if entry is not None:
            left_out.append(_left_out(point, scenario, "excluded", f"by entry {entry + 1} of sweep.exclude"))
            continue
        misfit = Faults.of(point.settings.faults).misfit(point.gpus)
        demand = misfit or demand_of(point, scenario, host.strategies[point.variant.strategy], machine)
        if isinstance(demand, str):
            left_out.append(_left_out(point, scenario, "impossible", demand))
        elif demand is not None:
            demands.append(demand)
    return demands, left_out


def default_gpus(scenario: Scenario, machine: Machine) -> tuple[int, ...]:
    """Return the device counts where the scenario gives none: one and all GPUs, or one and two CPU cores."""
    cpu = scenario.settings[0].device == "cpu" or machine.gpus == 0
    return (1, 2) if cpu else tuple(sorted({1, machine.gpus}))


def _left_out(point: Point, scenario: Scenario, kind: Literal["excluded", "impossible"], reason: str) -> LeftOut:
    parts = [f"gpus {point.gpus}", f"{scenario.axes.batch_key} {point.batch}"]
    parts += [f"learning_rate {point.learning_rate:g}"] if point.learning_rate else []
    parts += [f"{path} {show(value)}" for path, value in point.settings.swept.items()]
    return LeftOut(point.variant.strategy, ", ".join(parts), kind, reason)


def _cell(demand: Demand, placed: Placed, seed: int, base: int, source: str, scenario: Scenario) -> Cell:
    point, settings = demand.point, demand.point.settings
    rate, rule = scaled_rate(point, demand.global_batch_size, base)
    optimizer = point.variant.optimizer or settings.workload["optimizer"]
    simulated = placed.engine == "virtual"
    cell = Cell(
        cell_id="",
        strategy=demand.strategy.name,
        options=point.variant.options,
        synchrony=demand.strategy.synchrony,
        equals=demand.strategy.equals,
        model_at=demand.strategy.model_at,
        engine=placed.engine,
        device=placed.device,
        gpus=point.gpus,
        workers=demand.workers,
        servers=demand.servers,
        batch_size=demand.batch_size,
        micro_batch_size=demand.micro_batch_size,
        global_batch_size=demand.global_batch_size,
        learning_rate=rate,
        lr_rule=rule,
        seed=seed,
        workload={**settings.workload, "optimizer": optimizer},
        goal=settings.goal,
        measure=settings.measure,
        cluster=settings.cluster,
        faults=settings.faults,
        swept=settings.swept,
        threads_per_device=settings.threads_per_device,
        cell_timeout_s=settings.cell_timeout_s,
        folder=str(scenario.folder),
        oversubscribed=placed.oversubscribed,
        notes=(*placed.notes, *_training_notes(demand, optimizer), *Faults.of(settings.faults).words()),
        not_possible=placed.not_possible,
        dram_bytes=settings.dram_bytes or (usable_bytes(settings.cluster) if simulated else None),
        timing_only=settings.timing_only or (simulated and settings.goal["evaluate_every"] is None),
        per_gpu_hour=settings.per_gpu_hour,
        currency=settings.currency,
        profile_id=settings.profile_id,
        nodes=-(-point.gpus // devices_per_node(settings.cluster, point.gpus)) if simulated else 1,
        layout={key: getattr(demand.layout, key) for key in ("data", "pipeline", "tensor", "shard")},
    )
    cell = replace(cell, observed=of_cell(scenario.observed, cell))
    if needs_measuring(cell):
        cell = replace(cell, profile_id=measured_id(cell))
    return replace(cell, cell_id=cell_id(cell, {**settings.identity, "strategy_source": source}))


def scaled_rate(point: Point, global_batch_size: int, base: int) -> tuple[float, str]:
    """Return the rate of a point and the rule behind it.

    The rate that the scenario gives belongs to the smallest global batch of the sweep; larger ones get more of it,
    in proportion (Goyal et al. 2017, section 2.1) or by the square root (Krizhevsky 2014, section 3.2).

    Args:
        point: says the rate and how it scales.
        global_batch_size: of the point, in samples.
        base: the smallest global batch of the sweep, in samples.
    """
    rate = point.settings.learning_rate if point.learning_rate is None else point.learning_rate
    ratio = f"{global_batch_size}/{base}"
    if point.lr_scaling == "linear":
        return rate * global_batch_size / base, f"linear: {rate:g} x {ratio}"
    if point.lr_scaling == "sqrt":
        return rate * (global_batch_size / base) ** 0.5, f"sqrt: {rate:g} x sqrt({ratio})"
    return rate, ""


def _training_notes(demand: Demand, optimizer: Mapping[str, Any]) -> Iterator[str]:
    if demand.point.variant.optimizer is not None:
        written = show({"name": optimizer["name"], **optimizer["options"]})
        yield f"optimizer from [strategy.{demand.strategy.name}]: {written}"
    momentum = optimizer["options"].get("momentum", 0)
    if demand.strategy.synchrony == "asynchronous" and momentum and demand.workers > 1:
        yield f"asynchronous with momentum {momentum:g} and {demand.workers} workers: staleness acts as more momentum"


def select(plan: Plan, only: Sequence[str]) -> tuple[Cell, ...]:
    """Return the cells that every `--only KEY=VALUE` fits; VALUE may be several, separated by commas.

    Raises:
        InputError: a key is unknown, or nothing fits.
    """
    cells = plan.cells
    for written in only:
        key, _, value = written.partition("=")
        if not key or not value:
            raise InputError([f"--only {written}: write KEY=VALUE, such as --only gpus=1,2"])
        cells = _fitting(cells, key.strip().removeprefix("sweep."), value, written)
    return cells


def _fitting(cells: tuple[Cell, ...], key: str, value: str, written: str) -> tuple[Cell, ...]:
    rows = [(cell, _flat(cell)) for cell in cells]
    known = list(dict.fromkeys(path for _, row in rows for path in row))
    path, wrong = resolve_key(key, known)
    if path is None:
        raise InputError([f"--only {written}: {wrong}"])
    parsed = parse_value(value)
    wanted = parsed if isinstance(parsed, list) else [parsed]
    chosen = tuple(cell for cell, row in rows if path in row and row[path] in wanted)
    if not chosen:
        there = dict.fromkeys(show(row[path]) for _, row in rows if path in row)
        raise InputError([f"--only {written}: fits no cell; {path} is one of {', '.join(there)}"])
    return chosen


def _flat(cell: Cell) -> dict[str, Any]:
    """Return a cell's values by key: a path of the scenario, or a column of the results."""
    hidden: tuple[str, ...] = (
        "options",
        "notes",
        "swept",
        "folder",
        "cell_timeout_s",
        "cluster",
        "measure",
        "workload",
        "goal",
    )
    hidden += ("faults", "observed", "layout")
    row = {item.name: getattr(cell, item.name) for item in fields(cell) if item.name not in hidden}
    row |= {f"strategy.{cell.strategy}.{key}": value for key, value in cell.options.items()}
    row |= {f"goal.{key}": value for key, value in cell.goal.items()}
    for key, value in cell.workload.items():
        row[f"workload.{key}"] = value["name"] if isinstance(value, dict) else value
        if isinstance(value, dict):
            row |= {f"workload.{key}.{option}": item for option, item in value["options"].items()}
    return row | cell.swept
