"""How long a step of a cell would take were one figure of its cluster another. Imports no torch.

The cell's own program runs on the simulated clock with sizes in place of numbers, so that the answer holds for any
strategy; a step takes what step costs, messages and meetings add up to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from harness.core.budget import Goal
from harness.core.cell import LARGEST
from harness.core.errors import HarnessError
from harness.core.faults import Jitter
from harness.core.given_cluster import MeasuredTable
from harness.core.not_known import NotKnown
from harness.core.outcome import CountedDram
from harness.core.step_parts import STEP_PARTS, Part
from harness.core.uncertainty import StepErrors
from harness.costs.cells import cluster_of, find_shape, profile_of
from harness.costs.memory import placement_of
from harness.costs.price import PricedStep, priced_step, reduces
from harness.costs.profiles import PUBLISHED, Bus, Cluster, Constants, LinkFigures, Profile
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.timing import timing_setup

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.core.outcome import Outcome
    from harness.costs.profiles import ModelShape

NODES, BUS = "cluster.inter_node", "cluster.intra_node"
SPEED, SERVER, JITTER = "cluster.device.samples_per_second", "cluster.server.bandwidth", "faults.compute_jitter"

FEW_STEPS = 3
"""Of one worker whose steps are all alike: chosen, because the first has no step before it."""

ROUNDS = 16
"""Steps of each of several workers: chosen; the second half counts, which holds one exchange of local-sgd's default."""

JITTERED_STEPS = 64
"""Steps that a jitter is averaged over: chosen; the same draws at every sigma, so that the mean grows with it."""


@dataclass(frozen=True)
class WhatIf:
    """A cell with its figures, ready to be run with others.

    Attributes:
        configured: what can be changed, by the keys that `harness.analysis.parameters` knows, in SI units.
        origins: how a figure came about, where it was not configured.
    """

    cell: Cell
    host: Host
    profile: Profile
    cluster: Cluster
    configured: Mapping[str, float] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)

    def step_s(self, overrides: Mapping[str, float]) -> float:
        """Return the seconds of an update with some figures changed."""
        return _update_s(self.run(overrides))

    def run(self, overrides: Mapping[str, float]) -> Outcome:
        """Return a short run with some figures changed."""
        from harness.engines.virtual.engine import build
        from harness.engines.virtual.sizes import Sizes

        cell = _with_jitter(self.cell, overrides.get(JITTER))
        setup = timing_setup(_shortened(cell), self.host)
        costs = _costs(self, overrides)
        shape = self.profile.shape
        executor: Any = Sizes(setup, shape.parameter_bytes, 0, CountedDram, shape)
        return build(setup, costs=costs, executor=executor).run()


def update_s(cell: Cell, host: Host, overheads: Constants = PUBLISHED) -> float:
    """Return the seconds of an update: in closed form where one worker is all, else of a short run.

    Args:
        overheads: what no data sheet says of devices elsewhere.

    Raises:
        HarnessError: what is known of the cell is not enough to tell how long anything takes.
    """
    return foretold(cell, host, overheads).seconds


def foretold(cell: Cell, host: Host, overheads: Constants = PUBLISHED) -> PricedStep:
    """Return the seconds of an update, and how far they may be off.

    Args:
        overheads: what no data sheet says of devices elsewhere.

    Raises:
        HarnessError: what is known of the cell is not enough to tell how long anything takes.
    """
    shape = find_shape(cell, host)
    if cell.workers > 1 or cell.servers or cell.faults or cell.micro_batch_size == LARGEST or reduces(cell, host):
        outcome = what_if(cell, host, shape, overheads).run({})
        return PricedStep(_update_s(outcome), _stated(outcome))
    return priced_step(cell, host, shape, overheads)


def _stated(outcome: Outcome) -> float:
    seconds = {part: sum(outcome.steps[part.column]) for part in STEP_PARTS}
    own_s = seconds[Part.INPUT] + seconds[Part.COMPUTE]
    return StepErrors(*outcome.facts["errors"]).of(own_s, seconds[Part.COMMUNICATION], seconds[Part.IDLE])


def what_if(
    cell: Cell, host: Host, shape: ModelShape | NotKnown | None = None, overheads: Constants = PUBLISHED
) -> WhatIf:
    """Return a cell whose figures can be changed.

    Args:
        overheads: what no data sheet says of devices elsewhere.

    Raises:
        HarnessError: what is known of the cell is not enough to tell how long anything takes.
    """
    if cell.micro_batch_size == LARGEST:
        raise HarnessError("the largest micro-batch is known only once the cell has run")
    profile, cluster = profile_of(cell, shape), cluster_of(cell, overheads)
    several = cell.gpus > 1 or cell.servers > 0
    configured: dict[str, float] = {}
    if several:
        configured |= _of_link(BUS, cluster.bus.link)
    if cluster.node_link is not None and (cluster.nodes(cell.gpus) > 1 or cell.servers):
        configured |= _of_link(NODES, cluster.node_link)
        if cell.servers and (own := _servers_link(cluster)):
            configured[SERVER] = own.bandwidth_bytes_per_s
    configured[SPEED] = cell.micro_batch_size / profile.gradient_s(cell.micro_batch_size)
    if several and cell.synchrony == "synchronous" and cell.faults.compute_jitter is None:
        configured[JITTER] = 0.0
    return WhatIf(cell, host, profile, cluster, configured, _origins(cell, profile))


def _servers_link(cluster: Cluster) -> LinkFigures | None:
    """Return the link that only servers use; None where they share the workers'."""
    servers = cluster.servers
    if servers is None or servers.placement == "dedicated":
        return (servers and servers.link) or cluster.node_link
    return None


