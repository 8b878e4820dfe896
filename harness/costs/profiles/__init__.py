"""Figures, as plain data: what a model's layers hold and take, and what devices and links are able to do."""

from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures, MeasuredTable, Servers
from harness.costs.profiles.constants import FITTED, PLAIN, PUBLISHED, Constants, Group
from harness.costs.profiles.device_profile import Curve, LayerTime, Profile
from harness.costs.profiles.runtime import Messages, Runtime
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape

__all__ = [
    "FITTED",
    "PLAIN",
    "PUBLISHED",
    "Bus",
    "Cluster",
    "Constants",
    "Curve",
    "Group",
    "LayerShape",
    "LayerTime",
    "Linear",
    "LinkFigures",
    "MeasuredTable",
    "Messages",
    "ModelShape",
    "Profile",
    "Runtime",
    "Servers",
]
