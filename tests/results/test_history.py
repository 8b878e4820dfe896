"""The history on disk: every night once, whoever writes at the same time, and damaged files refused by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cells import make_cell
from compared_cells import HERE, STEP_S, store
from lazy import lazy

from harness.core.cell import point_key
from harness.core.endings import Status
from harness.core.errors import InputError, NothingDone
from harness.results.history import Commit, add_night, read_history
from harness.results.reference import Reference, ReferenceRun, write_reference
from harness.results.store import Results

pandas = lazy("pandas")
parquet = lazy("pyarrow.parquet")

COMMIT = Commit("c0ffee", dirty=False)
FACTS = HERE | {"driver": "570.1", "python": "3.11.9", "harness": "1", "cluster": "dgx", "nothing": None}


def began(results: Results, night: str) -> Results:
    """Let a night's cells have begun then, a minute apart."""
    for minute, record in enumerate(results.records().values()):
        results.write_record(replace(record, started=f"{night}T01:{minute:02}:00+00:00"), {})
    return results


def a_night(folder: Path, night: str = "2031-05-01", **changes: Any) -> Results:
    return began(Results(store(folder, **changes)), night)


def add(folder: Path, results: Results, commit: Commit = COMMIT, **options: Any) -> Path:
    return add_night(folder, results, dict.fromkeys(results.records(), FACTS), commit, **options)


def test_a_night_keeps_a_row_for_each_run(tmp_path: Path) -> None:
    results = a_night(tmp_path / "new", sweep__seeds=2)
    write_reference(results.folder, Reference("loop", (ReferenceRun(datetime.now(UTC), 0, 1.25),)))
    path = add(tmp_path / "history", results, machine="node-7")
    assert path.parent == tmp_path / "history" / "nights"
    rows = read_history(tmp_path / "history")
    assert len(rows) == 4
    assert {(row.strategy, row.seed) for row in rows} == {(s, n) for s in ("single", "sync-ddp") for n in (0, 1)}
    assert {row.night for row in rows} == {"2031-05-01T01:00:00Z"}
    assert [row.started for row in rows] == [f"2031-05-01T01:{minute:02}:00Z" for minute in range(4)]
    row = rows[0]
    assert row.update_s == pytest.approx(STEP_S)
    assert (row.commit, row.dirty, row.machine, row.scenario) == ("c0ffee", False, "node-7", "test")
    assert (row.torch, row.driver, row.python, row.harness, row.cluster) == ("2.13.0", "570.1", "3.11.9", "1", "dgx")
    assert row.hardware == "a processor"
    assert (row.reference_kind, row.reference_s, row.reference_runs_s) == ("loop", pytest.approx(1.25), [1.25])
    assert json.loads(row.facts)["driver"] == "570.1"


def test_seeds_of_a_point_have_one_key_and_points_have_several(tmp_path: Path) -> None:
    add(tmp_path / "history", a_night(tmp_path / "new", sweep__seeds=3))
    keys = [row.point for row in read_history(tmp_path / "history")]
    assert sorted(keys.count(key) for key in set(keys)) == [3, 3]


def test_a_key_that_a_later_version_adds_parts_no_nights() -> None:
    cell = make_cell(sweep__strategy=["single"])
    assert "channels_last" not in point_key(cell)
    other = replace(cell, workload=replace(cell.workload, channels_last=True))
    assert "channels_last" in point_key(other)


def test_other_programs_read_it_as_a_table(tmp_path: Path) -> None:
    add(tmp_path / "history", a_night(tmp_path / "new"))
    add(tmp_path / "history", a_night(tmp_path / "next", "2031-05-02", mark=1))
    table = pandas.read_parquet(tmp_path / "history" / "nights")
    assert list(table.groupby("night").size()) == [2, 2]
    assert table["update_s"].dtype == float


