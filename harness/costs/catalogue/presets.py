"""Whole clusters by name: devices, nodes and links that belong together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from harness.core.records import Json


@dataclass(frozen=True)
class Preset:
    """A cluster that scenarios can name; single keys of the scenario override it.

    Attributes:
        device: name in the catalogue.
        intra_node: name of the link between devices of a node.
        inter_node: name of the link of one adapter between nodes; empty where there is one node only.
        adapters: network adapters of a node.
        by_group: measured inside a node: (seconds a message, bus bandwidth in bytes per second) by group size.
        host_link: name of the link between a device and its host.
        host_shared_by: devices that share one slot of it.
        intra_shared_by: devices that share one slot of the link between devices.
        graph: pairs of devices of a node and the number of links between them, where they reach each other unlike.
        graph_link: nominal rate of one of these, as a scenario writes it.
        source: who says so.
    """

    name: str
    device: str
    gpus_per_node: int
    intra_node: str
    inter_node: str
    source: str
    adapters: int = 1
    by_group: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    host_link: str = "pcie3x16"
    host_shared_by: int = 1
    intra_shared_by: int = 1
    doubt: str = ""
    graph: Sequence[tuple[int, int, int]] = ()
    graph_link: str = ""

    @property
    def parts(self) -> Json:
        """The keys of [cluster] that say the same."""
        inside: Json = {"name": self.intra_node}
        if self.graph:
            pairs = [list(pair) for pair in self.graph]
            inside = {"nominal": self.graph_link, "medium": "nvlink", "graph": pairs}
        if self.by_group:
            inside["bus_bandwidth"] = {
                str(ranks): {"bandwidth": f"{rate!r} B/s", "latency": f"{latency_s!r} s"}
                for ranks, (latency_s, rate) in self.by_group.items()
            }
        inside |= {"shared_by": self.intra_shared_by} if self.intra_shared_by > 1 else {}
        outside = {"name": self.inter_node, "adapters": self.adapters} if self.adapters > 1 else self.inter_node
        shared = {"name": self.host_link, "shared_by": self.host_shared_by}
        return {
            "device": self.device,
            "gpus_per_node": self.gpus_per_node,
            "intra_node": inside if len(inside) > 1 else self.intra_node,
            **({"inter_node": outside} if self.inter_node else {}),
            "host_link": shared if self.host_shared_by > 1 else self.host_link,
        }

    @property
    def summary(self) -> str:
        """One line for `harness plugins`."""
        adapters = f"{self.adapters} x " if self.adapters > 1 else ""
        between = f", {adapters}{self.inter_node} between nodes" if self.inter_node else ""
        return f"nodes of {self.gpus_per_node} x {self.device} over {self.intra_node}{between}"


# All-reduces of 1 MiB to 1 GiB, fitted by latency and bandwidth (validation case K1: VIA-Research/vTrain, MIT; mean
# error 0.0 to 1.8 %). A whole all-reduce of n devices takes 2 (n - 1) messages, which share the fitted constant.
_CUBE_MESH_V100 = {2: (24e-6 / 2, 22.6e9), 4: (45e-6 / 6, 85.8e9), 8: (76e-6 / 14, 136e9)}
_NVSWITCH_A100 = {2: (46e-6 / 2, 193e9), 4: (54e-6 / 6, 218e9), 8: (79e-6 / 14, 227e9)}
_CUBE_MESH = (
    *((0, 1, 1), (0, 2, 1), (0, 3, 1), (1, 2, 1), (1, 3, 1), (2, 3, 1)),
    *((4, 5, 1), (4, 6, 1), (4, 7, 1), (5, 6, 1), (5, 7, 1), (6, 7, 1)),
    *((0, 4, 1), (1, 5, 1), (2, 6, 1), (3, 7, 1)),
)
_MEASURED = "; all-reduces inside a node as measured by Bang et al. 2023 (vTrain)"

PRESETS = (
    Preset("dgx1-p100", "P100-SXM2-16GB", 8, "nvlink1", "infiniband-edr", "NVIDIA DGX-1 data sheet; hybrid cube mesh: "
           "NVIDIA DGX-1 system architecture", 4, host_shared_by=2, graph=_CUBE_MESH, graph_link="20 GB/s"),
    Preset("dgx1-v100", "V100-SXM2-32GB", 8, "nvlink2", "infiniband-edr", "NVIDIA DGX-1 data sheet" + _MEASURED, 4,
           by_group=_CUBE_MESH_V100, host_shared_by=2),
    Preset("dgx2", "V100-SXM2-32GB", 16, "nvswitch1", "infiniband-edr", "NVIDIA DGX-2 data sheet", 8, host_shared_by=2),
    Preset("dgx-a100", "A100-SXM4-80GB", 8, "nvswitch2", "infiniband-hdr", "NVIDIA DGX A100 data sheet" + _MEASURED, 8,
           by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("dgx-h100", "H100-SXM-80GB", 8, "nvswitch3", "infiniband-ndr", "NVIDIA DGX H100 data sheet", 8,
           host_link="pcie5x16"),
    Preset("dgx-h200", "H200-SXM-141GB", 8, "nvswitch3", "infiniband-ndr", "NVIDIA DGX H200 data sheet", 8,
           host_link="pcie5x16"),
    Preset("dgx-b200", "B200-SXM-180GB", 8, "nvswitch4", "infiniband-ndr", "NVIDIA DGX B200 data sheet", 8,
           host_link="pcie5x16"),
    Preset("mi300x-8", "MI300X-OAM-192GB", 8, "infinity-fabric-mi300x", "roce-400g",
           "AMD Instinct MI300X platform data sheet", 8, host_link="pcie5x16",
           doubt="the network is the usual one, not part of the platform"),
    Preset("frontier", "MI250X-GCD-64GB", 8, "infinity-fabric-mi250x", "slingshot-200g",
           "OLCF Frontier user guide: 4 boards of 2 dies, 4 adapters", 4, host_link="pcie4x16"),
    Preset("aws-p2.8xlarge", "K80-die-12GB", 8, "pcie3x16", "ethernet-10g", "AWS EC2 instance types", host_shared_by=2,
           intra_shared_by=2, doubt="the PCIe tree is not published; two dies of a board share its slot"),
    Preset("aws-p3.16xlarge", "V100-SXM2-16GB", 8, "nvlink2", "ethernet-25g", "AWS EC2 instance types" + _MEASURED,
           by_group=_CUBE_MESH_V100, host_shared_by=2),
    Preset("aws-p3dn.24xlarge", "V100-SXM2-32GB", 8, "nvlink2", "efa-100g", "AWS EC2 instance types" + _MEASURED,
           by_group=_CUBE_MESH_V100, host_shared_by=2),
    Preset("aws-p4d.24xlarge", "A100-SXM4-40GB", 8, "nvswitch2", "efa-400g", "AWS EC2 instance types" + _MEASURED,
           by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("aws-p4de.24xlarge", "A100-SXM4-80GB", 8, "nvswitch2", "efa-400g", "AWS EC2 instance types" + _MEASURED,
           by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("aws-p5.48xlarge", "H100-SXM-80GB", 8, "nvswitch3", "efa-3200g", "AWS EC2 instance types",
           host_link="pcie5x16"),
    Preset("aws-p5en.48xlarge", "H200-SXM-141GB", 8, "nvswitch3", "efa-3200g", "AWS EC2 instance types",
           host_link="pcie5x16"),
    Preset("azure-nd40rs-v2", "V100-SXM2-32GB", 8, "nvlink2", "infiniband-edr", "Azure NDv2 series" + _MEASURED,
           by_group=_CUBE_MESH_V100, host_shared_by=2),
    Preset("azure-nd96asr-v4", "A100-SXM4-40GB", 8, "nvswitch2", "infiniband-hdr",
           "Azure ND A100 v4 series" + _MEASURED, 8, by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("azure-nd96amsr-a100-v4", "A100-SXM4-80GB", 8, "nvswitch2", "infiniband-hdr",
           "Azure NDm A100 v4 series" + _MEASURED, 8, by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("azure-nd96isr-h100-v5", "H100-SXM-80GB", 8, "nvswitch3", "infiniband-ndr", "Azure ND H100 v5 series", 8,
           host_link="pcie5x16"),
    Preset("gcp-a2-highgpu-8g", "A100-SXM4-40GB", 8, "nvswitch2", "ethernet-100g",
           "Google Cloud A2 machines" + _MEASURED, by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("gcp-a2-ultragpu-8g", "A100-SXM4-80GB", 8, "nvswitch2", "ethernet-100g",
           "Google Cloud A2 machines" + _MEASURED, by_group=_NVSWITCH_A100, host_link="pcie4x16", host_shared_by=2),
    Preset("gcp-a3-highgpu-8g", "H100-SXM-80GB", 8, "nvswitch3", "ethernet-200g", "Google Cloud A3 machines", 4,
           host_link="pcie5x16"),
    Preset("gcp-a3-megagpu-8g", "H100-SXM-80GB", 8, "nvswitch3", "ethernet-200g", "Google Cloud A3 machines", 8,
           host_link="pcie5x16"),
    Preset("ethernet-10g-4xrtx3090", "RTX-3090-24GB", 4, "pcie4x16", "ethernet-10g",
           "chosen: a laboratory's own cluster", host_link="pcie4x16"),
    Preset("ethernet-25g-4xa100", "A100-PCIe-40GB", 4, "pcie4x16", "ethernet-25g", "chosen: a plain cluster of servers",
           host_link="pcie4x16"),
    Preset("ethernet-25g-8xv100", "V100-SXM2-32GB", 8, "nvlink2", "ethernet-25g",
           "chosen: a plain cluster of servers" + _MEASURED, by_group=_CUBE_MESH_V100, host_shared_by=2),
    Preset("roce-100g-8xa100", "A100-SXM4-80GB", 8, "nvswitch2", "roce-100g",
           "chosen: a plain cluster of servers" + _MEASURED, by_group=_NVSWITCH_A100, host_link="pcie4x16",
           host_shared_by=2),
    Preset("workstation-4xa100", "A100-SXM4-80GB", 4, "nvlink3", "", "NVIDIA DGX Station A100 data sheet",
           host_link="pcie4x16"),
)  # fmt: skip
"""What ships, beside this machine itself. Networks are full rate between any two nodes."""
