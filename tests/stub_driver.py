"""The stub of the NVIDIA driver library, built and led to: for processes of their own, since a library stays loaded."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from places import ROOT, TESTS


def build_stub(folder: Path) -> Path:
    """Put a libnvidia-ml.so.1 that is the stub into a folder; skip the test where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler to build the stub of the NVIDIA driver library")
    subprocess.run(
        [compiler, "-shared", "-fPIC", TESTS / "nvml_stub.c", "-o", folder / "libnvidia-ml.so.1"], check=True
    )
    return folder


def environment(library_folder: Path | str, **variables: str) -> dict[str, str]:
    """Return the environment of a process that finds the driver library in a folder.

    Args:
        variables: those that tests/nvml_stub.c lists, and CUDA_VISIBLE_DEVICES.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA_", "NVML_"))}
    return kept | {"LD_LIBRARY_PATH": str(library_folder), "PYTHONPATH": str(ROOT)} | variables
