"""AMD's management library, opened in one way, and which of its GPUs HIP shows.

Written against the documented interface of amdsmi 7.0 and tested with a stub: no line of this has met an AMD GPU.
"""

from __future__ import annotations

import contextlib
import io
import os
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType

from harness.core.errors import MachineError
from harness.core.nvidia_driver import VISIBLE, held, shown

KFD = Path("/dev/kfd")
"""The device file of AMD's compute driver; without it no library of AMD's finds a GPU."""

ROCR_VISIBLE, HIP_VISIBLE = "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES"


class NoAmdSmi(MachineError):
    """AMD's library cannot be asked; the message is the reason."""


class NoAmdDriver(NoAmdSmi):
    """The machine has no driver of AMD's."""


def open_amdsmi() -> ModuleType:
    """Return amdsmi, initialised; the caller shuts it down.

    Raises:
        NoAmdDriver: no driver of AMD's.
        NoAmdSmi: no Python package, library or GPU.
    """
    if not KFD.exists():
        raise NoAmdDriver(f"no AMD GPU driver ({KFD}) on this machine")
    try:
        # Where its library is missing amdsmi prints, and raises a KeyError.
        with contextlib.redirect_stdout(io.StringIO()):
            import amdsmi  # type: ignore[import-untyped, import-not-found, unused-ignore]  # it comes with ROCm
    except ModuleNotFoundError as error:
        raise NoAmdSmi("the Python package amdsmi, which comes with ROCm, is not installed") from error
    except Exception as error:
        raise NoAmdSmi(f"the Python package amdsmi cannot be loaded: {type(error).__name__}: {error}") from error
    try:
        amdsmi.amdsmi_init()
        found = len(amdsmi.amdsmi_get_processor_handles())
    except amdsmi.AmdSmiException as error:
        raise NoAmdSmi(f"AMD's library does not start: {error_in_words(error)}") from error
    if found == 0:
        amdsmi.amdsmi_shut_down()
        raise NoAmdSmi("the AMD driver sees no GPU on this machine")
    library: ModuleType = amdsmi
    return library


def opened_amdsmi() -> AbstractContextManager[ModuleType]:
    """Hand out amdsmi and shut it down again.

    Raises:
        NoAmdSmi: no driver, Python package, library or GPU.
    """
    amdsmi = open_amdsmi()
    return held(amdsmi, amdsmi.amdsmi_shut_down)


def error_in_words(error: Exception) -> str:
    """Return an error of amdsmi on one line."""
    return " ".join(str(error).split())


def amd_gpus(amdsmi: ModuleType) -> list[object]:
    """Return the handles of all AMD GPUs in HIP's order, where the driver tells it, else in the library's."""
    handles: list[object] = list(amdsmi.amdsmi_get_processor_handles())
    try:
        order = [int(amdsmi.amdsmi_get_gpu_enumeration_info(handle)["hip_id"]) for handle in handles]
    except (amdsmi.AmdSmiException, AttributeError, KeyError, ValueError):  # before amdsmi 6.4; "N/A"
        return handles
    return [handle for _, handle in sorted(zip(order, handles, strict=True), key=lambda pair: pair[0])]


def visible_amd_gpus(amdsmi: ModuleType) -> list[object]:
    """Return the handles of the GPUs that HIP shows, in HIP's order.

    Source: ROCm documentation, GPU isolation techniques: ROCR_VISIBLE_DEVICES first, then HIP_VISIBLE_DEVICES counts
    what is left; CUDA_VISIBLE_DEVICES is another name of the second.
    """
    present = amd_gpus(amdsmi)
    left = shown(os.environ.get(ROCR_VISIBLE), present, lambda uuid: _by_uuid(amdsmi, uuid, present))
    return shown(os.environ.get(HIP_VISIBLE, os.environ.get(VISIBLE)), left, lambda uuid: _by_uuid(amdsmi, uuid, left))


def _by_uuid(amdsmi: ModuleType, uuid: str, present: list[object]) -> object | None:
    """Return a GPU by the UUID that HIP gives it: "GPU-" and 16 hexadecimal digits."""
    for handle in present:
        with contextlib.suppress(amdsmi.AmdSmiException, AttributeError, KeyError):
            if amdsmi.amdsmi_get_gpu_enumeration_info(handle)["hip_uuid"] == uuid:
                return handle
    return None


def amd_gpu_name(amdsmi: ModuleType, handle: object) -> str:
    """Return what the driver calls a GPU, such as "AMD Instinct MI300X"."""
    try:
        return str(amdsmi.amdsmi_get_gpu_asic_info(handle)["market_name"])
    except (amdsmi.AmdSmiException, KeyError):
        return "AMD GPU"


def amd_gpu_names() -> tuple[str, ...]:
    """Return the names of the GPUs that HIP shows; () where there is none."""
    try:
        with opened_amdsmi() as amdsmi:
            return tuple(amd_gpu_name(amdsmi, handle) for handle in visible_amd_gpus(amdsmi))
    except NoAmdSmi:
        return ()


def amd_driver_version() -> str:
    """Return the version of the driver, empty where there is none."""
    try:
        with opened_amdsmi() as amdsmi:
            for handle in amd_gpus(amdsmi):
                with contextlib.suppress(amdsmi.AmdSmiException, KeyError):
                    return str(amdsmi.amdsmi_get_gpu_driver_info(handle)["driver_version"])
    except NoAmdSmi:
        pass
    return ""
