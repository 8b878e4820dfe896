"""Whether the installed torch can use the GPUs here, for `harness doctor`."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection

from harness.commands.gpu_facts import Facts, cuda_of_driver
from harness.core.nvidia_driver import NoNvml, opened
from harness.core.words import counted

TORCH = "torch and GPUs"
"""What the line is called."""


def torch_facts() -> Facts:
    """Return what torch was built for, whether that fits the driver, and how many GPUs it sees; imports torch."""
    import torch

    if torch.version.hip:
        return [(TORCH, f"built for ROCm {torch.version.hip}; {_seen()}")]
    built = build_in_words(torch.version.cuda, _cuda_of_driver())
    if torch.version.cuda is None:
        return [(TORCH, built)]
    return [(TORCH, f"{built}; {_seen()}"), ("NCCL", _nccl())]


def build_in_words(built: str | None, driver: tuple[int, int] | None) -> str:
    """Return for which CUDA torch was built, and what to do where that does not fit the driver.

    Args:
        built: such as "13.0"; None of a build without CUDA.
        driver: the newest CUDA that the driver runs, None where it is not known.

    Source: CUDA compatibility guide: a driver runs all of its major version, and older ones.
    """
    newest = f"{driver[0]}.{driver[1]}" if driver else "the driver's version"
    if built is None:
        return f"this torch is built without CUDA and uses no GPU; install a build for CUDA {newest} or older"
    if driver is not None and int(built.partition(".")[0]) > driver[0]:
        newer = f"built for CUDA {built}, too new for a driver of CUDA {newest}"
        return f"{newer}: update the driver, or install an older build"
    return f"built for CUDA {built}"


def runs_on(capability: tuple[int, int], built_for: Collection[str]) -> bool:
    """Answer whether code built for these architectures ("sm_90", "compute_90") runs on a GPU.

    Source: CUDA C++ Programming Guide, binary and PTX compatibility: machine code within a major version and from the
    same or an earlier minor one; PTX on the same or any later GPU.
    """
    major, minor = capability
    for name in built_for:
        matched = re.fullmatch(r"(sm|compute)_(\d+)(\d)([af]?)", name)
        if matched is None:
            continue
        kind, built, suffix = matched[1], (int(matched[2]), int(matched[3])), matched[4]
        if suffix == "a":
            fits = built == capability
        elif kind == "sm" or suffix == "f":
            fits = built[0] == major and built[1] <= minor
        else:
            fits = built <= capability
        if fits:
            return True
    return False


def _seen() -> str:
    """Return how many GPUs torch sees, and those that it has no code for."""
    import torch

    cuda = torch.get_device_module("cuda")
    count = int(cuda.device_count())
    words = f"it sees {counted(count, 'GPU')}"
    if torch.version.hip or not count:
        return words
    without = [k for k in range(count) if not runs_on(cuda.get_device_capability(k), cuda.get_arch_list())]
    return words + "".join(f"; it has no code for cuda:{k}: install a build for it" for k in without)


def _nccl() -> str:
    """Return the version of NCCL that torch uses."""
    import torch

    try:
        version = importlib.import_module(f"{torch.get_device_module('cuda').__name__}.nccl").version()
    except Exception as error:  # a build without it fails in its own ways
        return f"not in this torch ({type(error).__name__}: {error})"
    return ".".join(map(str, version))


def _cuda_of_driver() -> tuple[int, int] | None:
    try:
        with opened() as nvml:
            return cuda_of_driver(nvml)
    except NoNvml:
        return None
