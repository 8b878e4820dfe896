"""Data as their function returns them: loaded under one seed for all runs, and once more to see whether they stay."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError, PluginError
from harness.core.words import duration
from harness.engines.shared.keeping import keeps
from harness.engines.shared.replica import seeded
from harness.workloads.own_data import Unfit, for_loss, kept_out

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.workloads.entries import Dataset, Keeps, RawData

DATA_SEED = 20162
"""Draws what a data function draws: chosen once, and never a run's seed, so that all runs see the same data."""

SLOW_READING_S = 1.0
"""A data set of the user's that takes longer to read is spoken of, since in a loop of his own each epoch would pay for
it; and it is not read a second time to compare."""


@dataclass(frozen=True)
class Load:
    """How a cell's data were loaded.

    Attributes:
        read_s: seconds that it took.
        streamed: whether the data set's samples are read as they are needed.
    """

    dataset: Dataset
    cell: Cell
    stays: Keeps
    read_s: float
    streamed: bool

    def compared(self, checksum: str) -> list[str]:
        """Load data of the user's a second time where that is cheap, and say whether they are others then.

        Args:
            checksum: of the data that were trained on.
        """
        if self.dataset.file is None or self.read_s > SLOW_READING_S:
            return []
        name = self.dataset.name
        try:
            again = _read(self.dataset, self.cell, self.stays)
        except Exception as error:  # whatever it is, the cell has been trained
            why = str(error) if isinstance(error, HarnessError) else f"{type(error).__name__}: {error}"
            return [f"data: {name} cannot be called twice, so whether it returns the same each time is open: {why}"]
        if again.checksum == checksum or (again.streams is not None) != self.streamed:
            return []
        return [
            f"data: two loads of {name} differ, so this run cannot be repeated, and other cells train on other data: "
            "give its generator a fixed seed, as with numpy.random.default_rng(0)"
        ]


def loaded(dataset: Dataset, cell: Cell, device: str) -> tuple[Load, RawData]:
    """Load a data set with targets as the loss takes them; as much of it as stays in memory.

    Raises:
        PluginError: it cannot be trained on with this loss.
    """
    stays, began = keeps(cell, device), time.perf_counter()
    raw = _read(dataset, cell, stays)
    load = Load(dataset, cell, stays, time.perf_counter() - began, raw.streams is not None)
    try:
        raw = kept_out(for_loss(raw, cell.workload.loss), stays)
    except Unfit as error:
        raise PluginError(f"{where(dataset)} returned {error}") from None
    number = len(raw.train_targets) + len(raw.test_targets)
    if dataset.file is None or raw.streams is not None or load.read_s < SLOW_READING_S:
        return load, raw
    each = f"in {duration(load.read_s)} ({duration(load.read_s / number)} each)"
    kept = "They stay in memory, so that no step waits for one. workload.loading.resident = false reads them as needed"
    return load, replace(raw, remarks=(*raw.remarks, f"data: all {number:,} samples were read once, {each}. {kept}"))


def _read(dataset: Dataset, cell: Cell, stays: Keeps) -> RawData:
    """Load a data set; what is drawn on the way comes from one stream for all seeds."""
    with seeded(DATA_SEED, "data"):
        options = dataset.Options(**cell.workload.dataset.options)
        return dataset.load(options) if dataset.stream is None else dataset.stream(options, stays)


def where(dataset: Dataset) -> str:
    """Return what messages call a data set: file and line of the user's own."""
    return f"{dataset.source}: {dataset.name.rpartition(':')[2]}" if dataset.file is not None else dataset.name
