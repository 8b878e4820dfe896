"""A simulation and benchmarking harness for deep-learning parallelism strategies.

What a plugin imports stands here; everything else is private. Nothing below imports torch or pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_EXPORTS = {
    "ANY": "harness.strategy",
    "SERVER": "harness.strategy",
    "Action": "harness.strategy",
    "Batch": "harness.strategy",
    "Impossible": "harness.errors",
    "Layout": "harness.strategy",
    "Message": "harness.strategy",
    "Options": "harness.strategy",
    "Server": "harness.strategy",
    "Strategy": "harness.strategy",
    "Table": "harness.strategy",
    "Value": "harness.strategy",
    "Worker": "harness.strategy",
    "average": "harness.strategy",
    "hookimpl": "harness.hookspecs",
    "load": "harness.store",
}

__all__ = [
    "ANY",
    "SERVER",
    "Action",
    "Batch",
    "Impossible",
    "Layout",
    "Message",
    "Options",
    "Server",
    "Strategy",
    "Table",
    "Value",
    "Worker",
    "__version__",
    "average",
    "hookimpl",
    "load",
]

if TYPE_CHECKING:
    from harness.errors import Impossible
    from harness.hookspecs import hookimpl
    from harness.store import load
    from harness.strategy import (
        ANY,
        SERVER,
        Action,
        Batch,
        Layout,
        Message,
        Options,
        Server,
        Strategy,
        Table,
        Value,
        Worker,
        average,
    )


def __getattr__(name: str) -> Any:
    """Import an exported name on first use, so that `harness --help` pays for none of them."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'harness' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_EXPORTS[name]), name)
