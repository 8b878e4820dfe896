"""Records: what a cell leaves behind, where it lies, and how it is read again. Imports neither torch nor pandas.

results/<scenario>/plan.json                    the cells of the last plan
results/<scenario>/cells/<cell-id>/record.json  written last, atomically: a folder without one is unfinished
results/<scenario>/cells/<cell-id>/             evals.csv, steps.parquet, telemetry.parquet, updates.parquet, log.txt
results/<scenario>/cells.csv, report.html
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.cell_row import as_shown, with_speedups
from harness.core.atomic_files import atomic, write_atomically
from harness.core.cell import RECORD_SCHEMA, Cell, NewerSchema, Plan, read_schema
from harness.core.disturbances import Disturbances
from harness.core.endings import Cause, Status
from harness.core.errors import InputError, MachineError
from harness.core.outcome import TableColumns
from harness.core.outside_text import bounded
from harness.core.records import Json, Unreadable, from_json, to_json
from harness.core.row import COLUMNS
from harness.results.beside_records import leads_out, read_beside
from harness.results.judge_record import ONE_CELL, judged_plan, judged_row, refuse_detail, refuse_id

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Record:
    """What is known of a cell.

    Attributes:
        row: the cell's columns of cells.csv, x_ columns included.
        cause: of what ended it before its training did; None where nothing did.
        environment: host-independent facts of machine and versions.
        attempts: how often it was tried.
        rerun: which of the fresh runs of a suspect it is, from 1; 0 of a run of the night itself.
        started: when it was begun, ISO 8601 in UTC; empty of records of before this was written.
        took_s: seconds of this machine that its last attempt took, from its start to its record.
        disturbances: what else went on while it was measured.
    """

    cell: Cell
    status: Status
    reason: str
    notes: tuple[str, ...]
    row: Json
    environment: Json
    attempts: int = 1
    detail: Json | None = None
    cause: Cause | None = None
    started: str = ""
    rerun: int = 0
    took_s: float | None = None
    disturbances: Disturbances = field(default_factory=dict)

    @property
    def final(self) -> bool:
        """Whether a second run keeps it: a finding, or a failure that was repeated once already."""
        return self.status.final or (self.status is not Status.INTERRUPTED and self.attempts > 1)


class Superseded(Exception):
    """Another harness has taken over a cell whose record was to be written."""


TABLE_FILES = ("evals.csv", "steps.parquet", "updates.parquet", "telemetry.parquet")
"""Files that may lie beside a record: no other is ever deleted."""


class Results:
    """The folder of one scenario under a results root.

    Args:
        rerun: what its records are marked with.
    """

    def __init__(self, folder: Path, rerun: int = 0) -> None:
        self.folder, self.rerun = folder, rerun

    def cell_folder(self, cell_id: str) -> Path:
        """Return where a cell's files lie."""
        return self.folder / "cells" / cell_id

    def new_log(self, cell_id: str) -> Path:
        """Return where a cell's processes write their log: an empty file that only its user reads."""
        folder = self.cell_folder(cell_id)
        self.refuse_links(folder)
        folder.mkdir(parents=True, exist_ok=True)
        log = folder / "log.txt"
        log.unlink(missing_ok=True)
        log.touch(mode=0o600)
        return log

    def record(self, cell_id: str) -> Record | None:
        """Return a stored record, or None where the cell was never finished."""
        path = self.cell_folder(cell_id) / "record.json"
        try:
            return _judged(from_json(Record, self._content(path)), cell_id)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise InputError([f"{path}: not a record ({error}); move the folder away to run the cell again"]) from None
        except OSError as error:
            raise InputError([f"{path}: cannot be read: {error.strerror}"]) from None

    def write_record(
        self, record: Record, tables: Mapping[str, TableColumns], still_ours: Callable[[], bool] = lambda: True
    ) -> None:
        """Write tables first and the record last, each atomically: an interruption never leaves half a record.

        Args:
            still_ours: asked when all is written and nothing has taken its place yet.

        Raises:
            Superseded: the cell is not ours any more; nothing has changed.
        """
        folder = self.cell_folder(record.cell.cell_id)
        self.refuse_links(folder)
        content = bounded({"schema": RECORD_SCHEMA, **to_json(replace(record, rerun=self.rerun))})
        # All is written before anything takes its place, the record last: the earlier attempt's stays until then.
        with ExitStack() as stack:
            record_file = stack.enter_context(atomic(folder / "record.json"))
            for name, table in tables.items():
                _write_table(stack.enter_context(atomic(folder / name)), table, name)
            record_file.write_text(json.dumps(jsonable(content), indent=1) + "\n", encoding="utf-8")
            if not still_ours():
                raise Superseded(record.cell.cell_id)
        for name in set(TABLE_FILES) - set(tables):
            (folder / name).unlink(missing_ok=True)

    def refuse_links(self, path: Path) -> None:
        """Refuse a path that a link leads out of this folder, whether it is to be read or written.

        Raises:
            MachineError: it does.
        """
        if leads_out(path, self.folder):
            raise MachineError(f"{path}: a link leads out of the results folder; remove it, and run the command again")

    def _content(self, path: Path) -> Json:
        """Return what a record or plan holds, its texts bounded.

        Raises:
            InputError: a newer version of the harness wrote it, or a link leads out of the folder.
        """
        content = read_beside(path, self.folder)
        try:
            read_schema(content)
        except NewerSchema as error:
            raise InputError([f"{path}: {error}; update the harness, or give another results folder"]) from None
        return content

    def set_aside(self, cell_id: str) -> None:
        """Move a cell's folder away before the cell is run again; nothing finished is ever deleted.

        Raises:
            MachineError: a link leads out of the results.
        """
        folder = self.cell_folder(cell_id)
        if os.path.lexists(folder):
            aside = self.folder / "aside" / f"{cell_id}-{time.time_ns()}"
            self.refuse_links(aside.parent)
            aside.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(folder, aside)

    def plan(self) -> Plan:
        """Return the last plan.

        Raises:
            InputError: there is none here.
        """
        path = self.folder / "plan.json"
        try:
            return judged_plan(from_json(Plan, self._content(path)))
        except FileNotFoundError:
            raise InputError(
                [f"{self.folder}: no plan.json found; give the folder that `harness run` wrote, results/SCENARIO"]
            ) from None
        except (ValueError, TypeError) as error:
            raise InputError(
                [f"{path}: not a plan ({error}); `harness run` writes it again, and keeps the cells"]
            ) from None
        except OSError as error:
            raise InputError([f"{path}: cannot be read: {error.strerror}"]) from None

    def write_plan(self, plan: Plan) -> None:
        """Store the plan: report, show and cells.csv cover exactly its cells."""
        content = bounded({"schema": RECORD_SCHEMA, **to_json(plan)})
        write_atomically(self.folder / "plan.json", json.dumps(content, indent=1) + "\n")

    def records(self) -> dict[str, Record]:
        """Return the stored records of the plan's cells."""
        return self.records_of(self.plan().cells)

    def records_of(self, cells: Iterable[Cell]) -> dict[str, Record]:
        """Return the stored records of these cells.

        Raises:
            InputError: one is of a cell that is another one in all but its name.
        """
        found = ((cell, self.record(cell.cell_id)) for cell in cells)
        return {cell.cell_id: self._as_planned(record, cell) for cell, record in found if record is not None}

    def _as_planned(self, record: Record, cell: Cell) -> Record:
        """Return the record as the plan has its cell now: a seed that confirmed may choose in a later sweep."""
        for name in ONE_CELL:
            if getattr(record.cell, name) != getattr(cell, name):
                path = self.cell_folder(cell.cell_id) / "record.json"
                raise InputError([f"{path}: its {name} is not that of the plan's cell; move the folder away"])
        if record.cell.confirms == cell.confirms:
            return record
        row = {key: value for key, value in record.row.items() if key != "confirms"}
        row |= {"confirms": True} if cell.confirms else {}
        return replace(record, cell=replace(record.cell, confirms=cell.confirms), row=row)

    def stored_cells(self) -> set[str]:
        """Return the ids of all finished cells here, of this plan or another."""
        return {path.parent.name for path in self.folder.glob("cells/*/record.json")}

    def rows(self, records: Mapping[str, Record] | None = None) -> list[Json]:
        """Return the rows of cells.csv, with what follows from comparing them.

        Args:
            records: where they are at hand already.
        """
        known = self.records() if records is None else records
        return with_speedups([record.row for record in known.values()])

    def write_cells_csv(self) -> Path:
        """Write one row for each finished cell of the plan."""
        rows = [as_shown(row) for row in self.rows()]
        path = self.folder / "cells.csv"
        extra = sorted({key for row in rows for key in row} - set(COLUMNS))
        with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [*COLUMNS, *extra], lineterminator="\n")
            writer.writeheader()
            writer.writerows({k: "" if v is None else v for k, v in row.items()} for row in rows)
        return path