def test_what_is_there_is_not_added_again(tmp_path: Path) -> None:
    results = a_night(tmp_path / "new")
    first = add(tmp_path / "history", results)
    written = first.stat().st_mtime_ns
    again = add(tmp_path / "history", Results(Path(shutil.copytree(results.folder, tmp_path / "copy"))))
    assert (again, again.stat().st_mtime_ns) == (first, written)
    assert len(read_history(tmp_path / "history")) == 2


def test_results_that_grew_are_added_and_count_once(tmp_path: Path) -> None:
    results = a_night(tmp_path / "new")
    add(tmp_path / "history", results)
    *_, cell_id = results.records()
    record = results.record(cell_id)
    assert record is not None
    later = replace(record, started="2031-05-01T02:00:00+00:00", row=record.row | {"throughput_samples_per_s": 1.0})
    results.write_record(later, {})
    add(tmp_path / "history", results)
    assert len(list((tmp_path / "history" / "nights").iterdir())) == 2
    rows = {row.cell_id: row for row in read_history(tmp_path / "history")}
    assert len(rows) == 2
    assert rows[cell_id].update_s == 32.0


def test_two_writers_lose_nothing(tmp_path: Path) -> None:
    for number in range(3):
        add(tmp_path / "history", a_night(tmp_path / f"n{number}", mark=number), machine=f"node-{number}")
    assert len(read_history(tmp_path / "history")) == 6
    assert not [path for path in (tmp_path / "history" / "nights").iterdir() if path.name.startswith(".")]


def test_what_crashed_every_night_alike_is_kept_every_night(tmp_path: Path) -> None:
    for night in ("2031-05-01", "2031-05-02"):
        results = a_night(tmp_path / night, night)
        for record in results.records().values():
            results.write_record(replace(record, status=Status.CRASHED, row={"status": "crashed"}), {})
        add(tmp_path / "history", results)
    rows = read_history(tmp_path / "history")
    assert [(row.night[:10], row.status) for row in rows[::2]] == [("2031-05-01", "crashed"), ("2031-05-02", "crashed")]
    assert {row.update_s for row in rows} == {None}


def test_old_records_are_of_when_they_were_written(tmp_path: Path) -> None:
    results = Results(store(tmp_path / "new"))
    add(tmp_path / "history", results)
    (night,) = {row.night for row in read_history(tmp_path / "history")}
    assert abs(datetime.fromisoformat(night).timestamp() - datetime.now(UTC).timestamp()) < 600


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_a_damaged_file_is_refused_by_name(tmp_path: Path, damage: str) -> None:
    path = add(tmp_path / "history", a_night(tmp_path / "new"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "other":
        pandas.DataFrame({"night": ["2031"]}).to_parquet(path)
    else:
        path.write_bytes(b"")
    with pytest.raises(InputError, match="not a night of a history") as caught:
        read_history(tmp_path / "history")
    assert str(path) in str(caught.value)


def test_a_file_of_a_newer_version_is_refused_by_name(tmp_path: Path) -> None:
    path = add(tmp_path / "history", a_night(tmp_path / "new"))
    table = parquet.read_table(path)
    parquet.write_table(table.replace_schema_metadata({b"harness.history": b"99"}), path)
    with pytest.raises(InputError, match="newer version") as caught:
        read_history(tmp_path / "history")
    assert str(path) in str(caught.value)


def test_columns_that_a_newer_version_adds_are_ignored(tmp_path: Path) -> None:
    path = add(tmp_path / "history", a_night(tmp_path / "new"))
    table = parquet.read_table(path)
    parquet.write_table(table.append_column("more", [[1] * len(table)]), path)
    assert len(read_history(tmp_path / "history")) == 2


def test_nothing_to_add_and_nothing_to_read_are_said(tmp_path: Path) -> None:
    results = a_night(tmp_path / "new")
    shutil.rmtree(results.folder / "cells")
    with pytest.raises(NothingDone, match="no cell has a result"):
        add(tmp_path / "history", results)
    with pytest.raises(NothingDone, match="harness history add"):
        read_history(tmp_path / "history")
