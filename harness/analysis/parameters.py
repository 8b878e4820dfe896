"""Figures of a cluster that could be other than they are configured: how far, in which words, and where to look."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from harness.core.words import bandwidth, bit_rate, duration, rate, share_in_percent


@dataclass(frozen=True)
class Parameter:
    """Something of a cluster that could be other than it is configured.

    Attributes:
        key: where it stands in a scenario.
        gives: the value in a sentence that begins with it.
        place: of a link's bandwidth: which link it is.
        write: from a value to text with its unit.
        part: of a step, that it acts on.
        multiples: plausible values as multiples of the configured one; () where it may be 0.
        most: largest plausible value where it may be 0.
        rising: whether more of it makes a step longer.
        look_at: where to look when this is the cause.
    """

    key: str
    gives: str
    write: Callable[[float], str]
    part: str
    look_at: str
    place: str = ""
    multiples: tuple[float, float] | tuple[()] = ()
    most: float = 0.0
    rising: bool = False

    def words(self, value: float) -> str:
        """Return the parameter at a value, such as "25 Gb/s between nodes"."""
        return self.gives.format(self.write(value))

    def bound(self, configured: float, slower: bool) -> float:
        """Return the farthest plausible value that makes steps slower, or faster."""
        higher = slower == self.rising
        if self.multiples:
            return configured * self.multiples[higher]
        return max(self.most, configured) if higher else 0.0

    def distance(self, configured: float, value: float, bound: float) -> float:
        """Return how far a value is from the configured one: 0 there, 1 at the bound of what is plausible."""
        if self.multiples:
            return math.log(value / configured) / math.log(bound / configured)
        return (value - configured) / (bound - configured)


PARAMETERS = (
    # Down to 1/20: an adapter that fell back from 100 to 10 Gb/s, halved again by a neighbour. Up to twice: the second
    # port of a bond that nobody counted. Chosen.
    Parameter(
        key="cluster.inter_node.bandwidth",
        gives="{} between nodes",
        place="between nodes",
        write=bit_rate,
        part="communication_s",
        multiples=(0.05, 2.0),
        look_at="each node's negotiated rate (ethtool), both ports of a bond, MTU 1500 where 9000 was meant, "
        "the interface that the library chose (NCCL_SOCKET_IFNAME, GLOO_SOCKET_IFNAME), another job on the switch",
    ),
    # Down to 1/16: a card in one lane of sixteen. Up to 4 times: NVLink where a PCIe slot was configured. Chosen.
    Parameter(
        key="cluster.intra_node.bandwidth",
        gives="{} inside a node",
        place="inside a node",
        write=bandwidth,
        part="communication_s",
        multiples=(1 / 16, 4.0),
        look_at="width and generation of each slot (nvidia-smi -q), pairs that cross sockets (nvidia-smi topo -m), "
        "peer-to-peer access switched off, several devices behind one PCIe switch",
    ),
    # Up to 2 ms a message: a server's CPU that a neighbour keeps busy for a time slice. Chosen.
    Parameter(
        key="cluster.inter_node.latency",
        gives="A latency of {} between nodes",
        write=duration,
        part="communication_s",
        most=2e-3,
        rising=True,
        look_at="kernel TCP where RDMA was meant, interrupt moderation of the adapter, switches on the way, "
        "many small buckets",
    ),
    Parameter(
        key="cluster.intra_node.latency",
        gives="A latency of {} inside a node",
        write=duration,
        part="communication_s",
        most=2e-3,
        rising=True,
        look_at="processes pinned to the wrong socket, a CPU that launches late, many small buckets",
    ),
    # Down to 0.4: a device throttled from its boost clock to its lowest sustained one, or shared by two processes.
    # Up to 1.5: an estimate from peak figures that was too careful. Chosen.
    Parameter(
        key="cluster.device.samples_per_second",
        gives="A device speed of {}",
        write=rate,
        part="compute_s",
        multiples=(0.4, 1.5),
        look_at="clocks, temperature and power cap (nvidia-smi -q -d PERFORMANCE), another process on the device, "
        "data loading that a step waits for, eager kernels where the figure is for compiled ones",
    ),
    Parameter(
        key="cluster.server.bandwidth",
        gives="{} at the server",
        write=bit_rate,
        part="communication_s",
        multiples=(0.05, 2.0),
        look_at="the server's adapter, which all workers share; workers that run on the server's node; "
        "fewer servers than configured",
    ),
    # A step's slowest worker of many at sigma 1 takes several times the mean: more is a broken device. Chosen.
    Parameter(
        key="faults.compute_jitter",
        gives="A compute jitter of {}",
        write=share_in_percent,
        part="idle_s",
        most=1.0,
        rising=True,
        look_at="computing times worker by worker (steps.parquet), one hot or throttled device, other processes on "
        "some hosts, batches of unequal length, data loading",
    ),
)
"""What is varied, each alone. Bounds say what would still be believed; chosen, each for the reason beside it."""