def _judged(record: Record, cell_id: str) -> Record:
    """Return a record that the analyses can trust.

    Raises:
        Unreadable: a part of it is not what they take it for, or it is of another cell than the folder.
    """
    if record.cell.cell_id != cell_id:
        raise Unreadable("cell.cell_id: it is of another cell than its folder")
    refuse_id(cell_id)
    _refuse_times(record)
    refuse_detail(record.detail or {})
    environment = str(record.environment.get("id", ""))
    return replace(record, row=judged_row(record.cell, record.row, record.status, environment))


def _refuse_times(record: Record) -> None:
    """Refuse what is no time: when a cell began, and how long it took."""
    try:
        zone = datetime.fromisoformat(record.started).tzinfo if record.started else UTC
    except ValueError:
        zone = None
    if zone is None:
        raise Unreadable("started: no time with its zone")
    if record.took_s is not None and record.took_s < 0:
        raise Unreadable("took_s: less than nothing")


def find_results(path: Path) -> list[Results]:
    """Return the scenarios' folders that a path stands for: a results root, a folder in it, a cells.csv, a record.

    Raises:
        InputError: there are no results there.
    """
    if path.is_file():
        parents = [parent for parent in path.parents if (parent / "plan.json").is_file()]
        return [Results(parents[0])] if parents else _no_results(path)
    for folder in (path, *path.parents[:2]):
        if (folder / "plan.json").is_file():
            return [Results(folder)]
    below = [Results(plan.parent) for plan in sorted(path.glob("*/plan.json"))]
    return below or _no_results(path)


