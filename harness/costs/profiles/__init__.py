"""Figures, as plain data: what a model's layers hold and take, and what devices and links are able to do."""

from harness.costs.profiles.allocations import Event, Passes, Timeline
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures, MeasuredTable, Servers
from harness.costs.profiles.constants import FITTED, PUBLISHED, STATED_ERRORS, Constants, FitGroup
from harness.costs.profiles.device_profile import LayerTime, Profile, TimeCurve
from harness.costs.profiles.exchange_times import BUS_SHARES, ExchangeTimes, bus_factor, ring_figures, send_figures
from harness.costs.profiles.node_links import InterfaceFacts, NodeLinks
from harness.costs.profiles.runtime import Messages, Runtime
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape

__all__ = [
    "BUS_SHARES", "FITTED", "PUBLISHED", "STATED_ERRORS", "Bus", "Cluster", "Constants", "Event", "ExchangeTimes",
    "FitGroup", "InterfaceFacts", "LayerShape", "LayerTime", "Linear", "LinkFigures", "MeasuredTable", "Messages",
    "ModelShape", "NodeLinks", "Passes", "Profile", "Runtime", "Servers", "TimeCurve", "Timeline", "bus_factor",
    "ring_figures", "send_figures",
]  # fmt: skip
