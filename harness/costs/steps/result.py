"""What a step came to: parts that add up, and what occupied which stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class StreamTask:
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
        idle_s: waiting for another stage, or for the slowest replica.
        bytes_sent: by one device, mean.
        busy_s: of the communication stream, hidden or not, mean over devices.
        bubble_fraction: share of the step in which a pipeline's devices do not compute; None without a pipeline.
        tasks: on the streams, where they were asked for.
        input_s: until the samples are there.
        host_s: of the host's own work, during which its device idles.
    """

    compute_s: float
    communication_s: float = 0.0
    idle_s: float = 0.0
    bytes_sent: float = 0.0
    busy_s: float = 0.0
    bubble_fraction: float | None = None
    tasks: tuple[StreamTask, ...] = ()
    input_s: float = 0.0
    host_s: float = 0.0

    @property
    def total_s(self) -> float:
        """Length of the step, the optimizer left out."""
        return self.input_s + self.compute_s + self.communication_s + self.idle_s + self.host_s
