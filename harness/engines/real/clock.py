"""Where a device's time goes: spans on the host's clock, or between events in its queue that are read only at marks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from harness.core.outcome import StepRow
from harness.core.span import COMPUTE
from harness.core.step_parts import PART_COLUMNS, Part
from harness.engines.processes.status import StatusLine
from harness.workloads.accelerator import DeviceEvent, has_queue, module_of

Stamp = Any
"""A moment: a float on the host, or a `Queued` event; which of them, the ledger's device says."""


class Queued(NamedTuple):
    """A moment in a device's queue.

    Attributes:
        stood_s: how long the cell had stood still by then; the device idles while the host stands still.
    """

    event: DeviceEvent
    stood_s: float

    def seconds_to(self, later: Queued) -> float:
        """Return the seconds until another moment, standstills left out; below 0 where that came first."""
        return self.event.elapsed_time(later.event) / 1000 - (later.stood_s - self.stood_s)


class Ledger:
    """Rows of a process, one for each step, with seconds by part.

    The host's clock is CLOCK_MONOTONIC, which all processes of a host share: that is what lets the slowest of several
    workers be found afterwards. Standstills of the cell are left out of it.

    Args:
        status: knows how long the cell has stood still.
    """

    def __init__(self, device: torch.device, worker: int, rank_in_worker: int, status: StatusLine) -> None:
        self.device, self._status = device, status
        self._queue = module_of(device) if has_queue(device) else None
        self.clock = status.clock
        self.rows: list[StepRow] = []
        self._who = {"worker": worker, "device": rank_in_worker}
        self._pending: list[tuple[StepRow, Part, Stamp, Stamp]] = []
        self._moments: list[tuple[StepRow, str, Stamp]] = []
        self._starts: list[tuple[StepRow, Stamp, float]] = []
        self._base: tuple[Queued, float] | None = None
        self._resolved = 0
        self.started_s = 0.0
        self.paused_s = 0.0

    def start(self, started_s: float) -> None:
        """Start the training clock at a moment of the host's clock; everything before is forgotten."""
        self.rows.clear()
        self._pending.clear()
        self._moments.clear()
        self._starts.clear()
        self._resolved = 0
        self.started_s, self.paused_s = started_s, 0.0
        if self._queue is not None:
            self._synchronise_clocks()

    def _synchronise_clocks(self) -> None:
        """Tie the device's clock to the host's, anew at every reading: events count in coarse milliseconds."""
        self.wait()
        moment: Queued = self.stamp()
        moment.event.synchronize()
        self._base = (moment, self.clock())

    def wait(self) -> None:
        """Wait until the device has done what it was given."""
        if self._queue is not None:
            self._queue.synchronize(self.device)

    def now(self) -> float:
        """Return the training clock: pauses left out."""
        return self.clock() - self.started_s - self.paused_s

    def stamp(self) -> Stamp:
        """Return this moment: a number on the host, a recorded event where the device has a queue."""
        if self._queue is None:
            return self.clock()
        event = self._queue.Event(enable_timing=True)
        event.record()
        return Queued(event, self._status.stood_s())

    def begin(self, step: int, version: int) -> StepRow:
        """Open the row of a step."""
        row: StepRow = dict.fromkeys(PART_COLUMNS, 0.0)
        row |= self._who | {"step": step, "start_s": self.now(), "samples": 0, "loss": None, "staleness": 0}
        row["base_version"] = version
        self.rows.append(row)
        if self._queue is not None:
            self._starts.append((row, self.stamp(), self.paused_s))
        return row

    @property
    def row(self) -> StepRow:
        """The open row; words outside any batch are accounted to a row of their own that is not kept."""
        return self.rows[-1] if self.rows else dict.fromkeys(PART_COLUMNS, 0.0)

    @contextmanager
    def span(self, part: Part, name: str = "", stream: str = COMPUTE) -> Iterator[None]:
        """Account what happens inside to a part of the open row; arguments as of `add`."""
        start = self.stamp()
        yield
        self.add(part, start, self.stamp(), name, stream)

    def add(
        self, part: Part, start: Stamp, end: Stamp, name: str = "", stream: str = COMPUTE, *, awaits_input: bool = False
    ) -> None:
        """Account the time between two stamps.

        Args:
            name: what a trace calls it.
            stream: what it occupies there: "compute" is all that keeps the device's program busy.
            awaits_input: whether the time since the last span of the step was spent waiting for what this one works on.
        """
        if self._queue is not None:
            self._pending.append((self.row, part, start, end))
        else:
            self.row[part.column] += end - start

    def host(self, part: Part, seconds: float, name: str = "") -> None:
        """Account seconds of the host's clock that have just passed, on any device."""
        self.row[part.column] += seconds

    def beside(self, name: str, start: Stamp, end: Stamp) -> None:
        """Note what ran beside the device's program, and is accounted for already; a trace shows it."""

    def recount(self, seconds: float) -> None:
        """Count seconds of the open row that were taken for communication as computing."""
        self.row[Part.COMMUNICATION.column] -= seconds
        self.row[Part.COMPUTE.column] += seconds

    def waited(self, idle_s: float, transfer_s: float) -> None:
        """Account a wait that has just ended: first for somebody else, then for the wire."""
        self.row[Part.IDLE.column] += idle_s
        self.row[Part.COMMUNICATION.column] += transfer_s

    def computed_s(self) -> float:
        """Return the seconds computed in the open row so far; waits for the device."""
        seconds: float = self.row[Part.COMPUTE.column]
        if self._queue is not None:
            self.wait()
            mine = (item for item in self._pending if item[0] is self.row and item[1] is Part.COMPUTE)
            seconds += sum(start.seconds_to(end) for _, _, start, end in mine)
        return seconds

    def moment(self, name: str, stamp: Stamp) -> None:
        """Note a moment in the open row, on the host's clock."""
        if self._queue is not None:
            self._moments.append((self.row, name, stamp))
        else:
            self.row[name] = stamp

    def resolve(self) -> float:
        """Wait for the device and read all stamps and losses; called at marks and at the end only.

        Returns:
            Seconds that reading took, once the device had come to its end: no training.
        """
        self.wait()
        began = self.clock()
        if self._queue is not None:
            self._read_stamps()
            self._synchronise_clocks()
        self._read_losses()
        return self.clock() - began

    def _read_stamps(self) -> None:
        for row, part, start, end in self._pending:
            row[part.column] += start.seconds_to(end)
        for row, name, stamp in self._moments:
            row[name] = self._on_host(stamp)
        for row, stamp, paused_s in self._starts:
            row["start_s"] = self._on_host(stamp) - self.started_s - paused_s
        self._pending.clear()
        self._moments.clear()
        self._starts.clear()

    def _read_losses(self) -> None:
        """Copy them off the device together: each by itself would cost as much as all."""
        rows = [row for row in self.rows[self._resolved :] if isinstance(row["loss"], torch.Tensor)]
        if rows:
            losses = torch.stack([row["loss"] for row in rows]).cpu().tolist()
            for row, loss in zip(rows, losses, strict=True):
                row["loss"] = loss
        self._resolved = len(self.rows)

    def _on_host(self, stamp: Stamp) -> float:
        assert self._base is not None
        base, host = self._base
        return host + base.seconds_to(stamp)
