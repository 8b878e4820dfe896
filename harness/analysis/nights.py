"""Nights: what a history keeps of each cell of each, one row a run."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import fmean

from harness.analysis.points import SWEPT, Row
from harness.core.endings import Status

FEWEST_TO_TRIM = 5
"""Runs from which on the fastest and the slowest do not count, so that no burst moves the rest; chosen."""


def middle_log(seconds: Iterable[float]) -> float:
    """Return the mean of the logarithms of times, of five or more without the fastest and the slowest."""
    logs = sorted(map(math.log, seconds))
    return fmean(logs[1:-1] if len(logs) >= FEWEST_TO_TRIM else logs)


@dataclass(frozen=True)
class CellNight:
    """One run of one cell in one night: a row of the history's tables, under these names.

    Attributes:
        night: start of the run of the whole scenario, ISO 8601 in UTC, to the second: it names the night.
        scenario: the name of the results.
        machine: what the user calls it; empty where he does not.
        point: what pairs it with other nights: all that identifies the cell but its seed, as JSON.
        cell_id: of that night: it changes with every edit of a strategy's file.
        record: digest of its record: the same measurement is never counted twice.
        options, swept: JSON.
        update_s: mean seconds of an update of the whole job after warm-up; None where it was not measured.
        metric: of the model's own, where it has no accuracy.
        noisy: whether something disturbed it; None where nobody looked.
        commit: of the user's repository; empty where there is none.
        dirty: whether tracked files differed from the commit.
        hardware: the GPU, or the processor of what ran on it.
        facts: JSON: all that surrounded the cell, as `harness compare` names it.
        reference_kind: which loop ran beside the cells; empty where none did.
        reference_s: seconds of a run of it; reference_runs_s: of each run.
    """

    night: str
    scenario: str
    machine: str
    point: str
    cell_id: str
    record: str
    started: str
    strategy: str
    options: str
    swept: str
    model: str
    dataset: str
    engine: str
    device: str
    gpus: int
    batch_size: int
    micro_batch_size: int
    global_batch_size: int
    learning_rate: float
    seed: int
    status: str
    update_s: float | None
    time_to_target_s: float | None
    samples_to_target: float | None
    validation_accuracy: float | None
    validation_loss: float | None
    train_loss: float | None
    test_accuracy: float | None
    metric: float | None
    noisy: bool | None
    commit: str
    dirty: bool | None
    harness: str
    python: str
    torch: str
    driver: str
    hardware: str
    cluster: str
    facts: str
    reference_kind: str
    reference_s: float | None
    reference_runs_s: list[float] = field(default_factory=list)

    @property
    def row(self) -> Row:
        """What points are named by, as cells.csv has it."""
        names = ("cell_id", "strategy", "options", "engine", "device", "gpus", "batch_size", "micro_batch_size")
        named = {name: getattr(self, name) for name in (*names, "global_batch_size", "learning_rate", "seed")}
        return named | {f"{SWEPT}{key}": value for key, value in json.loads(self.swept).items()}

    @property
    def timed(self) -> bool:
        """Whether it trained to its end, and its time is known."""
        return Status(self.status).trained and bool(self.update_s)


@dataclass(frozen=True)
class Night:
    """What all cells of a night share.

    Attributes:
        night: when it began.
        reference: logarithm of the seconds of a run of the reference; None without one.
        rows: all runs.
    """

    night: str
    commit: str
    dirty: bool | None
    reference_kind: str
    reference: float | None
    rows: tuple[CellNight, ...]

    @property
    def began(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.night)

    @property
    def facts(self) -> list[Mapping[str, object]]:
        """What surrounded each of its cells."""
        return [json.loads(row.facts) for row in self.rows]


def nights_of(rows: Sequence[CellNight]) -> list[Night]:
    """Return the nights of one scenario on one machine, the oldest first."""
    by_night: dict[str, list[CellNight]] = {}
    for row in rows:
        by_night.setdefault(row.night, []).append(row)
    return [_night(name, found) for name, found in sorted(by_night.items())]


def _night(name: str, rows: list[CellNight]) -> Night:
    first = max(rows, key=lambda row: bool(row.reference_s))
    seconds = first.reference_s
    return Night(
        night=name,
        commit=first.commit,
        dirty=first.dirty,
        reference_kind=first.reference_kind if seconds else "",
        reference=math.log(seconds) if seconds else None,
        rows=tuple(rows),
    )
