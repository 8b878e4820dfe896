"""What one step of one worker consists of, under any layout.

`step_cost` is the one door: the virtual engine, plans, explanations and `harness validate` all come through it.
"""

from __future__ import annotations

from collections.abc import Sequence

from harness.api.strategy import Layout
from harness.costs.memory.cuts import Placement
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps.data_parallel import ReducedBucket
from harness.costs.steps.pipelined_step import pipelined_step
from harness.costs.steps.replicated_step import replicated_step
from harness.costs.steps.result import StepCost
from harness.costs.steps.sharded_step import sharded_step
from harness.costs.steps.table_time import Recompute


def step_cost(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    samples: int,
    micro_batch_size: int,
    placement: Placement | None = None,
    tasks: bool = False,
    recompute: Recompute | None = None,
    reduced: Sequence[ReducedBucket] = (),
) -> StepCost:
    """Return what a gradient over `samples` samples of one worker costs, its layout's communication included.

    Args:
        samples: of the whole worker, all its data-parallel ranks together.
        micro_batch_size: samples that pass forward at once.
        placement: layers of each stage; None: cut so that stages take equal time.
        tasks: also say when what runs where.
        recompute: which micro-batches are computed again in the backward pass; default: what the layout says.
        reduced: what the layout's own `reduce` did with each bucket, where it has one.
    """
    part = -(-samples // layout.data)
    pieces = max(1, -(-part // micro_batch_size))
    again: Recompute = recompute or recomputed(layout)
    if layout.pipeline > 1:
        return pipelined_step(profile, cluster, layout, part / pieces, pieces, placement, again, tasks)
    if layout.gathers and layout.data > 1:
        return sharded_step(profile, cluster, layout, part / pieces, pieces, again != "none", tasks)
    return replicated_step(profile, cluster, layout, part / pieces, pieces, again, tasks, reduced)


def recomputed(layout: Layout) -> Recompute:
    """Return which micro-batches a layout computes again."""
    return layout.recompute if isinstance(layout.recompute, str) else "all" if layout.recompute else "none"


def optimizer_s(profile: Profile, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of one optimizer step on the device that holds most parameters."""
    return profile.optimizer_s / (layout.pipeline * layout.tensor * layout.sharers)
