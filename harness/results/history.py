"""The history of nights: tables that are only ever added to, one file a night, so that two writers lose nothing.

FOLDER/nights/<night>-<digest>.parquet    one row a run, the columns of `CellNight`
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.analysis.compare_environment import Surroundings
from harness.analysis.nights import CellNight
from harness.analysis.points import mean_update_s, number
from harness.core.atomic_files import atomic
from harness.core.cell import point_key
from harness.core.endings import Status
from harness.core.errors import InputError, NothingDone
from harness.core.outside_files import parsed_json, read_outside
from harness.core.outside_tables import read_table
from harness.core.outside_text import bounded
from harness.core.records import Json, Unreadable, from_json
from harness.results.reference import Reference, read_reference
from harness.results.store import Record, Results

if TYPE_CHECKING:
    import pyarrow

HISTORY_SCHEMA = 1
"""Rises when a column goes, or no longer means the same; new columns do not raise it."""

MOST_UNPACKED_BYTES = 64 * 2**20
"""Of one night; chosen: some fifty thousand runs."""

_SCHEMA_KEY = b"harness.history"


@dataclass(frozen=True)
class Commit:
    """Which code the night ran.

    Attributes:
        dirty: whether tracked files differed from it; None where nobody could tell.
    """

    name: str = ""
    dirty: bool | None = None


# -- adding ------------------------------------------------------------------------------------------------------------


def add_night(
    folder: Path, results: Results, facts: Mapping[str, Surroundings], commit: Commit, machine: str = ""
) -> Path:
    """Add a night to a history and return its file; results that are there already are not added again.

    Args:
        results: of one scenario.
        facts: what surrounds each cell, by its id.
        commit: of the user's repository.
        machine: what the user calls this machine: each has series of its own.

    Raises:
        NothingDone: no cell has a result.
        InputError: a record, or the reference beside them, is damaged.
    """
    return keep_rows(folder, night_rows(results, facts, commit, machine))


def keep_rows(folder: Path, rows: Sequence[CellNight]) -> Path:
    """Add the rows of a night to a history and return their file."""
    digest = hashlib.sha256("".join(sorted(row.record for row in rows)).encode()).hexdigest()[:12]
    stamp = rows[0].night.replace(":", "").replace("-", "")
    path = folder / "nights" / f"{stamp}-{digest}.parquet"
    if not path.is_file():
        _write(path, rows)
    return path


def night_rows(
    results: Results, facts: Mapping[str, Surroundings], commit: Commit, machine: str = ""
) -> list[CellNight]:
    """Return a night's rows, as `add_night` keeps them."""
    records = results.records()
    if not records:
        raise NothingDone(f"{results.folder}: no cell has a result yet; run the scenario to its end, then add it")
    files = {cell_id: results.cell_folder(cell_id) / "record.json" for cell_id in records}
    started = {cell_id: _started(records[cell_id], path) for cell_id, path in files.items()}
    reference, name = read_reference(results.folder), results.plan().name
    return [
        _row(
            record,
            night=_iso(min(started.values())),
            started=_iso(started[cell_id]),
            scenario=name,
            machine=machine,
            digest=hashlib.sha256(read_outside(files[cell_id])).hexdigest()[:16],
            facts=facts[cell_id],
            commit=commit,
            reference=reference,
        )
        for cell_id, record in records.items()
    ]


def _started(record: Record, path: Path) -> datetime:
    """Return when a cell began; of records of before this was written, when they were."""
    return (
        datetime.fromisoformat(record.started) if record.started else datetime.fromtimestamp(path.stat().st_mtime, UTC)
    )


