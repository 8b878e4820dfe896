"""The NVIDIA driver library, opened in one way, and which of its GPUs CUDA shows, by one rule."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
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


def opened() -> AbstractContextManager[ModuleType]:
    """Hand out pynvml and shut it down again.

    Raises:
        NoNvml: no pynvml, driver library, driver or GPU.
    """
    nvml = open_nvml()
    return held(nvml, nvml.nvmlShutdown)


@contextmanager
def held(library: ModuleType, shut_down: Callable[[], object]) -> Iterator[ModuleType]:
    """Hand out a library and shut it down again."""
    try:
        yield library
    finally:
        shut_down()


def num_gpus(nvml: ModuleType) -> int:
    """Return the number of GPUs, 0 where the driver cannot tell."""
    try:
        return int(nvml.nvmlDeviceGetCount())
    except nvml.NVMLError:
        return 0


@dataclass(frozen=True)
class Present:
    """A GPU that the driver counts.

    Attributes:
        index: the driver's own, as `nvidia-smi` shows it.
        handle: None where the driver does not hand it out; CUDA cannot use it then either.
        reason: why it does not, as the driver says it.
    """

    index: int
    handle: object | None
    reason: str = ""


def present_gpus(nvml: ModuleType) -> list[Present]:
    """Return every GPU that the driver counts, those of others in a shared machine and lost ones included."""
    return [_present(nvml, index) for index in range(num_gpus(nvml))]


def _present(nvml: ModuleType, index: int) -> Present:
    try:
        return Present(index, nvml.nvmlDeviceGetHandleByIndex(index))
    except nvml.NVMLError as error:
        return Present(index, None, str(error))


def visible_gpus(nvml: ModuleType) -> list[object]:
    """Return the NVML handles of the GPUs that CUDA shows, in CUDA's order; of MIG instances the first alone.

    Source: NVIDIA MIG User Guide, CUDA device enumeration: a process sees one compute instance, the first of several,
    and no whole GPU beside it.
    """
    handles = [gpu.handle for gpu in present_gpus(nvml) if gpu.handle is not None]
    found = shown(os.environ.get(VISIBLE), handles, lambda uuid: _by_uuid(nvml, uuid, handles))
    instances = [instance for handle in found for instance in mig_instances(nvml, handle)]
    return instances[:1] or [handle for handle in found if not in_mig_mode(nvml, handle)]


def mig_instances(nvml: ModuleType, handle: object) -> list[object]:
    """Return the MIG instances of a GPU, or the one that the handle stands for; none without MIG."""
    if is_mig_instance(nvml, handle):
        return [handle]
    if not in_mig_mode(nvml, handle):
        return []
    found: list[object] = []
    with suppress(nvml.NVMLError):
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
            with suppress(nvml.NVMLError_NotFound):  # not every place has an instance
                found.append(nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
    return found


def is_mig_instance(nvml: ModuleType, handle: object) -> bool:
    """Answer whether a handle is a MIG instance; a driver that knows no MIG has none."""
    try:
        return bool(nvml.nvmlDeviceIsMigDeviceHandle(handle))
    except nvml.NVMLError:
        return False


def in_mig_mode(nvml: ModuleType, handle: object) -> bool:
    """Answer whether a GPU is split into MIG instances, so that nothing runs on the whole of it."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except nvml.NVMLError:
        return False


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
        matches = [handle for handle in present if _uuid(nvml, handle).startswith(uuid)]
        return matches[0] if len(matches) == 1 else None


def _uuid(nvml: ModuleType, handle: object) -> str:
    """Return a GPU's UUID, empty where the driver does not tell it."""
    try:
        return str(nvml.nvmlDeviceGetUUID(handle))
    except nvml.NVMLError:
        return ""


def gpu_names() -> tuple[str, ...]:
    """Return what the driver calls the GPUs that CUDA shows, such as "NVIDIA H200"; () where there is none."""
    try:
        with opened() as nvml:
            return tuple(gpu_name(nvml, handle) for handle in visible_gpus(nvml))
    except NoNvml:
        return ()


def gpu_name(nvml: ModuleType, handle: object) -> str:
    """Return a GPU's name; one that does not tell it is there all the same."""
    try:
        return str(nvml.nvmlDeviceGetName(handle))
    except nvml.NVMLError:
        return "GPU"


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
