"""Devices, links and clusters by name."""

from harness.costs.catalogue.devices import DEVICES, Device, efficiency, find_devices
from harness.costs.catalogue.named_links import Link
from harness.costs.catalogue.presets import Preset

__all__ = ["DEVICES", "Device", "Link", "Preset", "efficiency", "find_devices"]
