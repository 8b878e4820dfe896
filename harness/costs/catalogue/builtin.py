"""Register the devices, links and clusters that ship, by the hooks that a stranger's use."""

from __future__ import annotations

from collections.abc import Iterable

from harness.api.hooks import hookimpl
from harness.costs.catalogue.devices import DEVICES, Device
from harness.costs.catalogue.named_links import LINKS, Link
from harness.costs.catalogue.presets import PRESETS, Preset


@hookimpl
def harness_devices() -> Iterable[Device]:
    """Return what data sheets say of accelerators."""
    return DEVICES


@hookimpl
def harness_links() -> Iterable[Link]:
    """Return what standards and data sheets say of links."""
    return LINKS


@hookimpl
def harness_clusters() -> Iterable[Preset]:
    """Return machines and instances that one can buy or rent."""
    return PRESETS
