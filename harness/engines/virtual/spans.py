"""What a virtual cluster's trace shows: streams of devices, messages, waits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from harness.api.strategy import Layout
from harness.core.addresses import Address, name_of
from harness.core.span import COMMUNICATION, COMPUTE, Span
from harness.core.step_parts import Part
from harness.engines.shared.recorder import Recorder

MOST_DEVICES = 64
"""Of one worker; chosen: more rows than a screen shows. Those left out do the same."""

NO_TIME_S = 1e-12
"""What sums of floats may differ by; chosen: far below anything that takes time."""


class Tracer:
    """Turns what endpoints do into spans."""

    def __init__(self, recorder: Recorder, layout: Layout) -> None:
        self.recorder, self.layout = recorder, layout

    def busy(self, address: Address, name: str, part: Part, start_s: float, end_s: float, step: int | None) -> None:
        """Note that a word kept an endpoint's devices busy; `part` is what it was accounted to."""
        for process in self._processes(address):
            self.recorder.add(Span(process, COMPUTE, name, part, start_s, end_s, step))

    def message(self, address: Address, name: str, start_s: float, end_s: float, step: int | None) -> None:
        """Note that bytes from or to an endpoint were on the wire."""
        process = self._processes(address)[0]
        self.recorder.add(Span(process, COMMUNICATION, name, Part.COMMUNICATION, start_s, end_s, step))

    def waited(
        self, address: Address, kind: str, start_s: float, sent_s: float, end_s: float, step: int | None
    ) -> None:
        """Note that an endpoint waited for somebody, and then for the wire."""
        for process in self._processes(address):
            self.recorder.add(Span(process, COMPUTE, "wait", Part.IDLE, start_s, sent_s, step))
        if kind in ("receive", "mean", "gather"):  # what is sent is noted as a message
            self.message(address, kind, sent_s, end_s, step)

    def _processes(self, address: Address) -> list[str]:
        """Return what the trace calls an endpoint's devices, as the real engine calls its processes."""
        if address < 0:
            return [name_of(address)]
        devices = self.layout.devices
        if devices == 1:
            return [name_of(address)]
        return [f"rank {address * devices + number}" for number in range(min(devices, MOST_DEVICES))]

    def gradient(
        self, worker: int, part: Any, factors: Sequence[float], start_s: float, end_s: float, step: int
    ) -> None:
        """Note what a worker's devices did for one gradient; where cores are shared it ends later than its parts."""
        if self.recorder.wants(step):
            self.busy(worker, "shares cores", Part.COMPUTE, start_s + part.total_s + NO_TIME_S, end_s, step)
            for span in spans_of_step(self.layout, self._processes(worker), part, factors):
                moved = span._replace(start_s=start_s + span.start_s, end_s=start_s + span.end_s, step=step)
                self.recorder.add(moved)


def spans_of_step(layout: Layout, processes: Sequence[str], part: Any, factors: Sequence[float]) -> Iterator[Span]:
    """Yield the spans of one step, beginning at zero; tasks that stand for several devices are drawn for each.

    Args:
        processes: names of the worker's devices that are drawn.
        part: the step's cost, with tasks by rank of the pipeline.
        factors: by device, or none where nothing is slowed; where devices meet in every step, tasks are the slowest's.
    """
    # Stages have their own times in the tasks already.
    slowest = max(factors) if factors and layout.pipeline == 1 else 0.0
    for number, process in enumerate(processes):
        pace = factors[number] / slowest if slowest else 1.0
        rank = number // layout.tensor % layout.pipeline
        own = [task for task in part.tasks if task.device == rank]
        for task in own:
            scale = pace if task.stream == COMPUTE else 1.0
            yield Span(process, task.stream, task.name, task.stream, task.start_s * scale, task.end_s * scale, 0)
        if layout.pipeline == 1:
            ended_s = part.total_s - part.host_s
            yield from _end_of_step(process, max(t.end_s for t in own if t.stream == COMPUTE), pace, ended_s)


def _end_of_step(process: str, computed_s: float, pace: float, ended_s: float) -> Iterator[Span]:
    """Yield what a device waits for after its own computing: the slowest device, then the exchange."""
    yield Span(process, COMPUTE, "wait", Part.IDLE, computed_s * pace, computed_s, 0)
    yield Span(process, COMPUTE, "wait for exchange", Part.COMMUNICATION, computed_s, ended_s, 0)
