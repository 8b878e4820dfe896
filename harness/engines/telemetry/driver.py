"""The NVIDIA driver library: opened, asked in the way that it knows, and which of its GPUs CUDA means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from typing import Any

from harness.engines.telemetry.probe import ProbeUnavailable


def open_library() -> Any:
    """Return pynvml with NVML initialised; the caller shuts it down.

    Raises:
        ProbeUnavailable: no pynvml, driver library, driver or GPU.
    """
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]  # it ships no types
    except ImportError as error:
        raise ProbeUnavailable("the Python package nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise ProbeUnavailable(_no_driver(pynvml, error)) from error
    if _count(pynvml) == 0:
        pynvml.nvmlShutdown()
        raise ProbeUnavailable("the NVIDIA driver sees no GPU on this machine")
    return pynvml


def _no_driver(nvml: Any, error: Exception) -> str:
    """Return in words why NVML did not initialise."""
    if isinstance(error, nvml.NVMLError_LibraryNotFound):
        return "no NVIDIA driver library (libnvidia-ml.so.1) on this machine"
    if isinstance(error, nvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA driver is not loaded"
    return f"the NVIDIA driver library does not start: {error}"


def _count(nvml: Any) -> int:
    """Return the number of GPUs, 0 where the driver cannot tell."""
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0


def first_that_works(nvml: Any, *calls: Callable[[], Any]) -> Any:
    """Return the first answer; a call that this driver is too old for gives way to the next one.

    Raises:
        NVMLError: of the last call.
    """
    for call in calls[:-1]:
        try:
            return call()
        except (nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch):
            continue
    return calls[-1]()


def memory_info(nvml: Any, handle: Any) -> Any:
    """Return a GPU's memory with `used` and `total` in bytes.

    Version 2 first: version 1 counts what the driver reserved for itself as used.
    """
    return first_that_works(
        nvml,
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
    )


def running_processes(nvml: Any, handle: Any) -> list[Any]:
    """Return the compute processes on a GPU: `pid`, and `usedGpuMemory` in bytes or None."""
    processes: list[Any] = first_that_works(
        nvml,
        lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle),
        lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle),
    )
    return processes


def cuda_index(device: str) -> int | None:
    """Return the index in "cuda:1" (of "cuda": 0), or None for any other device."""
    matched = re.fullmatch(r"cuda(?::(\d+))?", device)
    return int(matched[1] or 0) if matched else None


def visible_devices(variable: str | None) -> list[str] | None:
    """Return the entries of CUDA_VISIBLE_DEVICES that CUDA sees, or None where the variable is not set.

    As in CUDA, an entry of -1 hides itself and all that follow.
    """
    if variable is None:
        return None
    entries = [entry.strip() for entry in variable.split(",")]
    hidden_from = next((k for k, entry in enumerate(entries) if entry in ("", "-1")), len(entries))
    return entries[:hidden_from]


def find_gpu(nvml: Any, index: int, visible: list[str] | None) -> Any:
    """Return the NVML handle of the GPU that CUDA calls `index`.

    Args:
        nvml: the initialised library.
        index: CUDA's index.
        visible: what CUDA sees, from `visible_devices`: indices, UUIDs or the beginnings of UUIDs.

    Raises:
        ProbeUnavailable: there is no such GPU.
    """
    if visible is not None and index >= len(visible):
        raise ProbeUnavailable(f"cuda:{index} is not among the {len(visible)} of CUDA_VISIBLE_DEVICES")
    entry = str(index) if visible is None else visible[index]
    try:
        return nvml.nvmlDeviceGetHandleByIndex(int(entry)) if entry.isdigit() else _by_uuid(nvml, entry)
    except nvml.NVMLError as error:
        raise ProbeUnavailable(f"the driver knows no GPU {entry} (cuda:{index}): {error}") from error


def _by_uuid(nvml: Any, uuid: str) -> Any:
    """Return the handle of a GPU or MIG instance by its UUID, or by the beginning of a GPU's, as CUDA allows."""
    try:
        return nvml.nvmlDeviceGetHandleByUUID(uuid)
    except nvml.NVMLError:
        handles = [nvml.nvmlDeviceGetHandleByIndex(k) for k in range(_count(nvml))]
        matches = [handle for handle in handles if str(nvml.nvmlDeviceGetUUID(handle)).startswith(uuid)]
        if len(matches) != 1:
            raise
        return matches[0]


def order_note(nvml: Any) -> str | None:
    """Return a warning where CUDA may number the GPUs in another order than NVML does."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return None
    names = {str(nvml.nvmlDeviceGetName(nvml.nvmlDeviceGetHandleByIndex(k))) for k in range(_count(nvml))}
    if len(names) < 2:
        return None
    return (
        "GPUs of different kinds: CUDA puts the fastest first, NVML counts by bus, so a gpu here may be another one "
        "than its cuda index; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    )
