"""What one step of one worker consists of, under any layout.

`step_cost` is the one door: the virtual engine, plans, explanations and `harness validate` all come through it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.costs import collectives
from harness.costs.cluster import Cluster
from harness.costs.profile import Profile
from harness.strategy import Layout

Placement = tuple[tuple[str, ...], ...]
"""Layer names of each pipeline stage."""


@dataclass(frozen=True)
class Task:
    """Something that occupies a stream of a device: what a trace shows.

    Attributes:
        device: within the worker.
        name: such as "forward 3", "bucket 2", "send".
    """

    device: int
    stream: Literal["compute", "communication"]
    name: str
    start_s: float
    end_s: float


@dataclass(frozen=True)
class StepCost:
    """One step: means over the worker's devices that add up to its length.

    Attributes:
        communication_s: exposed transfer; what computing hides does not count.
        idle_s: waiting for another stage.
        bytes_sent: by one device, mean.
        busy_s: of the communication stream, hidden or not, mean over devices.
        bubble_fraction: share of the step in which a pipeline's devices do not compute; None without a pipeline.
        tasks: on the streams, where they were asked for.
    """

    compute_s: float
    communication_s: float = 0.0
    idle_s: float = 0.0
    bytes_sent: float = 0.0
    busy_s: float = 0.0
    bubble_fraction: float | None = None
    tasks: tuple[Task, ...] = ()

    @property
    def total_s(self) -> float:
        """Length of the step, the optimizer left out."""
        return self.compute_s + self.communication_s + self.idle_s


def step_cost(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    samples: int,
    micro_batch_size: int,
    placement: Placement | None = None,
    tasks: bool = False,
) -> StepCost:
    """Return what a gradient over `samples` samples of one worker costs, its layout's communication included.

    Args:
        samples: of the whole worker, all its data-parallel ranks together.
        micro_batch_size: samples that pass forward at once.
        placement: layers of each stage; None where one device holds all layers.
        tasks: also say when what runs where.
    """
    part = -(-samples // layout.data)
    pieces = max(1, -(-part // micro_batch_size))
    compute = profile.step_s + pieces * profile.gradient_s(part / pieces)
    num_bytes = profile.shape.parameter_bytes
    exchange = collectives.all_reduce_s(cluster, layout.data, num_bytes)
    sent = 2 * (layout.data - 1) / layout.data * num_bytes
    return StepCost(compute, exchange, bytes_sent=sent, busy_s=exchange)


def optimizer_s(profile: Profile, cluster: Cluster, layout: Layout) -> float:
    """Return the seconds of one optimizer step on the device that holds most parameters."""
    shared = layout.data if layout.shard != "none" else 1
    return profile.optimizer_s / (layout.pipeline * layout.tensor * shared)
