"""A ledger that also keeps every span, for `--trace`; cells without a trace use the plain one and pay nothing."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.core.span import COMMUNICATION, COMPUTE, Span
from harness.engines.real.clock import Ledger
from harness.engines.shared.recorder import Recorder

ON_THE_WIRE = ("send", "receive", "mean", "bucket")
"""First words of what occupies the communication stream; everything else keeps the device's program busy."""

_PASSES = ("forward ", "backward ", "backward_")
"""How names of a micro-batch's passes begin: before them a stage of a pipeline has waited for its input."""

_UNNAMED = {"input_s": "input", "compute_s": "compute", "communication_s": "wait for exchange", "idle_s": "wait"}


class TracingLedger(Ledger):
    """Rows and spans of a process.

    Args:
        process: what the trace calls it.
        recorder: what keeps the spans.
    """

    def __init__(
        self, device: torch.device, worker: int, rank_in_worker: int, process: str, recorder: Recorder
    ) -> None:
        super().__init__(device, worker, rank_in_worker)
        self.process, self.recorder = process, recorder
        self._unread: list[tuple[str, str, Any, Any, float, int | None]] = []
        self._forward_ends: list[Any] = []
        self._previous: tuple[int | None, float] = (None, 0.0)

    def start(self, started_s: float) -> None:
        """Start the training clock; spans of the warm-up are forgotten too."""
        super().start(started_s)
        self.recorder.spans.clear()
        self._unread.clear()
        self._forward_ends.clear()

    def watch(self, runner: Any) -> None:
        """Learn where the forward pass ends, and what becomes of DDP's buckets."""
        if isinstance(runner.replica.forward, nn.Module):
            runner.replica.forward.register_forward_hook(self._note_forward)
        if hasattr(runner, "ddp"):
            # A function without annotations: torch compares those it finds with its own types.
            runner.ddp.register_comm_hook(None, lambda _, bucket: self._exchange_bucket(bucket))

    def _note_forward(self, module: Any, *_: Any) -> None:
        if module.training:
            self._forward_ends.append(self.stamp())

    def _exchange_bucket(self, bucket: Any) -> Any:
        """Average a bucket as DDP does without a hook: scale, then sum."""
        start, row, paused_s = self.stamp(), self.row, self.paused_s
        vector = bucket.buffer().mul_(1 / dist.get_world_size())
        name = f"bucket {bucket.index()}"

        def done(future: Any) -> torch.Tensor:
            self._keep(name, "communication_s", start, self.stamp(), paused_s, row)
            exchanged: torch.Tensor = future.value()[0]
            return exchanged

        return dist.all_reduce(vector, async_op=True).get_future().then(done)

    # -- what a plain ledger is told -----------------------------------------------------------------------------

    def add(self, part: str, start: Any, end: Any, name: str = "") -> None:
        """Account the time between two stamps, forward and backward apart where that is known."""
        super().add(part, start, end, name)
        if part == "compute_s" and not name and self._forward_ends:
            forward_end = self._forward_ends[-1]
            self._forward_ends.clear()
            self._keep("forward", part, start, forward_end, self.paused_s, self.row)
            self._keep("backward", part, forward_end, end, self.paused_s, self.row)
        else:
            self._keep(name or _UNNAMED[part], part, start, end, self.paused_s, self.row)

    def host(self, part: str, seconds: float, name: str = "") -> None:
        """Account seconds of the host's clock that have just passed."""
        super().host(part, seconds, name)
        now = time.monotonic()
        self._on_host_clock(name or _UNNAMED[part], part, now - seconds, now)

    def waited(self, idle_s: float, transfer_s: float) -> None:
        """Account a wait that has just ended."""
        super().waited(idle_s, transfer_s)
        now = time.monotonic()
        self._on_host_clock("wait", "idle_s", now - transfer_s - idle_s, now - transfer_s)
        self._on_host_clock("receive", "communication_s", now - transfer_s, now)

    # -- spans -----------------------------------------------------------------------------------------------------

    def _keep(self, name: str, part: str, start: Any, end: Any, paused_s: float, row: dict[str, Any]) -> None:
        step = row.get("step")
        if not self.recorder.wants(step):
            return
        if self.device.type == "cuda":
            self._unread.append((name, part, start, end, paused_s, step))
        else:
            self._add_span(name, part, start - paused_s, end - paused_s, step)

    def _on_host_clock(self, name: str, part: str, start_s: float, end_s: float) -> None:
        self._add_span(name, part, start_s - self.paused_s, end_s - self.paused_s, self.row.get("step"))

    def _add_span(self, name: str, part: str, start_s: float, end_s: float, step: int | None) -> None:
        stream = COMMUNICATION if name.startswith(ON_THE_WIRE) else COMPUTE
        begin, end = start_s - self.started_s, end_s - self.started_s
        if name.startswith(_PASSES) and self._previous[0] == step:
            self.recorder.add(Span(self.process, stream, "wait", "idle", self._previous[1], begin, step))
        self._previous = (step, end)
        if end < begin:  # a layout takes back what it had called computing
            self.recorder.carve(end, begin, part.removesuffix("_s"))
        self.recorder.add(Span(self.process, stream, name, part.removesuffix("_s"), begin, end, step))

    def resolve(self) -> None:
        """Read all stamps."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            for name, part, start, end, paused_s, step in self._unread:
                self._add_span(name, part, self._on_host(start) - paused_s, self._on_host(end) - paused_s, step)
            self._unread.clear()
        super().resolve()
