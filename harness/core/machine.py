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
    """

    cores: int
    gpus: int = 0
    gpu_name: str = ""


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
