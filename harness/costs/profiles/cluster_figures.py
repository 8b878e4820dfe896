"""Devices, nodes and the links between them, as costs see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.core.given_cluster import AllReduce, ServerPlacement
from harness.core.given_cluster import LinkFigures as LinkFigures
from harness.core.given_cluster import MeasuredTable as MeasuredTable
from harness.costs.profiles.constants import PLAIN, Constants
from harness.costs.profiles.runtime import Runtime


@dataclass(frozen=True)
class Bus:
    """The links between the devices of one node.

    Attributes:
        link: between two devices; its bandwidth is also the bus bandwidth of a ring where nothing better is known.
        by_group: latency per message and bus bandwidth by group size: not monotonic on a cube mesh.
        tables: all-reduces measured by group size; preferred to everything else.
        gathers, scatters: the same of all-gathers and reduce-scatters, by the bytes of the whole vector; where none was
            measured, each takes half of an all-reduce, as in a ring.
        group_size: neighbours in front of one link to the others; 0 where all devices reach each other alike.
        across: that link.
    """

    link: LinkFigures
    by_group: Mapping[int, LinkFigures] = field(default_factory=dict)
    tables: Mapping[int, MeasuredTable] = field(default_factory=dict)
    gathers: Mapping[int, MeasuredTable] = field(default_factory=dict)
    scatters: Mapping[int, MeasuredTable] = field(default_factory=dict)
    group_size: int = 0
    across: LinkFigures | None = None


@dataclass(frozen=True)
class Servers:
    """Where parameter servers run.

    Attributes:
        placement: on the workers' host CPU, on the devices, on the workers' nodes, or on nodes of their own.
        count: of equal shards; of no meaning on the devices, each of which holds one.
        apply_bytes_per_s: gradient bytes that one server adds to its weights in a second.
        link: of each dedicated server's node; None: as the workers' nodes have.
        overlap: layers' gradients leave and layers' weights come back while devices compute.
    """

    placement: ServerPlacement = "cpu"
    count: int = 1
    apply_bytes_per_s: float = float("inf")
    link: LinkFigures | None = None
    overlap: bool = False


NO_RUNTIME = Runtime()


@dataclass(frozen=True)
class Cluster:
    """What a step runs on; all devices alike.

    Attributes:
        device: name in words.
        gpus_per_node: devices of one node.
        bus: inside a node.
        node_link: of one node, all its adapters together; None where there is one node.
        node_by_group, node_tables: all-reduces between nodes by number of devices, as `Bus` has them inside one; of
            devices that fill as few nodes as hold them.
        host_link: between a device and its host's memory; None where unknown.
        host_shared_by: devices that share one slot of host_link.
        dram_bytes: usable memory of one device; None where unknown.
        servers: None where nothing is said: one, behind an interface of its own.
        servers_apart: whether a server of which nothing is said has a node of its own, where there are several.
        algorithm: of all-reduces that cross nodes.
        text: where the figures are from, in words.
        error: stated relative uncertainty of communication times, one standard deviation.
        runtime: what software and a shared host add.
        constants: what no data sheet says; by default nothing.
        dies_per_board: devices that share one board's power.
        shared_host: devices are threads of processors that others use too.
    """

    device: str
    gpus_per_node: int
    bus: Bus
    node_link: LinkFigures | None = None
    node_by_group: Mapping[int, LinkFigures] = field(default_factory=dict)
    node_tables: Mapping[int, MeasuredTable] = field(default_factory=dict)
    host_link: LinkFigures | None = None
    host_shared_by: int = 1
    dram_bytes: int | None = None
    servers: Servers | None = None
    servers_apart: bool = True
    algorithm: AllReduce = "auto"
    text: str = ""
    error: float = 0.0
    runtime: Runtime = NO_RUNTIME
    constants: Constants = PLAIN
    dies_per_board: int = 1
    shared_host: bool = False

    def crowded_fraction(self, devices: int) -> float:
        """Return how much longer computing takes where so many devices do it at once: they share power and clocks."""
        if devices == 1:
            return 0.0
        # Dies of one board fill it from two on.
        board = self.constants.shared_board_fraction * (self.dies_per_board > 1)
        return board + self.constants.shared_host_fraction * self.shared_host

    def hides_exchange(self, devices: int) -> bool:
        """Say whether devices compute while they exchange: threads that send do not."""
        return not self.shared_host and self.runtime.hides_exchange(devices)

    def nodes(self, devices: int) -> int:
        """Return how many nodes so many devices fill."""
        return -(-devices // self.gpus_per_node)
