"""Who may listen to a run: what listeners are told, and what they may ask of the run that tells them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.cell import Cell
from harness.core.records import Json
from harness.core.row import Row

if TYPE_CHECKING:
    from harness.core.outcome import TableColumns


@dataclass(frozen=True)
class StoredCell:
    """A cell with what it left on disk.

    Attributes:
        row: its columns of cells.csv by name, but for those that follow from comparing cells, such as `speedup`; what
            was not measured is None, or is not there.
        environment: what it ran on: versions, processors, GPUs; `id` is its hash.
        notes: what the record has to say beside the figures.
        started: when its last attempt began, ISO 8601 in UTC; empty of records that are older than this field.
            With `cell.cell_id` it names one measurement: a cell that is run again has another.
        took_s: seconds that this attempt took, from its start to its record; None where that is not known.
        read: reads one of its tables, by the name of its file.
    """

    cell: Cell
    row: Row
    environment: Json
    notes: tuple[str, ...]
    started: str
    took_s: float | None
    read: Callable[[str], TableColumns]

    def table(self, name: str) -> TableColumns:
        """Return a table as columns of equal length; one that the cell did not leave has no columns.

        Args:
            name: evals.csv, steps.parquet, updates.parquet or telemetry.parquet. What was not measured is None.
        """
        return self.read(name)


@dataclass(frozen=True)
class ScenarioRun:
    """One `harness run`, as its listeners see it.

    Attributes:
        name: of the scenario.
        description: of the scenario; empty where it has none.
        folder: results/SCENARIO. A listener may write to a folder of its own in it.
        read_cell: reads what one cell left there, by its id.
        read_stored: reads what all left.
    """

    name: str
    description: str
    folder: Path
    read_cell: Callable[[str], StoredCell | None]
    read_stored: Callable[[], Iterator[StoredCell]]

    def cell(self, cell_id: str) -> StoredCell | None:
        """Return a cell with what it left; None where it has no record, or was interrupted."""
        return self.read_cell(cell_id)

    def stored(self) -> Iterator[StoredCell]:
        """Yield the cells of the plan that have a record, those of earlier runs too, in the order of the plan.

        A cell that was interrupted is left out: it will be run again.
        """
        return self.read_stored()


class Listener:
    """Told what happens in a run; whatever it does not define it does not hear.

    All of it is called in the process of the command. Nobody is told anything while a real cell is measured on this
    machine. What a listener raises is said once; it hears nothing more until the run ends, and the run goes on.
    """

    def run_started(self, run: ScenarioRun) -> None:
        """Called before the first cell."""

    def cell_started(self, cell: Cell) -> None:
        """Called before a cell's processes start."""

    def cell_finished(self, cell: Cell, record: Row) -> None:
        """Called when a cell's record is stored, with its columns of cells.csv."""

    def run_finished(self, run: ScenarioRun, answer: Json) -> None:
        """Called when the run has ended, interrupted or not, with the answer to the scenario.

        Args:
            run: the same as before the first cell.
            answer: as `answer` in what `harness show SCENARIO --json` prints.
        """


@dataclass(frozen=True)
class Tracker:
    """A listener that a run asks for by name: `--track NAME`, or `--track NAME=WHERE`.

    Attributes:
        summary: what it writes, in a line.
        where: what WHERE is, and what holds without it.
        listen: makes the listener; called with WHERE, empty where none was given.
        module: that must be importable; empty: nothing but the harness.
        install: what pip installs the module by.
    """

    name: str
    summary: str
    where: str
    listen: Callable[[str], Listener]
    module: str = ""
    install: str = ""
