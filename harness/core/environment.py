"""What a measurement depends on besides the cell: stored beside every record, host and user names left out."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from functools import cache
from importlib import metadata

from harness.core.amd_driver import amd_driver_version
from harness.core.machine import Machine
from harness.core.nvidia_driver import driver_version
from harness.core.records import Json
from harness.core.version import __version__

PACKAGES = ("torch", "numpy", "simpy", "nvidia-nccl-cu13", "nvidia-nccl-cu12")


@cache
def describe_environment(machine: Machine) -> Json:
    """Return versions and hardware; imports nothing heavy."""
    facts: Json = {
        "harness": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": machine.cores,
        "gpus": machine.gpus,
        "gpu": machine.gpu_name,
        "driver": (driver_version() or amd_driver_version()) if machine.gpus else "",
    }
    if machine.nodes > 1:
        facts["nodes"] = machine.nodes
    facts |= {name: version for name in PACKAGES if (version := package_version(name))}
    return facts | {"id": hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]}


def cpu_model() -> str:
    """Return the processor's own name where the system tells it."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def package_version(package: str) -> str:
    """Return the version of an installed package; empty where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
