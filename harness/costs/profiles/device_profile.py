"""How long a workload computes on one device: per layer against the number of samples, and what every step adds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from harness.costs.profiles.shape import ModelShape

Origin = Literal["measured", "given", "estimated"]


class TimeCurve(NamedTuple):
    """Seconds against samples, by straight lines through measured points; a single point is a line through zero.

    Attributes:
        points: (samples, seconds), samples rising.
    """

    points: tuple[tuple[float, float], ...] = ()

    def at(self, samples: float) -> float:
        """Return seconds for so many samples; beyond the points the nearest line goes on, but never below zero."""
        if not self.points or samples <= 0:
            return 0.0
        if len(self.points) == 1:
            return self.points[0][1] * samples / self.points[0][0]
        above = next((k for k, (count, _) in enumerate(self.points) if count >= samples), len(self.points) - 1)
        (x0, y0), (x1, y1) = self.points[max(0, above - 1) : max(0, above - 1) + 2]
        return max(0.0, y0 + (y1 - y0) * (samples - x0) / (x1 - x0))

    def scaled(self, factor: float) -> TimeCurve:
        """Return the curve with all seconds multiplied."""
        return TimeCurve(tuple((count, seconds * factor) for count, seconds in self.points))


NO_TIME = TimeCurve()


class Launches(NamedTuple):
    """Operators of a layer's passes; gradients of inputs and of weights are kernels of their own."""

    forward: int = 1
    backward: int = 2


UNCOUNTED = Launches()


@dataclass(frozen=True)
class LayerTime:
    """One layer's passes on one device."""

    forward: TimeCurve = NO_TIME
    backward: TimeCurve = NO_TIME
    launches: Launches = UNCOUNTED

    @classmethod
    def at(cls, samples: float, forward_s: float, backward_s: float) -> LayerTime:
        """Return the time of a layer that is known at one number of samples; at others it is in proportion."""
        return cls(TimeCurve(((samples, forward_s),)), TimeCurve(((samples, backward_s),)))


@dataclass(frozen=True)
class Profile:
    """A workload on a device.

    Attributes:
        shape: the model's layers.
        times: one entry for each layer of the shape.
        optimizer_s: one optimizer step over all parameters on one device.
        input: seconds of bringing the samples of one pass to the device, where this process reads them.
        readers: processes that read ahead in its place; 0 where it reads itself.
        step_s: the host's own share of every step, whatever its batch: the program, rows, seeds, handing gradients on.
        launch_s: least seconds of one operator; no cutting (tensor parallelism, micro-batches) goes below.
        weight_fraction: share of the backward pass that computes gradients of weights; both matrices of a layer are
            equally large.
        memory_bandwidth_bytes_per_s: of the device, for arithmetic that only moves data; 0 where unknown.
        origin: measured here, given by the scenario, or estimated from a catalogue.
        text: where the figures are from, in words.
        error: stated relative uncertainty of compute times, one standard deviation.
    """

    shape: ModelShape
    times: tuple[LayerTime, ...]
    optimizer_s: float = 0.0
    input: TimeCurve = NO_TIME
    readers: int = 0
    step_s: float = 0.0
    launch_s: float = 0.0
    weight_fraction: float = 0.5
    memory_bandwidth_bytes_per_s: float = 0.0
    origin: Origin = "given"
    text: str = ""
    error: float = 0.0

    def forward_s(self, samples: float) -> float:
        """Return seconds of one forward pass through all layers."""
        return sum(time.forward.at(samples) for time in self.times)

    def backward_s(self, samples: float) -> float:
        """Return seconds of one backward pass through all layers."""
        return sum(time.backward.at(samples) for time in self.times)

    def gradient_s(self, samples: float) -> float:
        """Return seconds of one forward and backward pass."""
        return self.forward_s(samples) + self.backward_s(samples)

    def exposed_input_s(self, samples: float, pieces: int, rest_s: float) -> float:
        """Return the seconds of a step that pass until its samples are there.

        Processes that read ahead take turns: a step waits only where all of them together are slower than its rest.

        Args:
            samples: of one piece.
            rest_s: all that a step takes besides.
        """
        whole = pieces * self.input.at(samples)
        return max(0.0, whole / self.readers - rest_s) if self.readers else whole

    def slowed(self, factor: float) -> Profile:
        """Return the profile of a device that computes `factor` times as long; its host does not."""
        times = tuple(
            replace(t, forward=t.forward.scaled(factor), backward=t.backward.scaled(factor)) for t in self.times
        )
        return replace(self, times=times, optimizer_s=self.optimizer_s * factor)
