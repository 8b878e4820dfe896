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
    replicas = max(1, devices // (layout.tensor * layout.pipeline))
    times = {
        "replicated": math.log2(replicas) if cluster.constants.spread_fraction else 0.0,
        "divided": math.log2(layout.tensor) ** 2,
        "cut by hand": 0.0 if profile.shape.layers_known else math.log2(layout.pipeline),
        "crowded": float(cluster.shared_host),
    }
    whole = math.hypot(*(STATED_ERRORS[name].value * count for name, count in times.items()))
    return StepErrors(profile.error, cluster.error, STATED_ERRORS["waited"].value, whole)
