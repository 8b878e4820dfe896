"""What the words of a virtual cluster cost: a profile of the workload, the cluster it runs on, and where layers lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.api.strategy import Layout
from harness.core.addresses import Address
from harness.core.uncertainty import StepErrors, stated_words
from harness.costs import steps
from harness.costs.cells import cluster_of, load_profile, profile_of
from harness.costs.memory import Placement
from harness.costs.profiles import (
    Cluster,
    LayerTime,
    LinkFigures,
    Messages,
    Profile,
)
from harness.costs.steps import StepCost

if TYPE_CHECKING:
    from harness.engines.virtual.executor import Executor

PASSES_OF_A_MEAN = 3
"""Times that the real engine's mean goes over a value besides the exchange: weighted, joined, divided."""


@dataclass(frozen=True)
class Costs:
    """What everything costs in one cell.

    Attributes:
        profile: of the workload on one device.
        cluster: devices and links.
        placement: layers of each pipeline stage; None without a pipeline.
    """

    profile: Profile
    cluster: Cluster
    placement: Placement | None = None

    @property
    def origin(self) -> str:
        """Where the figures are from and how far they may be off, in words."""
        compute = f"computing {self.profile.origin} ({self.profile.text})" + _band(self.profile.error)
        return f"{compute}; {self.cluster.text}" + _band(self.cluster.error, "what is exposed of them ")

    def errors(self, layout: Layout, devices: int) -> StepErrors:
        """Return what a step's parts may be off by."""
        return steps.step_errors(self.profile, self.cluster, layout, devices)

    def slowed(self, factors: Sequence[float]) -> Costs:
        """Return the costs where stage k computes `factors[k]` times as long; one factor where there are no stages."""
        if self.placement is None:
            (factor,) = factors
            return replace(self, profile=self.profile.slowed(factor))
        by_layer = [factors[k % len(factors)] for k, stage in enumerate(self.placement) for _ in stage]
        times = tuple(
            LayerTime(time.forward.scaled(factor), time.backward.scaled(factor))
            for time, factor in zip(self.profile.times, by_layer, strict=True)
        )
        return replace(self, profile=replace(self.profile, times=times))

    def slowed_alike(self, factor: float) -> Costs:
        """Return the costs where every device computes `factor` times as long."""
        return replace(self, profile=self.profile.slowed(factor))

    def step(self, layout: Layout, samples: int, micro_batch_size: int, tasks: bool = False) -> StepCost:
        """Return what a gradient over `samples` costs under a layout; with `tasks` also when what runs."""
        return steps.step_cost(self.profile, self.cluster, layout, samples, micro_batch_size, self.placement, tasks)

    # -- updates -------------------------------------------------------------------------------------------------

    @property
    def apply_s(self) -> float:
        """One update at a server that holds all weights."""
        return self.profile.optimizer_s

    def update_s(self, layout: Layout) -> float:
        """Return the seconds of one update on a worker's fullest device."""
        return steps.optimizer_s(self.profile, self.cluster, layout)

    def load_s(self, num_bytes: float) -> float:
        """Return the seconds of putting weights into a model."""
        if self.cluster.runtime.load.points:
            return self.cluster.runtime.load.at(num_bytes)
        return self.cluster.host_link.seconds(num_bytes) if self.cluster.host_link else 0.0

    def arithmetic_s(self, num_bytes: float, operations: int) -> float:
        """Return the seconds of adding values, or multiplying them by a number, on the host."""
        return operations * self.cluster.runtime.add.at(num_bytes)

    def passes_s(self, num_bytes: float, passes: float) -> float:
        """Return the seconds of arithmetic that takes as long as so many additions of two values on a worker's device.

        An addition reads two values and writes one. Where none was measured, the device's memory bandwidth says how
        long that takes; where that is not known either, nothing does, and `knows_passes` is False.
        """
        if self.cluster.runtime.add.points:
            return passes * self.cluster.runtime.add.at(num_bytes)
        bandwidth = self.profile.memory_bandwidth_bytes_per_s
        return passes * 3 * num_bytes / bandwidth if bandwidth else 0.0

    @property
    def knows_passes(self) -> bool:
        """Whether anything is known of how fast the device goes over its memory."""
        return bool(self.cluster.runtime.add.points or self.profile.memory_bandwidth_bytes_per_s)

    # -- messages and meetings -----------------------------------------------------------------------------------

    @property
    def messages(self) -> Messages | None:
        """What messages keep their ends busy with; None where only the link counts."""
        return self.cluster.runtime.messages

    def node_of(self, address: Address, layout: Layout) -> int | None:
        """Return the node of a worker, or of a server of which nothing is said; None where all share one."""
        if self.cluster.node_link is None:
            return None
        if address >= 0:
            return address * layout.devices // self.cluster.gpus_per_node
        return address if self.cluster.servers_apart else 0

    def link_between(self, one: int | None, other: int | None) -> LinkFigures:
        """Return the link between two nodes."""
        crosses = one != other and self.cluster.node_link is not None
        return self.cluster.node_link if crosses and self.cluster.node_link else self.cluster.bus.link

    def mean_s(self, workers: int, layout: Layout, num_bytes: float, since_s: float) -> float:
        """Return the seconds of one mean over all workers.

        Args:
            since_s: seconds since they last met.
        """
        if workers == 1:
            return 0.0
        nodes = self.cluster.nodes(workers * layout.devices)
        exchange = steps.all_reduce_s(self.cluster, workers, num_bytes, min(nodes, workers))
        return exchange + self.arithmetic_s(num_bytes, PASSES_OF_A_MEAN) + self.cluster.runtime.stall.at(since_s)

    def gather_s(self, workers: int, layout: Layout, num_bytes: float, since_s: float) -> float:
        """Return the seconds of one exchange in which everybody gets everybody's bytes.

        Two all-gathers: of how many bytes each worker has, and of the bytes, filled up to the most.

        Args:
            num_bytes: of the worker that has most.
            since_s: seconds since they last met.
        """
        if workers == 1:
            return 0.0
        nodes = min(self.cluster.nodes(workers * layout.devices), workers)
        lengths, whole = (steps.all_gather_s(self.cluster, workers, workers * size, nodes) for size in (8, num_bytes))
        return lengths + whole + self.cluster.runtime.stall.at(since_s)


def _band(error: float, what: str = "") -> str:
    return f", {what}{stated_words(error)}" if error else ""


# -- where costs come from ---------------------------------------------------------------------------------------------


def find_costs(executor: Executor) -> Costs:
    """Return a cell's costs: as the scenario gives them, as they were measured, or as a data sheet lets one expect.

    A workload that was never measured on this machine is measured in this process, and the record says so.

    Raises:
        HarnessError: what the scenario says is not enough to tell how long anything takes.
        Impossible: the layers cannot be cut into the layout's stages.
    """
    from harness.engines.shared.trace_or_find import shape_of
    from harness.engines.virtual.measure_here import measured_alone, placed

    cell = executor.setup.cell
    cluster, given = cluster_of(cell), cell.cluster.device is not None
    own = None if given else load_profile(cell) or measured_alone(executor)
    profile = profile_of(cell, shape_of(executor.setup) if given else None, own)
    placement = placed(executor.setup, profile)
    return Costs(profile, cluster, placement)
