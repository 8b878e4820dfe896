"""A ledger that also keeps every span, for `--trace`; cells without a trace use the plain one and pay nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist
from torch import nn

from harness.core.span import COMMUNICATION, COMPUTE, Span
from harness.core.step_parts import Part
from harness.engines.processes.status import StatusLine
from harness.engines.real.clock import Ledger, Stamp
from harness.engines.shared.recorder import Recorder

if TYPE_CHECKING:
    from harness.engines.real.layouts.one_device import OneDevice

_UNNAMED = {
    Part.INPUT: "input",
    Part.COMPUTE: "compute",
    Part.COMMUNICATION: "wait for exchange",
    Part.IDLE: "wait",
}


class _Kept(NamedTuple):
    """What is known of a span before its stamps are read."""

    name: str
    part: Part
    stream: str
    step: int | None
    awaits_input: bool = False


class TracingLedger(Ledger):
    """Rows and spans of a process.

    Args:
        process: what the trace calls it.
        recorder: what keeps the spans.
    """

    def __init__(
        self,
        device: torch.device,
        worker: int,
        rank_in_worker: int,
        status: StatusLine,
        process: str,
        recorder: Recorder,
    ) -> None:
        super().__init__(device, worker, rank_in_worker, status)
        self.process, self.recorder = process, recorder
        self._unread: list[tuple[_Kept, Stamp, Stamp, float]] = []
        self._forward_ends: list[Stamp] = []
        self._previous: tuple[int | None, float] = (None, 0.0)

    def start(self, started_s: float) -> None:
        """Start the training clock; spans of the warm-up are forgotten too."""
        super().start(started_s)
        self.recorder.spans.clear()
        self._unread.clear()
        self._forward_ends.clear()

    def watch(self, runner: OneDevice) -> None:
        """Learn where the forward pass ends, and what becomes of DDP's buckets."""
        if isinstance(runner.replica.forward, nn.Module):
            runner.replica.forward.register_forward_hook(self._note_forward)
        if hasattr(runner, "ddp") and runner.reducing is None:
            # A function without annotations: torch compares those it finds with its own types.
            runner.ddp.register_comm_hook(
                None, lambda _, bucket: self._exchange_bucket(bucket, runner.ddp.process_group)
            )

    def _note_forward(self, module: nn.Module, *_: object) -> None:
        if module.training:
            self._forward_ends.append(self.stamp())

    def _exchange_bucket(self, bucket: dist.GradBucket, group: dist.ProcessGroup) -> torch.futures.Future[torch.Tensor]:
        """Average a bucket as DDP does without a hook: scale, then sum."""
        start, paused_s = self.stamp(), self.paused_s
        vector = bucket.buffer().mul_(1 / dist.get_world_size(group))
        kept = _Kept(f"bucket {bucket.index()}", Part.COMMUNICATION, COMMUNICATION, self.row.get("step"))

        def done(future: torch.futures.Future[torch.Tensor]) -> torch.Tensor:
            self._keep(kept, start, self.stamp(), paused_s)
            exchanged: torch.Tensor = future.value()[0]
            return exchanged

        return dist.all_reduce(vector, group=group, async_op=True).get_future().then(done)

    # -- what a plain ledger is told -----------------------------------------------------------------------------

    def add(
        self, part: Part, start: Stamp, end: Stamp, name: str = "", stream: str = COMPUTE, *, awaits_input: bool = False
    ) -> None:
        """Account the time between two stamps, forward and backward apart where that is known."""
        super().add(part, start, end)
        kept = _Kept(name or _UNNAMED[part], part, stream, self.row.get("step"), awaits_input)
        if part is Part.COMPUTE and not name and self._forward_ends:
            forward_end = self._forward_ends[-1]
            self._forward_ends.clear()
            self._keep(kept._replace(name="forward"), start, forward_end, self.paused_s)
            self._keep(kept._replace(name="backward"), forward_end, end, self.paused_s)
        else:
            self._keep(kept, start, end, self.paused_s)

    def host(self, part: Part, seconds: float, name: str = "") -> None:
        """Account seconds of the host's clock that have just passed."""
        super().host(part, seconds, name)
        now = self.clock()
        self._on_host_clock(name or _UNNAMED[part], part, now - seconds, now)

    def waited(self, idle_s: float, transfer_s: float) -> None:
        """Account a wait that has just ended."""
        super().waited(idle_s, transfer_s)
        now = self.clock()
        self._on_host_clock("wait", Part.IDLE, now - transfer_s - idle_s, now - transfer_s)
        self._on_host_clock("receive", Part.COMMUNICATION, now - transfer_s, now, COMMUNICATION)

    def beside(self, name: str, start: Stamp, end: Stamp) -> None:
        """Show what ran beside the device's program."""
        self._keep(_Kept(name, Part.COMMUNICATION, COMMUNICATION, self.row.get("step")), start, end, self.paused_s)

    # -- spans -----------------------------------------------------------------------------------------------------

    def _keep(self, kept: _Kept, start: Stamp, end: Stamp, paused_s: float) -> None:
        if not self.recorder.wants(kept.step):
            return
        if self._queue is not None:
            self._unread.append((kept, start, end, paused_s))
        else:
            self._add_span(kept, start - paused_s, end - paused_s)

    def _on_host_clock(self, name: str, part: Part, start_s: float, end_s: float, stream: str = COMPUTE) -> None:
        kept = _Kept(name, part, stream, self.row.get("step"))
        self._add_span(kept, start_s - self.paused_s, end_s - self.paused_s)

    def _add_span(self, kept: _Kept, start_s: float, end_s: float) -> None:
        begin, end = start_s - self.started_s, end_s - self.started_s
        if kept.awaits_input and self._previous[0] == kept.step:
            self.recorder.add(Span(self.process, COMPUTE, "wait", Part.IDLE, self._previous[1], begin, kept.step))
        self._previous = (kept.step, end)
        if end < begin:  # a layout takes back what it had called computing
            self.recorder.carve(end, begin, kept.part)
        self.recorder.add(Span(self.process, kept.stream, kept.name, kept.part, begin, end, kept.step))

    def _read_stamps(self) -> None:
        for kept, start, end, paused_s in self._unread:
            self._add_span(kept, self._on_host(start) - paused_s, self._on_host(end) - paused_s)
        self._unread.clear()
        super()._read_stamps()
