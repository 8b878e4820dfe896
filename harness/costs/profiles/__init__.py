"""Figures, as plain data: what a model's layers hold and take, and what devices and links are able to do."""

from harness.costs.profiles.allocations import Event, Passes, Timeline
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures, MeasuredTable, Servers
from harness.costs.profiles.constants import FITTED, PUBLISHED, STATED_ERRORS, Constants, FitGroup
from harness.costs.profiles.device_profile import LayerTime, Profile, TimeCurve
from harness.costs.profiles.runtime import Messages, Runtime
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape

__all__ = [
    "FITTED", "PUBLISHED", "STATED_ERRORS", "Bus", "Cluster", "Constants", "Event", "FitGroup", "LayerShape",
    "LayerTime", "Linear", "LinkFigures", "MeasuredTable", "Messages", "ModelShape", "Passes", "Profile", "Runtime",
    "Servers", "TimeCurve", "Timeline",
]  # fmt: skip
