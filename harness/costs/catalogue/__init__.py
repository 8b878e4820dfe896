"""Devices, links and clusters by name."""

from harness.costs.catalogue.devices import ARITHMETIC, DEVICES, Device, efficiency, find_devices
from harness.costs.catalogue.named_links import CARRIED, LATENCY_S, Link, medium_of
from harness.costs.catalogue.presets import Preset

__all__ = [
    "ARITHMETIC", "CARRIED", "DEVICES", "LATENCY_S", "Device", "Link", "Preset", "efficiency", "find_devices",
    "medium_of",
]  # fmt: skip
