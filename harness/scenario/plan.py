"""From a scenario to cells: the product of the sweep, what is left out and why, and an id for what is run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Literal

from harness.core.cell import FASTEST, RECORD_SCHEMA, Cell, LayoutDegrees, LeftOut, Named, Plan, cell_id
from harness.core.errors import InputError
from harness.core.given_cluster import devices_per_node, is_elsewhere, usable_bytes
from harness.core.machine import Machine, detect_machine, nodes_filled
from harness.core.records import Json
from harness.core.words import counted, listed, show
from harness.scenario.fastest import Fastest, with_fastest, with_warning
from harness.scenario.observed import of_cell, unmatched
from harness.scenario.override import parse_value, resolve_key
from harness.scenario.placement import Demand, Placed, demand_of, missing_link, place
from harness.scenario.read import Point, Scenario

if TYPE_CHECKING:
    from harness.api.host import Host

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
    sources = {name: host.strategy_hash(name) for name in {demand.strategy.name for demand in demands}}
    found: Fastest = {}
    cells = [
        _cell(demand, item, seed, base, sources[demand.strategy.name], scenario, host, found, machine)
        for seed in scenario.axes.seeds
        for demand, item in placed
    ]
    if not cells:
        reasons = "; ".join(dict.fromkeys(f"{item.strategy}: {item.reason}" for item in left_out))
        raise InputError([f"no cell is left to run: {reasons}"], scenario.source.where)
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
        reference_runs=scenario.reference_runs,
        slurm=scenario.slurm,
    )


def _plan_notes(scenario: Scenario, cells: Sequence[Cell], repeated: int) -> Iterator[str]:
    if repeated:
        yield f"{counted(repeated, 'duplicate combination')} merged: the settings that differ do not affect the result"
    if any(is_elsewhere(item.cluster) and item.engine == "auto" for item in scenario.settings):
        yield "the cluster is not this machine, so every cell is simulated"
    for cluster in (item.cluster for item in scenario.settings):
        if (cluster.inter_node or cluster.intra_node) and not cluster.device:
            yield "virtual cells combine this machine's measured devices with the links given in the scenario"
            break
    normalising = {each.workload.model.name for each in scenario.settings if each.batch_norm}
    yield from about_batch_norm([cell for cell in cells if cell.workload.model.name in normalising])
    yield from unmatched(scenario.observed, cells, scenario.axes.paths)


def about_batch_norm(cells: Sequence[Cell]) -> Iterator[str]:
    """Say once of every model which strategies will not train what one device trains; all of them have BatchNorm."""
    apart: dict[str, dict[str, None]] = {}
    for cell in cells:
        name = cell.workload.model.name
        shared = cell.workload.sync_batchnorm and cell.workers == 1
        if cell.workers * cell.layout.data > 1 and not shared and not cell.timing_only:
            apart.setdefault(name, {})[cell.strategy] = None
    for name, strategies in apart.items():
        yield (
            f"{name} has BatchNorm: under {listed(strategies)} each replica normalises by its own samples, so the "
            "weights differ from those of single; workload.sync_batchnorm = true makes replicas of sync-ddp and fsdp "
            "share statistics"
        )


def _demands(scenario: Scenario, host: Host, machine: Machine) -> tuple[list[Demand], list[LeftOut]]:
    """Return what every possible point asks for, and the other points with their reasons."""
    demands: list[Demand] = []
    left_out: list[LeftOut] = []
    for point in scenario.points(default_gpus(scenario, machine)):
        entry = scenario.excludes(point)
        if entry is not None:
            left_out.append(_left_out(point, scenario, "excluded", f"entry {entry + 1} of sweep.exclude"))
            continue
        misfit = point.settings.faults.misfit(point.gpus)
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


def _cell(
    demand: Demand,
    placed: Placed,
    seed: int,
    base: int,
    source: str,
    scenario: Scenario,
    host: Host,
    found: Fastest,
    machine: Machine,
) -> Cell:
    point, settings = demand.point, demand.point.settings
    rate, rule = scaled_rate(point, demand.global_batch_size, base)
    optimizer = point.variant.optimizer or settings.workload.optimizer
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
        workload=replace(settings.workload, optimizer=optimizer),
        goal=settings.goal,
        measure=settings.measure,
        cluster=settings.cluster,
        faults=settings.faults,
        swept=settings.swept,
        threads_per_device=settings.threads_per_device,
        cell_timeout_s=settings.cell_timeout_s,
        folder=str(scenario.folder),
        oversubscribed=placed.oversubscribed,
        notes=(*placed.notes, *_training_notes(demand, optimizer), *settings.faults.words()),
        not_possible=placed.not_possible,
        dram_bytes=settings.dram_bytes or (usable_bytes(settings.cluster) if simulated else None),
        context_bytes=settings.context_bytes,
        timing_only=settings.timing_only or (simulated and settings.goal.evaluate_every is None),
        per_gpu_hour=settings.per_gpu_hour,
        currency=settings.currency,
        profile_id=settings.profile_id,
        nodes=_nodes(demand, simulated, machine),
        layout=LayoutDegrees(*(getattr(demand.layout, key) for key in ("data", "pipeline", "tensor", "shard"))),
        code={**settings.code, "strategy": source},
    )
    cell = with_fastest(cell, host, found) if _searched(demand, cell) else with_warning(cell)
    cell = replace(cell, observed=of_cell(scenario.observed, cell, scenario.axes.paths))
    if simulated:
        from harness.costs.cells import measured_id, needs_measuring  # late: a plan of real cells answers sooner

        if needs_measuring(cell):
            cell = replace(cell, profile_id=measured_id(cell))
    return replace(cell, cell_id=cell_id(cell))


def _nodes(demand: Demand, simulated: bool, machine: Machine) -> int:
    """Return how many machines a cell fills."""
    gpus, settings = demand.point.gpus, demand.point.settings
    given = settings.cluster
    if simulated and (is_elsewhere(given) or given.inter_node is not None or given.gpus_per_node is not None):
        return -(-gpus // devices_per_node(given, gpus))
    return nodes_filled(gpus, machine.devices_of_node(demand.device, settings.threads_per_device), machine.nodes)


def _searched(demand: Demand, cell: Cell) -> bool:
    """Say whether the fastest micro-batch is to be found: as asked, or of a simulated pipeline that was given none."""
    if demand.micro_batch_size == FASTEST:
        return True
    given = demand.point.micro is not None or demand.layout.accumulate > 1
    elsewhere = cell.engine == "virtual" and is_elsewhere(cell.cluster)
    return demand.layout.pipeline > 1 and not given and elsewhere and cell.batch_size > 1


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


def _training_notes(demand: Demand, optimizer: Named) -> Iterator[str]:
    if demand.point.variant.optimizer is not None:
        written = show({"name": optimizer.name, **optimizer.options})
        yield f"optimizer from [strategy.{demand.strategy.name}]: {written}"
    momentum = optimizer.options.get("momentum", 0)
    if demand.strategy.synchrony == "asynchronous" and momentum and demand.workers > 1:
        yield f"momentum {momentum:g} with {demand.workers} asynchronous workers: staleness acts like extra momentum"


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
        raise InputError([f"--only {written} matches no cell; {path} is one of {', '.join(there)}"])
    return chosen


def _flat(cell: Cell) -> Json:
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
    row |= {f"goal.{key}": value for key, value in vars(cell.goal).items()}
    for key, value in vars(cell.workload).items():
        row[f"workload.{key}"] = value.name if isinstance(value, Named) else value
        if isinstance(value, Named):
            row |= {f"workload.{key}.{option}": item for option, item in value.options.items()}
    return row | cell.swept
