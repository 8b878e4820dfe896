"""Links by name: what they are sold with, and what messages get of it."""

from __future__ import annotations

from dataclasses import dataclass

from harness.core.given_cluster import LinkFigures
from harness.core.units import GIGA
from harness.core.words import bandwidth, exact_duration

CARRIED = {
    "nvlink": 0.80,
    "fabric": 0.70,
    "pcie": 0.80,
    "ethernet": 0.94,
    "roce": 0.92,
    "infiniband": 0.95,
    "efa": 0.80,
}
"""Share of the nominal rate that large messages get, by kind of link.

nvlink: all-reduces of 1 GiB over 8 GPUs reach 0.76 of it with NVSwitch and 0.90 on a cube mesh (validation case K1);
pcie: copies between GPUs reach 12 to 13 of 15.75 GB/s, the rest is headers and acknowledgements; ethernet: 1,448 of
1,538 bytes of a full frame are payload; roce and infiniband: headers of a 4 KiB packet and what perftest loses on top;
fabric and efa: chosen, because published all-reduces reach 0.65 to 0.85.
"""

LATENCY_S = {
    "nvlink": 5e-6,
    "fabric": 8e-6,
    "pcie": 6e-6,
    "ethernet": 30e-6,
    "roce": 10e-6,
    "infiniband": 10e-6,
    "efa": 20e-6,
}
"""One message of a collective, by kind of link.

NCCL's own planner counts 3.4 us (NVLink), 5.7 us (PCIe) and 9.6 us (network) for a hop of a ring with its "Simple"
protocol (src/graph/tuning.cc, version 2.8), beside 8.4 us for the whole; measured all-reduces fit 5 to 9 us a message
on 4 and 8 GPUs (validation case K1). ethernet: TCP through the kernel, 20 to 50 us; fabric and efa: chosen.
"""

LARGEST_SLOT_BYTES_PER_S = 63e9
"""Of a PCIe 5 slot of 16 lanes: what is faster inside a node is not PCIe."""

LARGEST_ETHERNET_BYTES_PER_S = 12.5e9
"""Up to 100 Gb/s a network is taken for Ethernet, above for InfiniBand; chosen: faster ones pass the kernel by."""


def medium_of(bytes_per_s: float, inside: bool) -> str:
    """Return the medium that a rate is taken for where a scenario does not name one.

    Args:
        inside: a node; otherwise between nodes.
    """
    if inside:
        return "pcie" if bytes_per_s <= LARGEST_SLOT_BYTES_PER_S else "nvlink"
    return "ethernet" if bytes_per_s <= LARGEST_ETHERNET_BYTES_PER_S else "infiniband"


@dataclass(frozen=True)
class Link:
    """A link that scenarios can name.

    Attributes:
        kind: decides which share of the rate is carried, and the latency.
        nominal_bytes_per_s: per direction; of all links of one device together, or of one network adapter.
        source: where the nominal rate is printed.
    """

    name: str
    kind: str
    nominal_bytes_per_s: float
    source: str
    doubt: str = ""

    @property
    def summary(self) -> str:
        """One line for `harness plugins`."""
        link = self.link()
        nominal, carried = bandwidth(self.nominal_bytes_per_s, 4), bandwidth(link.bandwidth_bytes_per_s, 4)
        return f"carries {carried} of nominal {nominal} per direction, latency {exact_duration(link.latency_s, 3)}"

    def link(self, adapters: int = 1) -> LinkFigures:
        """Return what messages get of so many of these side by side."""
        return LinkFigures(LATENCY_S[self.kind], adapters * self.nominal_bytes_per_s * CARRIED[self.kind])


def _network(kind: str, speeds: dict[str, float], source: str) -> tuple[Link, ...]:
    return tuple(Link(f"{kind}-{name}", kind, gigabits / 8 * GIGA, source) for name, gigabits in speeds.items())


_GIGABITS = {"10g": 10.0, "25g": 25.0, "40g": 40.0, "50g": 50.0, "100g": 100.0, "200g": 200.0, "400g": 400.0}

LINKS = (
    Link("nvlink1", "nvlink", 80e9, "NVIDIA Tesla P100 white paper: 4 links of 20 GB/s"),
    Link("nvlink2", "nvlink", 150e9, "NVIDIA V100 data sheet: 6 links of 25 GB/s"),
    Link("nvlink3", "nvlink", 300e9, "NVIDIA A100 data sheet: 12 links of 25 GB/s"),
    Link("nvlink4", "nvlink", 450e9, "NVIDIA H100 data sheet: 18 links of 25 GB/s"),
    Link("nvlink5", "nvlink", 900e9, "NVIDIA Blackwell architecture brief: 18 links of 50 GB/s"),
    Link("nvlink-bridge", "nvlink", 56.25e9, "NVIDIA RTX 3090 and A40 data sheets: 4 links of 14 GB/s, pairs only"),
    Link("nvswitch1", "nvlink", 150e9, "NVIDIA DGX-2 data sheet: every V100 at its 6 links' rate to any other"),
    Link("nvswitch2", "nvlink", 300e9, "NVIDIA DGX A100 data sheet: every A100 at its 12 links' rate to any other"),
    Link("nvswitch3", "nvlink", 450e9, "NVIDIA DGX H100 data sheet: every H100 at its 18 links' rate to any other"),
    Link("nvswitch4", "nvlink", 900e9, "NVIDIA DGX B200 data sheet: every B200 at its 18 links' rate to any other"),
    Link(
        "infinity-fabric-mi250x",
        "fabric",
        50e9,
        "AMD CDNA 2 white paper: 50 GB/s a link; between most pairs of dies there is one",
        "the dies of one board share four links, so pairs differ by a factor of 4",
    ),
    Link(
        "infinity-fabric-mi300x",
        "fabric",
        448e9,
        "AMD Instinct MI300X data sheet: 7 links of 64 GB/s, one to each other device of the node",
        "two devices alone have one link, 64 GB/s",
    ),
    Link("pcie3x16", "pcie", 15.75e9, "PCI-SIG: 16 lanes of 8 GT/s, 128b/130b"),
    Link("pcie4x16", "pcie", 31.5e9, "PCI-SIG: 16 lanes of 16 GT/s, 128b/130b"),
    Link("pcie5x16", "pcie", 63e9, "PCI-SIG: 16 lanes of 32 GT/s, 128b/130b"),
    *_network("ethernet", {"1g": 1.0, **_GIGABITS}, "IEEE 802.3; TCP through the kernel"),
    *_network("roce", _GIGABITS, "IEEE 802.3; RoCE version 2"),
    Link("infiniband-fdr", "infiniband", 6.8e9, "InfiniBand Trade Association: 4 lanes of 14.06 Gb/s, 64b/66b"),
    Link("infiniband-edr", "infiniband", 12.5e9, "InfiniBand Trade Association: 100 Gb/s"),
    Link("infiniband-hdr", "infiniband", 25e9, "InfiniBand Trade Association: 200 Gb/s"),
    Link("infiniband-ndr", "infiniband", 50e9, "InfiniBand Trade Association: 400 Gb/s"),
    Link("infiniband-xdr", "infiniband", 100e9, "InfiniBand Trade Association: 800 Gb/s"),
    *_network("efa", {"100g": 100.0, "400g": 400.0, "3200g": 3200.0}, "AWS Elastic Fabric Adapter, all of an instance"),
    Link("slingshot-200g", "roce", 25e9, "HPE Slingshot 11 data sheet: 200 Gb/s an adapter"),
)
"""What ships: per direction, per device inside a node, per adapter between nodes."""
