"""How far a results folder is: done, running, dead, empty; what is left and what it has cost."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells
from click.testing import CliRunner

from harness.analysis.cell_row import identity_row
from harness.commands.cli import main
from harness.commands.documents import StatusDocument, document_schema
from harness.commands.folder_status import Progressing, status_of, status_text
from harness.core.cell import Cell, Plan
from harness.core.endings import Status
from harness.core.environment import describe_environment
from harness.core.leases import DEAD_S, Leases
from harness.core.machine import Machine
from harness.core.records import from_json
from harness.results.store import Record, Results

MACHINE = Machine(cores=2)


def cells_of(**changes: Any) -> list[Cell]:
    cells = make_cells(sweep__strategy=["single"], sweep__learning_rate=[0.1, 0.2], sweep__seeds=2)
    return [replace(cell, **changes) for cell in cells]


def store(folder: Path, cells: Sequence[Cell], done: int, took_s: float = 3.0, status: Status = Status.OK) -> Results:
    results = Results(folder)
    results.write_plan(Plan("test", "", MACHINE, tuple(cells)))
    environment = describe_environment(MACHINE)
    for cell in cells[:done]:
        row = identity_row(cell, environment["id"]) | {"status": str(status), "reason": "", "notes": ""}
        results.write_record(Record(cell, status, "", (), row, environment, took_s=took_s, attempts=2), {})
    return results


def test_a_folder_where_all_is_done_is_complete(tmp_path):
    found = status_of(store(tmp_path / "test", cells_of(), 4).folder)
    assert (found.state, found.done, found.planned, found.seconds_left) == (Progressing.COMPLETE, 4, 4, 0.0)
    assert status_text(found).splitlines() == ["test: complete, 4 of 4 cells done", "  results: 4 ok"]


def test_a_folder_that_nobody_works_on_has_stopped_and_what_is_left_is_foretold(tmp_path):
    found = status_of(store(tmp_path / "test", cells_of(), 2, took_s=3.0).folder)
    assert (found.state, found.done, found.seconds_left, found.unlike) == (Progressing.STOPPED, 2, 6.0, 0)
    assert "left: 2 cells, about 6.00 s" in status_text(found)


def test_cells_like_none_that_ran_count_as_the_median(tmp_path):
    other = replace(make_cells(sweep__strategy=["sync-ddp"], sweep__gpus=[4])[0], seed=9)
    found = status_of(store(tmp_path / "test", [*cells_of()[:2], other], 2, took_s=5.0).folder)
    assert (found.unlike, found.seconds_left) == (1, 5.0)


def test_before_any_has_ended_nobody_knows_how_long_it_takes(tmp_path):
    found = status_of(store(tmp_path / "test", cells_of(), 0).folder)
    assert found.seconds_left is None
    assert "left: 4 cells, not known yet" in status_text(found)


def test_what_runs_is_named_with_its_place_and_step(tmp_path):
    cells = cells_of()
    results = store(tmp_path / "test", cells, 1)
    with Leases(results.folder) as leases:
        lease = leases.take(cells[2].cell_id)
        assert lease is not None
        lease.tell(where={"host": "node7", "process": 4712}, step=30)
        lease.touch()
        found = status_of(results.folder)
    (running,) = found.running
    assert (running.cell_id, running.host, running.process, running.step) == (cells[2].cell_id, "node7", 4712, 30)
    assert running.steps == 81  # two epochs of 1,293 samples by 32
    assert (found.state, [each.process for each in found.harnesses]) == (Progressing.RUNNING, [os.getpid()])
    assert "step 30 of at most 81" in status_text(found)


def test_a_run_that_was_killed_is_dead_until_another_goes_on(tmp_path):
    cells = cells_of()
    results = store(tmp_path / "test", cells, 1)
    path = results.folder / "leases" / "harnesses" / "node7-1-aa"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"host": "node7", "machine": "node7", "process": 1, "since": "then"}))
    assert status_of(results.folder).state is Progressing.RUNNING
    os.utime(path, (time.time() - DEAD_S - 5,) * 2)
    found = status_of(results.folder)
    assert (found.state, found.running) == (Progressing.DEAD, ())
    assert "process 1 on node7, since then: dead, the last sign of life is 3" in status_text(found)
    with Leases(results.folder):
        assert status_of(results.folder).state is Progressing.RUNNING
    assert status_of(results.folder).state is Progressing.STOPPED


def test_an_empty_folder_is_empty_and_one_that_is_not_there_is_refused(tmp_path):
    assert status_of(tmp_path).state is Progressing.EMPTY
    done = CliRunner().invoke(main, ["status", str(tmp_path / "no")])
    assert done.exit_code == 2
    assert "no results folder of this name" in done.output


def test_failed_cells_are_named_with_the_way_to_look_at_them(tmp_path):
    cells = cells_of()
    found = status_of(store(tmp_path / "test", cells, 1, status=Status.CRASHED).folder)
    assert found.failed == (cells[0].cell_id,)
    assert f"harness show {cells[0].cell_id} --results {tmp_path}" in status_text(found)


def test_measured_cells_cost_what_their_devices_do_and_simulated_ones_nothing(tmp_path):
    priced = {"per_gpu_hour": 36.0, "currency": "EUR"}
    real = [replace(cell, gpus=2) for cell in cells_of(engine="real", **priced)]
    found = status_of(store(tmp_path / "real", real, 2, took_s=50.0).folder)
    assert (found.cost, found.currency) == (2 * 2 * 36.0 * 50.0 / 3600, "EUR")
    assert "cost so far: 2.00 EUR" in status_text(found)
    assert status_of(store(tmp_path / "virtual", cells_of(**priced), 2).folder).cost is None
    assert status_of(store(tmp_path / "free", cells_of(engine="real"), 2).folder).cost is None


def test_a_root_has_the_status_of_all_its_folders_as_data_too(tmp_path):
    store(tmp_path / "results" / "a", cells_of(), 4)
    store(tmp_path / "results" / "b", cells_of(), 1)
    done = CliRunner().invoke(main, ["status", str(tmp_path / "results"), "--json"])
    document = from_json(StatusDocument, done.output)
    assert [(each.state, each.done) for each in document.folders] == [("complete", 4), ("stopped", 1)]
    assert set(json.loads(done.output)) == set(document_schema("status")["properties"])


@pytest.mark.parametrize("content", ["", "[]", '{"host": "\\u001b[31m", "process": true, "joins": 3}', "\x00"])
def test_what_a_stranger_has_written_into_a_lease_does_no_harm(tmp_path, content):
    cells = cells_of()
    results = store(tmp_path / "test", cells, 1)
    for name in ("harnesses/a", f"cells/{cells[1].cell_id}.1", "cells/x", f"cells/{cells[2].cell_id}.99"):
        path = results.folder / "leases" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    found = status_of(results.folder)
    assert len(found.running) == 2
    assert "\x1b" not in status_text(found)