def _no_results(path: Path) -> list[Results]:
    raise InputError(
        [f"{path}: no results found; give the folder results/SCENARIO, its cells.csv or a cell's folder in it"]
    )


@dataclass(frozen=True)
class Frames:
    """Results as pandas frames; all but `cells` have a column cell_id."""

    cells: pd.DataFrame
    evals: pd.DataFrame
    steps: pd.DataFrame
    updates: pd.DataFrame
    telemetry: pd.DataFrame


def load(path: str | Path) -> Frames:
    """Read results as frames.

    Args:
        path: a results root, a scenario's folder in it, a cells.csv or a record.
    """
    import pandas as pd

    results = find_results(Path(path))
    records = [(r, record) for r in results for record in r.records().values()]
    rows = [as_shown(row) for r in results for row in r.rows()]
    extra = sorted({key for row in rows for key in row} - set(COLUMNS))
    names = {"evals": "evals.csv", "steps": "steps.parquet", "updates": "updates.parquet"}
    names["telemetry"] = "telemetry.parquet"
    folders = [(record.cell.cell_id, r.cell_folder(record.cell.cell_id)) for r, record in records]
    tables = {key: _gather(pd, folders, name) for key, name in names.items()}
    return Frames(cells=pd.DataFrame(rows, columns=[*COLUMNS, *extra]), **tables)


def _gather(pd: Any, folders: Sequence[tuple[str, Path]], name: str) -> Any:
    read = pd.read_csv if name.endswith(".csv") else pd.read_parquet
    parts = [read(folder / name).assign(cell_id=cell_id) for cell_id, folder in folders if (folder / name).is_file()]
    return pd.concat([p for p in parts if len(p)], ignore_index=True) if any(len(p) for p in parts) else pd.DataFrame()


# -- writing -----------------------------------------------------------------------------------------------------------


def _write_table(path: Path, table: TableColumns, name: str) -> None:
    if name.endswith(".csv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(table)
            writer.writerows(["" if v is None else v for v in row] for row in zip(*table.values(), strict=True))
        return
    import pyarrow
    from pyarrow import parquet

    columns = {key: pyarrow.array(list(values)) for key, values in table.items()}
    # What no row knows is a number all the same: tables of other cells, which know it, are put beside this one.
    numbers = {k: v.cast("float64") if pyarrow.types.is_null(v.type) else v for k, v in columns.items()}
    parquet.write_table(pyarrow.table(numbers), path)


def jsonable(value: object) -> object:
    """Return the value as strict JSON can hold it: numbers that are not finite become None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [jsonable(item) for item in value]
    return value
