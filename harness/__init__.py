"""A simulation and benchmarking harness for deep-learning parallelism strategies.

What a plugin imports stands here; everything else is private. Nothing below imports torch or pandas.
"""

from __future__ import annotations

import importlib

from harness.core.version import __version__

TYPE_CHECKING = False  # `typing` takes ten times as long as the rest, and until then no signal is taken over
if TYPE_CHECKING:
    from typing import Any

_EXPORTS = {
    "ANY": "harness.api.strategy",
    "SERVER": "harness.api.strategy",
    "Action": "harness.api.strategy",
    "Batch": "harness.api.strategy",
    "Bucket": "harness.api.strategy",
    "Codec": "harness.api.strategy",
    "DataParallel": "harness.api.strategy",
    "DataShape": "harness.workloads.entries",
    "Dataset": "harness.workloads.entries",
    "DatasetSize": "harness.workloads.entries",
    "Device": "harness.costs.catalogue",
    "Impossible": "harness.core.errors",
    "Layout": "harness.api.strategy",
    "Link": "harness.costs.catalogue",
    "Listener": "harness.api.listeners",
    "Message": "harness.api.strategy",
    "Model": "harness.workloads.entries",
    "Options": "harness.api.strategy",
    "ParameterServer": "harness.api.strategy",
    "Preset": "harness.costs.catalogue",
    "Probe": "harness.engines.telemetry.probe",
    "ProbeUnavailable": "harness.engines.telemetry.probe",
    "RawData": "harness.workloads.entries",
    "Sample": "harness.engines.telemetry.probe",
    "ScenarioRun": "harness.api.listeners",
    "Server": "harness.api.strategy",
    "StoredCell": "harness.api.listeners",
    "Strategy": "harness.api.strategy",
    "Table": "harness.api.strategy",
    "Target": "harness.engines.telemetry.probe",
    "Tracker": "harness.api.listeners",
    "Value": "harness.api.strategy",
    "Worker": "harness.api.strategy",
    "average": "harness.api.strategy",
    "hookimpl": "harness.api.hooks",
    "load": "harness.results.store",
}
_MODULES = {"codecs": "harness.api.codecs", "schedules": "harness.api.schedules"}

__all__ = [
    "ANY",
    "SERVER",
    "Action",
    "Batch",
    "Bucket",
    "Codec",
    "DataParallel",
    "DataShape",
    "Dataset",
    "DatasetSize",
    "Device",
    "Impossible",
    "Layout",
    "Link",
    "Listener",
    "Message",
    "Model",
    "Options",
    "ParameterServer",
    "Preset",
    "Probe",
    "ProbeUnavailable",
    "RawData",
    "Sample",
    "ScenarioRun",
    "Server",
    "StoredCell",
    "Strategy",
    "Table",
    "Target",
    "Tracker",
    "Value",
    "Worker",
    "__version__",
    "average",
    "codecs",
    "hookimpl",
    "load",
    "schedules",
]

if TYPE_CHECKING:
    from harness.api import codecs, schedules
    from harness.api.hooks import hookimpl
    from harness.api.listeners import Listener, ScenarioRun, StoredCell, Tracker
    from harness.api.strategy import (
        ANY,
        SERVER,
        Action,
        Batch,
        Bucket,
        Codec,
        DataParallel,
        Layout,
        Message,
        Options,
        ParameterServer,
        Server,
        Strategy,
        Table,
        Value,
        Worker,
        average,
    )
    from harness.core.errors import Impossible
    from harness.costs.catalogue import Device, Link, Preset
    from harness.engines.telemetry.probe import Probe, ProbeUnavailable, Sample, Target
    from harness.results.store import load
    from harness.workloads.entries import Dataset, DatasetSize, DataShape, Model, RawData


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that `harness --help` pays for none of them."""
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _EXPORTS:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)
