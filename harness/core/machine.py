"""What a plan has to know of this machine: usable cores and GPUs. Nothing here imports torch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from harness.core.amd_driver import amd_gpu_names
from harness.core.nvidia_driver import gpu_names


@dataclass(frozen=True)
class Machine:
    """Devices that cells can really run on.

    Attributes:
        cores: CPU cores that this process may use.
        gpus: GPUs that this process may use.
        gpu_name: what the driver calls them, such as "NVIDIA H200"; empty without one.
        nodes: machines that have all these together, each an equal share.
    """

    cores: int
    gpus: int = 0
    gpu_name: str = ""
    nodes: int = 1

    @property
    def one_node(self) -> Machine:
        """One of its nodes."""
        return Machine(self.cores // self.nodes, self.gpus // self.nodes, self.gpu_name)

    def devices_of_node(self, device: str, threads: int) -> int:
        """Return how many devices a node has; a CPU device is so many cores, and each node has one at least."""
        return max(1, (self.gpus if device == "cuda" else self.cores // threads) // self.nodes)


def nodes_filled(devices: int, of_each: int, nodes: int) -> int:
    """Return how many nodes so many devices fill: as few as hold them, or all where none do."""
    return min(nodes, -(-devices // of_each))


def detect_machine() -> Machine:
    """Count usable cores by affinity and GPUs by the driver's own library; CUDA_VISIBLE_DEVICES hides some.

    GPUs of NVIDIA's and, where there is none, of AMD's: torch calls both "cuda".
    """
    names = gpu_names() or amd_gpu_names()
    return Machine(_cores(), len(names), names[0] if names else "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no affinity mask
