"""The stub of the NVIDIA driver library, built and led to: for processes of their own, since a library stays loaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from places import ROOT, TESTS

from harness.engines.telemetry import Sample


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


# What a fresh interpreter does with the driver library that its environment leads to.
SAMPLE_NVML = """
import json, sys
from harness.engines.telemetry import ProbeUnavailable, Target
from harness.engines.telemetry.nvml import NvmlProbe
request = json.loads(sys.argv[1])
probe = NvmlProbe()
try:
    probe.open([Target(*target) for target in request["targets"]])
except ProbeUnavailable as unavailable:
    print(json.dumps({"unavailable": unavailable.reason}))
else:
    samples = [s for tick in range(request["ticks"]) for s in probe.sample(request["interval_s"] * tick)]
    print(json.dumps({"samples": samples, "notes": probe.notes(), "lost": probe.lost()}))
    probe.close()
    probe.close()
"""


def sample_nvml(
    library_folder: Path | str,
    targets: Sequence[tuple[int, str, str]] = ((7, "worker 0", "cuda:0"),),
    ticks: int = 3,
    interval_s: float = 0.2,
    **variables: str,
) -> dict[str, Any]:
    """Return what the NVML probe answers in a process with this driver library."""
    request = json.dumps({"targets": targets, "ticks": ticks, "interval_s": interval_s})
    command = [sys.executable, "-W", "error", "-c", SAMPLE_NVML, request]
    done = subprocess.run(
        command, env=environment(library_folder, **variables), capture_output=True, text=True, check=False, timeout=20
    )
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer | {"samples": [Sample(*sample) for sample in answer.get("samples", [])]}
