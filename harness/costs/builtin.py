"""Register the devices, links and clusters that ship, by the hooks that a stranger's use."""

from __future__ import annotations

from collections.abc import Iterable

from harness.costs.devices import DEVICES, Device
from harness.costs.links import LINKS, NamedLink
from harness.costs.presets import PRESETS, Preset
from harness.hookspecs import hookimpl


@hookimpl
def harness_devices() -> Iterable[Device]:
    """Return what data sheets say of accelerators."""
    return DEVICES


@hookimpl
def harness_links() -> Iterable[NamedLink]:
    """Return what standards and data sheets say of links."""
    return LINKS


@hookimpl
def harness_clusters() -> Iterable[Preset]:
    """Return machines and instances that one can buy or rent."""
    return PRESETS
