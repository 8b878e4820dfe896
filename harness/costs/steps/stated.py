"""How far a predicted step may be off: by where its figures are from, and by what its layout asks of the laws."""

from __future__ import annotations

import math

from harness.api.strategy import Layout
from harness.core.uncertainty import StepErrors
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.constants import PLAIN, STATED_ERRORS
from harness.costs.profiles.device_profile import Profile


def step_errors(profile: Profile, cluster: Cluster, layout: Layout, devices: int) -> StepErrors:
    """Return what a step's parts may be off by, relative, one standard deviation each.

    Source: `STATED_ERRORS`, for devices elsewhere. What this machine was measured to do waits as well as it computes.

    Args:
        devices: of all workers.
    """
    if cluster.constants == PLAIN:
        return StepErrors(profile.error, cluster.error, profile.error)
    laws = {"divided": layout.tensor > 1, "spread out": cluster.nodes(devices) > 1}
    whole = math.hypot(*(STATED_ERRORS[name].value for name, holds in laws.items() if holds))
    return StepErrors(profile.error, cluster.error, STATED_ERRORS["waited"].value, whole)
