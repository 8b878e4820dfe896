"""The NVIDIA driver library, opened in one way, and which of its GPUs CUDA shows, by one rule."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TypeVar

from harness.core.errors import MachineError

VISIBLE = "CUDA_VISIBLE_DEVICES"

T = TypeVar("T")


class NoNvml(MachineError):
    """The driver library cannot be asked; the message is the reason."""


def open_nvml() -> ModuleType:
    """Return pynvml with NVML initialised; the caller shuts it down.

    Raises:
        NoNvml: no pynvml, driver library, driver or GPU.
    """
    # The dynamic linker is asked by opening it: importing pynvml takes longer than a plan without a GPU may, and
    # find_library starts a compiler.
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as error:
        raise NoNvml("no NVIDIA driver library (libnvidia-ml.so.1) on this machine") from error
    try:
        import pynvml  # type: ignore[import-untyped, unused-ignore]  # it ships no types
    except ImportError as error:
        raise NoNvml("the Python package nvidia-ml-py is not installed") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_DriverNotLoaded as error:
        raise NoNvml("the NVIDIA driver is not loaded") from error
    except pynvml.NVMLError as error:
        raise NoNvml(f"the NVIDIA driver library does not start: {error}") from error
    if num_gpus(pynvml) == 0:
        pynvml.nvmlShutdown()
        raise NoNvml("the NVIDIA driver sees no GPU on this machine")
    library: ModuleType = pynvml
    return library


@contextmanager
def opened() -> Iterator[ModuleType]:
    """Hand out pynvml and shut it down again.

    Raises:
        NoNvml: no pynvml, driver library, driver or GPU.
    """
    nvml = open_nvml()
    try:
        yield nvml
    finally:
        nvml.nvmlShutdown()


def num_gpus(nvml: ModuleType) -> int:
    """Return the number of GPUs, 0 where the driver cannot tell."""
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0


def visible_gpus(nvml: ModuleType) -> list[object]:
    """Return the NVML handles of the GPUs that CUDA shows, in CUDA's order.

    Raises:
        NVMLError: the driver does not give a GPU that it has.
    """
    present = [nvml.nvmlDeviceGetHandleByIndex(index) for index in range(num_gpus(nvml))]
    return shown(os.environ.get(VISIBLE), present, lambda uuid: _by_uuid(nvml, uuid, present))


def shown(variable: str | None, present: Sequence[T], by_uuid: Callable[[str], T | None]) -> list[T]:
    """Return the GPUs that CUDA shows: all, or those listed up to the first entry that names none.

    Args:
        variable: CUDA_VISIBLE_DEVICES, None where it is not set: indices, UUIDs or the beginnings of UUIDs.
        present: the GPUs in the order of their indices.
        by_uuid: returns the GPU or MIG instance of a UUID, None where there is no such one.

    Source: CUDA C++ Programming Guide, environment variables: an invalid entry hides itself and all that follow.
    """
    if variable is None:
        return list(present)
    found: list[T] = []
    for entry in (part.strip() for part in variable.split(",")):
        if entry.isdigit():
            gpu = present[int(entry)] if int(entry) < len(present) else None
        else:
            gpu = by_uuid(entry) if entry.startswith(("GPU-", "MIG-")) else None
        if gpu is None:
            break
        found.append(gpu)
    return found


def _by_uuid(nvml: ModuleType, uuid: str, present: Sequence[object]) -> object | None:
    """Return a GPU or MIG instance by its UUID, or a GPU by the beginning of its UUID, as CUDA allows."""
    try:
        exact: object = nvml.nvmlDeviceGetHandleByUUID(uuid)
        return exact
    except nvml.NVMLError:
        matches = [handle for handle in present if str(nvml.nvmlDeviceGetUUID(handle)).startswith(uuid)]
        return matches[0] if len(matches) == 1 else None


def gpu_names() -> tuple[str, ...]:
    """Return what the driver calls the GPUs that CUDA shows, such as "NVIDIA H200"; () where there is none."""
    try:
        with opened() as nvml:
            try:
                return tuple(str(nvml.nvmlDeviceGetName(handle)) for handle in visible_gpus(nvml))
            except nvml.NVMLError:
                return ()
    except NoNvml:
        return ()


def driver_version() -> str:
    """Return the version of the driver, empty where there is none."""
    try:
        with opened() as nvml:
            try:
                return str(nvml.nvmlSystemGetDriverVersion())
            except nvml.NVMLError:
                return ""
    except NoNvml:
        return ""