def _of_link(key: str, link: LinkFigures) -> dict[str, float]:
    return {f"{key}.bandwidth": link.bandwidth_bytes_per_s, f"{key}.latency": link.latency_s}


def _origins(cell: Cell, profile: Profile) -> dict[str, str]:
    words = {"measured": "measured here", "given": "configured", "estimated": "estimated"}
    origins = {SPEED: words[profile.origin]}
    for key, link in ((NODES, cell.cluster.inter_node), (BUS, cell.cluster.intra_node)):
        if link is None:
            origins |= {f"{key}.{name}": "assumed" for name in ("bandwidth", "latency")}
    return origins


# -- another cluster ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ServerCosts(Costs):
    """Costs of a cluster whose servers have links of their own."""

    server_bandwidth_bytes_per_s: float = float("inf")

    def link_between(self, one: int | None, other: int | None) -> LinkFigures:
        """Return the link between two nodes; those of servers have negative numbers."""
        link = super().link_between(one, other)
        if min(one or 0, other or 0) >= 0:
            return link
        return replace(link, bandwidth_bytes_per_s=self.server_bandwidth_bytes_per_s)


def _costs(given: WhatIf, overrides: Mapping[str, float]) -> Costs:
    cluster, configured = given.cluster, given.configured
    link = _changed(NODES, cluster.node_link, overrides) if cluster.node_link else None
    if link is not None and cluster.node_link is not None:
        groups, tables = _as_much(cluster.node_link, link, cluster.node_by_group, cluster.node_tables)
        cluster = replace(cluster, node_link=link, node_by_group=groups, node_tables=tables)
    cluster = replace(cluster, bus=_bus(cluster.bus, overrides))
    factor = configured[SPEED] / overrides.get(SPEED, configured[SPEED])
    profile, placement = given.profile.slowed(factor), placement_of(given.cell, given.host, given.profile.shape)
    if f"{BUS}.bandwidth" in overrides:
        cluster = _slower_memory(cluster, configured[f"{BUS}.bandwidth"] / overrides[f"{BUS}.bandwidth"])
    if SERVER in overrides and cluster.servers is not None and (own := _servers_link(cluster)):
        changed = replace(own, bandwidth_bytes_per_s=overrides[SERVER])
        cluster = replace(cluster, servers=replace(cluster.servers, link=changed))
    elif SERVER in overrides:
        return _ServerCosts(profile, cluster, placement, server_bandwidth_bytes_per_s=overrides[SERVER])
    return Costs(profile, cluster, placement)


def _changed(key: str, link: LinkFigures, overrides: Mapping[str, float]) -> LinkFigures:
    bandwidth = overrides.get(f"{key}.bandwidth", link.bandwidth_bytes_per_s)
    return LinkFigures(overrides.get(f"{key}.latency", link.latency_s), bandwidth)


def _as_much(
    before: LinkFigures,
    after: LinkFigures,
    by_group: Mapping[int, LinkFigures],
    tables: Mapping[int, MeasuredTable],
) -> tuple[dict[int, LinkFigures], dict[int, MeasuredTable]]:
    """Return what was measured by group size, changed as much as the link is."""
    rate = after.bandwidth_bytes_per_s / before.bandwidth_bytes_per_s
    later = after.latency_s - before.latency_s
    groups = {
        ranks: LinkFigures(max(0.0, group.latency_s + later), group.bandwidth_bytes_per_s * rate)
        for ranks, group in by_group.items()
    }
    changed = {
        ranks: tuple((size, max(0.0, seconds / rate + 2 * (ranks - 1) * later)) for size, seconds in table)
        for ranks, table in tables.items()
    }
    return groups, changed


def _bus(bus: Bus, overrides: Mapping[str, float]) -> Bus:
    """Return the bus with another link."""
    link = _changed(BUS, bus.link, overrides)
    groups, tables = _as_much(bus.link, link, bus.by_group, bus.tables)
    return replace(bus, link=link, by_group=groups, tables=tables)


def _slower_memory(cluster: Cluster, factor: float) -> Cluster:
    """Return the cluster where what passes through the host's memory takes `factor` times as long."""
    runtime = cluster.runtime
    messages = runtime.messages
    if messages is not None:
        messages = replace(messages, send=messages.send.scaled(factor), take=messages.take.scaled(factor))
    return replace(cluster, runtime=replace(runtime, hop=runtime.hop.scaled(factor), messages=messages))


# -- a short run -------------------------------------------------------------------------------------------------------


def _with_jitter(cell: Cell, sigma: float | None) -> Cell:
    return replace(cell, faults=replace(cell.faults, compute_jitter=Jitter("lognormal", sigma))) if sigma else cell


def _shortened(cell: Cell) -> Cell:
    """Return the cell with as few updates as tell its pace, evaluated never and without deaths."""
    steps = FEW_STEPS if cell.workers == 1 and not cell.servers else ROUNDS
    if cell.faults.compute_jitter:
        steps = JITTERED_STEPS
    updates = steps * cell.workers if cell.synchrony == "asynchronous" else steps
    goal = Goal(max_steps=updates, validation_fraction=cell.goal.validation_fraction)
    return replace(cell, goal=goal, faults=replace(cell.faults, deaths=()))


def _update_s(outcome: Outcome) -> float:
    """Return the seconds of an update over the second half of a run."""
    applied: Sequence[float] = outcome.updates_log.get("time_s") or ()
    if applied:
        first = len(applied) // 2
        return (applied[-1] - applied[first - 1]) / (len(applied) - first)
    pairs = zip(outcome.steps["start_s"], outcome.steps["worker"], strict=True)
    starts: Sequence[float] = [start for start, worker in pairs if worker == 0]
    first = len(starts) // 2
    return (outcome.training_s - starts[first]) / (len(starts) - first)