def _iso(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"


def _row(
    record: Record,
    *,
    night: str,
    started: str,
    scenario: str,
    machine: str,
    digest: str,
    facts: Surroundings,
    commit: Commit,
    reference: Reference | None,
) -> CellNight:
    cell, row = record.cell, record.row
    log = reference.log_seconds if reference else None
    words = {name: str(facts.get(name) or "") for name in ("harness", "python", "torch", "driver", "cluster")}
    return CellNight(
        night=night,
        scenario=scenario,
        machine=machine,
        point=point_key(cell),
        cell_id=cell.cell_id,
        record=digest,
        started=started,
        strategy=cell.strategy,
        options=json.dumps(cell.options, sort_keys=True),
        swept=json.dumps(cell.swept, sort_keys=True),
        model=cell.workload.model.name,
        dataset=cell.workload.dataset.name,
        engine=cell.engine,
        device=cell.device,
        gpus=cell.gpus,
        batch_size=cell.batch_size,
        micro_batch_size=cell.micro_batch_size,
        global_batch_size=cell.global_batch_size,
        learning_rate=cell.learning_rate,
        seed=cell.seed,
        status=record.status,
        update_s=mean_update_s(row),
        time_to_target_s=number(row, "time_to_target_s"),
        samples_to_target=number(row, "samples_to_target"),
        validation_accuracy=number(row, "validation_accuracy"),
        validation_loss=number(row, "validation_loss"),
        train_loss=number(row, "train_loss"),
        test_accuracy=number(row, "test_accuracy"),
        metric=number(row, "validation_metric"),
        noisy=row.get("noisy"),
        commit=commit.name,
        dirty=commit.dirty,
        **words,
        hardware=str(facts.get("cpu" if cell.device == "cpu" else "gpu") or ""),
        facts=json.dumps(dict(facts), sort_keys=True, default=str),
        reference_kind=reference.kind if reference else "",
        reference_s=None if log is None else math.exp(log),
        reference_runs_s=[run.seconds for run in reference.runs] if reference else [],
    )


def _write(path: Path, rows: Sequence[CellNight]) -> None:
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.Table.from_pylist([asdict(row) for row in rows], schema=_schema())
    with atomic(path) as temporary:
        parquet.write_table(table, temporary, compression="zstd")


def _schema() -> pyarrow.Schema:
    import pyarrow

    kinds = {"str": pyarrow.string(), "float": pyarrow.float64(), "int": pyarrow.int64(), "bool": pyarrow.bool_()}
    kinds["list[float]"] = pyarrow.list_(pyarrow.float64())
    columns = [(column.name, kinds[str(column.type).removesuffix(" | None")]) for column in fields(CellNight)]
    return pyarrow.schema(columns, metadata={_SCHEMA_KEY: str(HISTORY_SCHEMA)})


# -- reading -----------------------------------------------------------------------------------------------------------


def read_history(folder: Path) -> list[CellNight]:
    """Return all runs of a history, the oldest first; a measurement that was added twice counts once.

    Raises:
        InputError: a file is damaged, or a newer version of the harness wrote it.
        NothingDone: there is no history here.
    """
    files = sorted((folder / "nights").glob("*.parquet"))
    if not files:
        raise NothingDone(f"{folder}: no history yet; add a night with `harness history add RESULTS --to {folder}`")
    # What broke off at once may leave the same record every night.
    rows = {(row.record, "" if row.timed else row.night): row for path in files for row in _read(path)}
    return sorted(_newest(rows.values()), key=lambda row: (row.night, row.started, row.cell_id))


def _newest(rows: Iterable[CellNight]) -> Iterable[CellNight]:
    """Return one run for each cell of a night: results that were added again after a retry hold the newer one."""
    found: dict[tuple[str, ...], CellNight] = {}
    for row in sorted(rows, key=lambda row: row.started):
        found[row.machine, row.scenario, row.night, row.cell_id] = row
    return found.values()


_TABLES = ("options", "swept", "facts")
"""Columns that hold an object as JSON."""

_ABOVE_ZERO = ("update_s", "time_to_target_s", "reference_s")


def _judged_night(row: CellNight) -> CellNight:
    """Return a row that the analyses can trust.

    Raises:
        ValueError: a column is not what they take it for.
    """
    for name in _TABLES:
        if not isinstance(parsed_json(getattr(row, name)), dict):
            raise ValueError(f"{name}: no object in JSON")
    for name in ("night", "started"):
        if datetime.fromisoformat(getattr(row, name)).tzinfo is None:
            raise ValueError(f"{name}: a time without its zone")
    seconds = [value for name in _ABOVE_ZERO if (value := getattr(row, name)) is not None]
    if not all(math.isfinite(value) and value > 0 for value in (*seconds, *row.reference_runs_s)):
        raise ValueError(f"{', '.join(_ABOVE_ZERO)}, reference_runs_s: times above 0 are needed")
    if row.status not in list(Status):
        raise ValueError(f"status: {row.status}")
    if min(row.gpus, row.global_batch_size) < 1:
        raise ValueError("gpus, global_batch_size: 1 or more")
    return row


def _characters(column: pyarrow.ChunkedArray) -> int:
    """Return the bytes of a column's texts, each counted as often as it is repeated."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type):
        return 0
    return sum(
        compute.sum(compute.binary_length(part.dictionary).take(part.indices)).as_py() or 0 for part in column.chunks
    )


def _read(path: Path) -> list[CellNight]:
    from pyarrow import ArrowException

    try:
        table = read_table(path, MOST_UNPACKED_BYTES, fold=0)
        if int((table.schema.metadata or {}).get(_SCHEMA_KEY, b"0")) > HISTORY_SCHEMA:
            raise InputError([f"{path}: a newer version of the harness wrote it; update the harness"])
        if (characters := sum(map(_characters, table.columns))) > MOST_UNPACKED_BYTES:
            raise ValueError(f"its texts have {characters:,} bytes, and at most {MOST_UNPACKED_BYTES:,} are read")
        content: list[Json] = [bounded(row) for row in table.to_pylist()]
        return [_judged_night(from_json(CellNight, row)) for row in content]
    except (ArrowException, Unreadable, OSError, ValueError) as error:
        raise InputError(
            [f"{path}: not a night of a history ({error}); move the file away, and add its results again"]
        ) from None
