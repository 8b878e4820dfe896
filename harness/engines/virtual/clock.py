"""Where a virtual device's time goes: rows of steps on the simulated clock."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from harness.core.addresses import Address
from harness.core.outcome import StepRow
from harness.core.step_parts import PART_COLUMNS, Part

if TYPE_CHECKING:
    from harness.costs.steps import StepCost
    from harness.engines.virtual.lazy import Gradient

_INPUT, _COMPUTE, _COMMUNICATION, _IDLE = (
    part.column for part in (Part.INPUT, Part.COMPUTE, Part.COMMUNICATION, Part.IDLE)
)
"""Looked up once: every word is accounted for, and Python 3.11 takes 0.2 us to find a member of an enumeration."""


class Ledger:
    """Rows of a worker, one for each step, with seconds by part; a server's stays empty."""

    def __init__(self, worker: Address) -> None:
        self.worker = worker
        self.rows: list[StepRow] = []
        self._unchecked: list[list[Any]] = []

    @property
    def step(self) -> int | None:
        """The step that a worker is in; a server is in none."""
        return self.rows[-1]["step"] if self.rows else 0 if self.worker >= 0 else None

    def begin(self, step: int, start_s: float, version: int) -> None:
        """Open the row of a step."""
        row: StepRow = dict.fromkeys(PART_COLUMNS, 0.0)
        row |= {"worker": self.worker, "device": 0, "step": step, "start_s": start_s}
        row |= {"samples": 0, "loss": None, "staleness": 0, "base_version": version}
        self.rows.append(row)

    def add(self, part: Part, seconds: float) -> None:
        """Account seconds that the device is busy, when the word starts."""
        if self.rows:
            self.rows[-1][part.column] += seconds

    def waited(self, idle_s: float, transfer_s: float) -> None:
        """Account a wait that has just ended: first for somebody else, then for the wire."""
        row = self.rows[-1]
        row[_IDLE] += idle_s
        row[_COMMUNICATION] += transfer_s

    def computed(self, cost: StepCost, gradient: Gradient) -> None:
        """Account a gradient; its loss is read when it is known."""
        row = self.rows[-1]
        row[_INPUT] += cost.input_s
        row[_COMPUTE] += cost.compute_s
        row[_COMMUNICATION] += cost.communication_s
        row[_IDLE] += cost.idle_s
        row["samples"] += gradient.num_samples
        row["loss"] = gradient.loss_box
        row["base_version"] = gradient.version
        self._unchecked.append(gradient.loss_box)

    def take_losses_finite(self) -> bool:
        """Whether all losses computed since the last call are numbers; those not computed yet are kept."""
        known = [box for box in self._unchecked if box[0] is not None]
        self._unchecked = [box for box in self._unchecked if box[0] is None]
        return all(math.isfinite(float(box[0])) for box in known)

    def finished_rows(self) -> list[StepRow]:
        """Return all steps, losses read."""
        for row in self.rows:
            box = row["loss"]
            row["loss"] = float(box[0]) if box is not None and box[0] is not None else None
        return self.rows
