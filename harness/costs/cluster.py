"""Devices, nodes and the links between them, as costs see them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MeasuredTable = tuple[tuple[float, float], ...]
"""An all-reduce as it was measured: (bytes, seconds), bytes rising."""


@dataclass(frozen=True)
class Link:
    """A link of constant latency and bandwidth, per direction."""

    latency_s: float
    bandwidth_bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Return the time on the wire, latency left out."""
        return num_bytes / self.bandwidth_bytes_per_s if num_bytes else 0.0


@dataclass(frozen=True)
class Bus:
    """The links between the devices of one node.

    Attributes:
        link: between two devices; its bandwidth is also the bus bandwidth of a ring where nothing better is known.
        by_group: latency per message and bus bandwidth by group size: not monotonic on a cube mesh.
        tables: all-reduces measured by group size; preferred to everything else.
        shared_by: devices that share one slot with the link's figure; 1 where each has its own.
    """

    link: Link
    by_group: Mapping[int, Link] = field(default_factory=dict)
    tables: Mapping[int, MeasuredTable] = field(default_factory=dict)
    shared_by: int = 1


@dataclass(frozen=True)
class Servers:
    """Where parameter servers run.

    Attributes:
        placement: on the workers' host CPU, on the devices, on the workers' nodes, or on nodes of their own.
        apply_bytes_per_s: gradient bytes that one server adds to its weights in a second.
    """

    placement: Literal["cpu", "gpu", "co-located", "dedicated"] = "cpu"
    count: int = 1
    apply_bytes_per_s: float = float("inf")


@dataclass(frozen=True)
class Cluster:
    """What a step runs on; all devices alike.

    Attributes:
        device: name in words.
        gpus_per_node: devices of one node.
        bus: inside a node.
        node_link: of one node, all its adapters together; None where there is one node.
        host_link: between a device and its host's memory; None where unknown.
        host_shared_by: devices that share one slot of host_link.
        dram_bytes: usable memory of one device; None where unknown.
        algorithm: of all-reduces that cross nodes.
        text: where the figures are from, in words.
        error: stated relative uncertainty of communication times, one standard deviation.
    """

    device: str
    gpus_per_node: int
    bus: Bus
    node_link: Link | None = None
    host_link: Link | None = None
    host_shared_by: int = 1
    dram_bytes: int | None = None
    servers: Servers = Servers()
    algorithm: Literal["auto", "ring", "tree", "halving-doubling", "hierarchical"] = "auto"
    text: str = ""
    error: float = 0.0

    def nodes(self, devices: int) -> int:
        """Return how many nodes so many devices fill."""
        return -(-devices // self.gpus_per_node)
