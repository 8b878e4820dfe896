"""A scenario's cluster in figures, as cells carry it: no name in it needs a catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

MeasuredTable = tuple[tuple[float, float], ...]
"""An all-reduce as it was measured: (bytes, seconds), bytes rising."""

AllReduce = Literal["auto", "ring", "tree", "halving-doubling", "hierarchical"]
"""Algorithm of all-reduces that cross nodes; "auto": the fastest."""

ServerPlacement = Literal["cpu", "gpu", "co-located", "dedicated"]
"""Where parameter servers run: on the workers' host CPU, the devices, the workers' nodes, or nodes of their own."""

MOST_LAYERS = 10_000
"""Of a model that a scenario or a file of times gives; chosen: the deepest published network has as many.

Source: Xiao et al. 2018, "Dynamical Isometry and a Mean Field Theory of CNNs".
"""

THIS_MACHINE = "this-machine"


@dataclass(frozen=True)
class LinkFigures:
    """A link of constant latency and bandwidth, per direction."""

    latency_s: float
    bandwidth_bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Return the time on the wire, latency left out."""
        return num_bytes / self.bandwidth_bytes_per_s if num_bytes else 0.0


@dataclass(frozen=True)
class GivenLink(LinkFigures):
    """A link as the scenario or the catalogue has it.

    Attributes:
        name: in the catalogue; empty where the scenario gives figures.
        by_group: latency per message and bus bandwidth by number of devices, where they were measured.
        tables: all-reduces by number of devices, where they were measured; preferred to everything else.
        medium: what the latency follows from; empty where the scenario, the name or a measurement says it.
        shared_by: devices that share one such link.
        group_size: neighbours in front of one link to the others; 0 where all devices reach each other alike.
        across: that link.
    """

    name: str = ""
    by_group: Mapping[int, LinkFigures] = field(default_factory=dict)
    tables: Mapping[int, MeasuredTable] = field(default_factory=dict)
    medium: str = ""
    shared_by: int = 1
    group_size: int = 0
    across: LinkFigures | None = None

    @property
    def figures(self) -> LinkFigures:
        """Latency and bandwidth alone."""
        return LinkFigures(self.latency_s, self.bandwidth_bytes_per_s)


@dataclass(frozen=True)
class DeviceFigures:
    """A catalogue device as cells carry it; `harness.costs.catalogue.devices.Device` describes the fields."""

    name: str
    chip: str
    peak_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    memory_bytes: float
    usable_bytes: float
    link: str
    power_w: float
    matrix: tuple[str, ...]
    launch_s: float
    dies_per_board: int


@dataclass(frozen=True)
class StepFigures:
    """A device of which only one figure is known: how fast it trains the workload at one batch size.

    Attributes:
        batch_size: samples of the step.
        step_time_s: of one step; None where the rate is given.
        samples_per_second: None where the time is given.
    """

    batch_size: int
    step_time_s: float | None = None
    samples_per_second: float | None = None


@dataclass(frozen=True)
class GivenServers:
    """Parameter servers that the scenario speaks of; None stands for what follows from the cell."""

    placement: ServerPlacement
    count: int | None = None
    apply_bytes_per_s: float | None = None
    link: GivenLink | None = None
    overlap: bool = True


@dataclass(frozen=True)
class ClusterFigures:
    """What a scenario's cluster is.

    Attributes:
        preset: its name.
        device: None: this machine's own.
        gpus_per_node: None where nothing says it.
        host_link: between a device and its host's memory.
        chip, usable_bytes, dies_per_board: of the device, where the catalogue knows it.
        servers: None where the scenario does not speak of them.
        all_reduce: algorithm between nodes.
        shared_host: devices are threads of processors that others use too.
        speed: how many times as fast devices compute as the rest says: found by calibration.
        overheads: whether devices elsewhere have what no data sheet says; False: figures mean what they say.
    """

    preset: str = THIS_MACHINE
    device: DeviceFigures | StepFigures | None = None
    gpus_per_node: int | None = None
    intra_node: GivenLink | None = None
    inter_node: GivenLink | None = None
    host_link: GivenLink | None = None
    chip: str = ""
    usable_bytes: float | None = None
    dies_per_board: int = 1
    servers: GivenServers | None = None
    all_reduce: AllReduce = "auto"
    shared_host: bool = False
    speed: float = 1.0
    overheads: bool = True

    @property
    def catalogue_device(self) -> DeviceFigures | None:
        """The device, where it is one of the catalogue's."""
        return self.device if isinstance(self.device, DeviceFigures) else None


def is_elsewhere(cluster: ClusterFigures) -> bool:
    """Say whether a cluster's devices are not this machine's."""
    return cluster.preset != THIS_MACHINE or cluster.device is not None


def devices_per_node(cluster: ClusterFigures, gpus: int) -> int:
    """Return how many devices share a node.

    Where nobody says it, a link between nodes makes every device a node of its own, and without one all share a node.
    """
    return cluster.gpus_per_node or (1 if cluster.inter_node else max(1, gpus))


def usable_bytes(cluster: ClusterFigures) -> int | None:
    """Return the memory of one device where the catalogue knows it."""
    return None if cluster.usable_bytes is None else round(cluster.usable_bytes)
