"""The hooks. Each is called once per plugin when plugins are loaded; built-ins use the same ones as a stranger's.

from harness import Strategy, hookimpl

class MyStrategy(Strategy):
    name = "mine"

@hookimpl
def harness_strategies():
    return [MyStrategy]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from harness.api.strategy import Strategy

hookspec = pluggy.HookspecMarker("harness")
hookimpl = pluggy.HookimplMarker("harness")


@hookspec
def harness_strategies() -> Iterable[type[Strategy]]:  # type: ignore[empty-body]
    """Return strategy classes."""


@hookspec
def harness_models() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Model` entries: a name, options, a function that builds the torch module."""


@hookspec
def harness_datasets() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Dataset` entries: a name, options, a function that loads arrays."""


@hookspec
def harness_devices() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Device` entries: peaks, memory and links of an accelerator, with their source."""


@hookspec
def harness_links() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Link` entries: nominal rate and kind of a link, with their source."""


@hookspec
def harness_clusters() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Preset` entries: nodes of devices and the links between them."""


@hookspec
def harness_probes() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Probe` classes, sampled from a process outside training."""


@hookspec
def harness_listeners() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Listener` objects: told of every run when it starts and ends, and of its cells."""


@hookspec
def harness_trackers() -> Iterable[object]:  # type: ignore[empty-body]
    """Return `harness.Tracker` entries: listeners that a run asks for by name, with `--track NAME`."""


@hookspec
def harness_report_sections() -> Iterable[object]:  # type: ignore[empty-body]
    """Return functions of the cells' frame that answer (title, HTML) for the end of the report."""
