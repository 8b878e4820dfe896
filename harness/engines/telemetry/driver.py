"""The NVIDIA driver library, asked in the way that it knows."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import ModuleType
from typing import Any, TypeVar

from harness.core.nvidia_driver import VISIBLE, NoNvml, gpu_name, num_gpus, open_nvml, present_gpus, visible_gpus
from harness.core.words import counted
from harness.engines.telemetry.probe import ProbeUnavailable, ProbeUnneeded, Target
from harness.engines.telemetry.readings import Driver, Refusal

T = TypeVar("T")


def open_library() -> ModuleType:
    """Return pynvml with NVML initialised; the caller shuts it down.

    Raises:
        ProbeUnavailable: no pynvml, driver library, driver or GPU.
    """
    try:
        return open_nvml()
    except NoNvml as error:
        raise ProbeUnavailable(str(error)) from error


def nvml_driver(nvml: ModuleType) -> Driver:
    """Return how NVML refuses."""
    return Driver("nvml", (nvml.NVMLError,), lambda error: nvml_refusal(nvml, error))


def nvml_refusal(nvml: ModuleType, error: Exception) -> Refusal | None:
    """Return why NVML will never answer a call, None where it may answer the next time."""
    refusals = {
        nvml.NVML_ERROR_NOT_SUPPORTED: Refusal.NOT_SUPPORTED,
        nvml.NVML_ERROR_FUNCTION_NOT_FOUND: Refusal.OLD_DRIVER,
        nvml.NVML_ERROR_ARGUMENT_VERSION_MISMATCH: Refusal.OLD_DRIVER,
        nvml.NVML_ERROR_NO_PERMISSION: Refusal.NO_PERMISSION,
        nvml.NVML_ERROR_GPU_IS_LOST: Refusal.LOST,
        nvml.NVML_ERROR_RESET_REQUIRED: Refusal.LOST,
    }
    return refusals.get(getattr(error, "value", None))


def first_that_works(nvml: ModuleType, *calls: Callable[[], T]) -> T:
    """Return the first answer; a call that this driver or pynvml is too old for gives way to the next one.

    Raises:
        NVMLError: of the last call.
    """
    for call in calls[:-1]:
        with suppress(nvml.NVMLError_FunctionNotFound, nvml.NVMLError_ArgumentVersionMismatch):
            return _called(nvml, call)
    return _called(nvml, calls[-1])


def _called(nvml: ModuleType, call: Callable[[], T]) -> T:
    """Return what a call answers; one that pynvml does not have is not found, as where the driver does not have it.

    Raises:
        NVMLError: the driver refuses, or nobody has the call.
    """
    try:
        return call()
    except AttributeError as error:
        if error.obj is not nvml:
            raise
        raise nvml.NVMLError(nvml.NVML_ERROR_FUNCTION_NOT_FOUND) from error


def memory_info(nvml: ModuleType, handle: object) -> Any:
    """Return a GPU's memory with `used` and `total` in bytes.

    Version 2 first: version 1 counts what the driver reserved for itself as used.
    """
    return first_that_works(
        nvml,
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle, version=nvml.nvmlMemory_v2),
        lambda: nvml.nvmlDeviceGetMemoryInfo(handle),
    )


def running_processes(nvml: ModuleType, handle: object) -> list[Any]:
    """Return the compute processes on a GPU: `pid`, and `usedGpuMemory` in bytes or None."""
    processes: list[Any] = first_that_works(
        nvml,
        lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v3(handle),
        lambda: nvml.nvmlDeviceGetComputeRunningProcesses_v2(handle),
    )
    return processes


def targets_by_gpu(targets: Sequence[Target]) -> dict[int, list[Target]]:
    """Return the processes that compute on each GPU, by its index, ascending.

    Raises:
        ProbeUnneeded: no process computes on a GPU.
    """
    found: dict[int, list[Target]] = {}
    for target in targets:
        if (index := cuda_index(target.device)) is not None:
            found.setdefault(index, []).append(target)
    if not found:
        raise ProbeUnneeded("no process of this cell computes on a GPU")
    return dict(sorted(found.items()))


def cuda_index(device: str) -> int | None:
    """Return the index in "cuda:1" (of "cuda": 0), or None for any other device."""
    matched = re.fullmatch(r"cuda(?::(\d+))?", device)
    return int(matched[1] or 0) if matched else None


def find_gpu(nvml: ModuleType, index: int) -> object:
    """Return the NVML handle of the GPU that CUDA calls `index`.

    Args:
        nvml: the initialised library.
        index: CUDA's index.

    Raises:
        ProbeUnavailable: there is no such GPU.
    """
    gpus = visible_gpus(nvml)
    if index < len(gpus):
        return gpus[index]
    variable = os.environ.get(VISIBLE)
    why = f", since {VISIBLE} is {variable!r}" if variable is not None else ""
    raise ProbeUnavailable(f"CUDA shows no cuda:{index}: {counted(len(gpus), 'GPU')} of {num_gpus(nvml)}{why}")


def order_note(nvml: ModuleType) -> str | None:
    """Return a warning where CUDA may number the GPUs in another order than NVML does."""
    if os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID":
        return None
    names = {gpu_name(nvml, gpu.handle) for gpu in present_gpus(nvml) if gpu.handle is not None}
    if len(names) < 2:
        return None
    return (
        "GPUs of different kinds: CUDA puts the fastest first, NVML counts by bus, so a gpu here may be another one "
        "than its cuda index; set CUDA_DEVICE_ORDER=PCI_BUS_ID"
    )
