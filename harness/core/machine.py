"""What a plan has to know of this machine: usable cores and GPUs. Nothing here imports torch."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass


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
    """Count usable cores by affinity and GPUs by the driver's own library; CUDA_VISIBLE_DEVICES hides some."""
    names = _gpu_names()
    visible = _visible(len(names), os.environ.get("CUDA_VISIBLE_DEVICES"))
    return Machine(_cores(), visible, names[0] if visible else "")


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS and Windows have no affinity mask


def _gpu_names() -> list[str]:
    # The dynamic linker is asked by opening it: find_library starts a compiler, which takes longer than a plan may.
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return []
    import pynvml  # type: ignore[import-untyped,unused-ignore]

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [_text(pynvml.nvmlDeviceGetName(handle)) for handle in handles]
    except pynvml.NVMLError:
        return []
    finally:
        pynvml.nvmlShutdown()


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


def _visible(present: int, variable: str | None) -> int:
    """Count the devices that CUDA would show: its list ends at the first entry that is no device."""
    if variable is None:
        return present
    shown = 0
    for entry in (part.strip() for part in variable.split(",")):
        named = entry.startswith(("GPU-", "MIG-"))
        if not named and not (entry.isdigit() and int(entry) < present):
            break
        shown += 1
    return min(shown, present)
