"""Records: written whole or not at all, read again by any path, never lost."""

from __future__ import annotations

import csv
import json
import math
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import make_cells
from lazy import lazy

import harness
from harness.analysis.cell_row import identity_row
from harness.core.atomic_files import write_atomically
from harness.core.cell import RECORD_SCHEMA, Cell, Plan
from harness.core.endings import Status
from harness.core.errors import InputError, MachineError
from harness.core.row import COLUMNS
from harness.results.store import Record, Results, find_results, jsonable
from harness.scenario.plan import Machine

pd = lazy("pandas")

# DESIGN 4.3, typed in again on purpose: these columns are a contract with people's scripts.
_CONTRACT = """
cell_id strategy options synchrony equivalence engine clock device precision workers gpus nodes batch_size
micro_batch_size global_batch_size learning_rate lr_rule seed
status reason notes regime samples_seen steps
throughput_samples_per_s step_time_s step_time_p95_s speedup speedup_base scaling
time_to_target_s samples_to_target updates_to_target validation_accuracy validation_loss test_accuracy train_loss
setup_s input_s compute_s communication_s idle_s other_s evaluation_s wall_s bytes_sent_per_step bubble_fraction
staleness_mean staleness_p95 noise_scale_samples
dram_tensors_peak_bytes dram_allocated_peak_bytes dram_reserved_peak_bytes nvml_used_peak_bytes host_rss_peak_bytes
busy_fraction nvml_utilisation_mean mfu energy_j cost trajectory_id environment noisy
ranked
"""
CONTRACT = _CONTRACT.split()

TABLES = {
    "evals.csv": {"samples": [32, 64], "updates": [1, 2], "validation_accuracy": [0.5, None]},
    "steps.parquet": {"worker": [0, 0], "step": [0, 1], "loss": [1.0, None]},
}


@pytest.fixture
def cells() -> list[Cell]:
    return make_cells(sweep__strategy=["single", "sync-ddp"], sweep__gpus=[1, 2], sweep__seeds=2)


@pytest.fixture
def results(tmp_path: Path, cells: list[Cell]) -> Results:
    """Return a planned folder without records."""
    made = Results(tmp_path / "results" / "test")
    made.write_plan(Plan("test", "", Machine(cores=2), tuple(cells)))
    return made


def record_of(cell: Cell, status: str = "ok", attempts: int = 1, **columns: Any) -> Record:
    row = identity_row(cell, "env") | {"status": status} | columns
    detail = {"facts": {"num_train": 3}}
    return Record(cell, Status(status), "in words", ("a note",), row, {"id": "env"}, attempts, detail)


# -- round trip --------------------------------------------------------------------------------------------------------


def test_record_comes_back_as_it_was_written(results, cells):
    written = record_of(cells[0], throughput_samples_per_s=12.5)
    results.write_record(written, TABLES)
    assert results.record(cells[0].cell_id) == written


@pytest.mark.parametrize("crowded", [True, False])
def test_a_record_from_before_the_column_is_ranked_as_its_cell_says(results, cells, crowded):
    cell = replace(cells[0], oversubscribed=crowded)
    written = record_of(cell)
    results.write_record(replace(written, row={k: v for k, v in written.row.items() if k != "ranked"}), {})
    assert results.record(cell.cell_id).row["ranked"] is not crowded


def test_record_of_a_cell_that_never_ran_is_none(results, cells):
    assert results.record(cells[0].cell_id) is None


def test_plan_comes_back_as_it_was_written(results, cells):
    assert results.plan().cells == tuple(cells)


def test_numbers_that_are_not_finite_become_strict_json(results, cells):
    results.write_record(record_of(cells[0], validation_loss=math.nan, train_loss=math.inf), {})
    text = (results.cell_folder(cells[0].cell_id) / "record.json").read_text()
    content = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert content["row"]["validation_loss"] is None
    assert jsonable({"a": (1.0, -math.inf), "b": "nan"}) == {"a": [1.0, None], "b": "nan"}


def test_record_written_again_leaves_no_table_of_the_attempt_before(results, cells):
    results.write_record(record_of(cells[0]), TABLES)
    results.write_record(record_of(cells[0], "crashed", attempts=2), {})
    assert [p.name for p in results.cell_folder(cells[0].cell_id).iterdir()] == ["record.json"]
    assert harness.load(results.folder).evals.empty


def test_log_of_an_attempt_survives_its_record(results, cells):
    folder = results.cell_folder(cells[0].cell_id)
    folder.mkdir(parents=True)
    (folder / "log.txt").write_text("what was printed")
    results.write_record(record_of(cells[0]), TABLES)
    assert (folder / "log.txt").read_text() == "what was printed"


# -- whole or not at all -----------------------------------------------------------------------------------------------


def crash(*_: Any, **__: Any) -> None:
    raise OSError("the disk is full")


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*.harness-*")]


@pytest.mark.parametrize("before", range(3))
def test_crash_before_any_file_is_in_its_place_leaves_the_cell_unfinished(results, cells, monkeypatch, before):
    """Tables take their places first: what they belong to is not said before all are there."""
    replace_file, done = Path.replace, []

    def crashing(path: Path, target: Path) -> Path:
        done.append(target.name)
        return crash() if len(done) > before else replace_file(path, target)

    monkeypatch.setattr(Path, "replace", crashing)
    with pytest.raises(OSError, match="disk is full"):
        results.write_record(record_of(cells[0]), TABLES)
    assert results.record(cells[0].cell_id) is None
    assert results.records() == {}
    assert harness.load(results.folder).evals.empty
    assert litter(results.folder) == []


def test_crash_while_an_attempt_is_written_again_keeps_the_earlier_one(results, cells, monkeypatch):
    results.write_record(record_of(cells[0], "crashed"), {"evals.csv": {"samples": [1]}})
    monkeypatch.setattr(Path, "write_text", crash)
    with pytest.raises(OSError, match="disk is full"):
        results.write_record(record_of(cells[0], attempts=2), {"evals.csv": {"samples": [2]}})
    assert results.record(cells[0].cell_id) == record_of(cells[0], "crashed")
    assert (results.cell_folder(cells[0].cell_id) / "evals.csv").read_text() == "samples\n1\n"
    assert litter(results.folder) == []


def test_files_of_the_users_own_in_a_cells_folder_stay(results, cells):
    results.write_record(record_of(cells[0]), TABLES)
    own = results.cell_folder(cells[0].cell_id) / "mine.csv"
    own.write_text("mine")
    results.write_record(record_of(cells[0], "crashed", attempts=2), {})
    assert own.read_text() == "mine"
    assert not (own.parent / "evals.csv").exists()


def test_no_link_is_followed_out_of_the_results(results, cells, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.csv").write_text("precious")
    folder = results.cell_folder(cells[0].cell_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(outside)
    with pytest.raises(MachineError, match="a link leads out of the results folder"):
        results.write_record(record_of(cells[0]), TABLES)
    with pytest.raises(MachineError, match="a link leads out of the results folder"):
        results.new_log(cells[0].cell_id)
    with pytest.raises(InputError, match="a link leads out of the results folder"):
        results.record(cells[0].cell_id)
    assert [path.name for path in outside.iterdir()] == ["precious.csv"]


def test_crash_while_writing_leaves_the_old_file_and_no_litter(tmp_path, monkeypatch):
    path = tmp_path / "file.txt"
    write_atomically(path, "old")
    monkeypatch.setattr(Path, "write_text", crash)
    with pytest.raises(OSError, match="disk is full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_files_are_private_to_their_user(results, cells):
    results.write_record(record_of(cells[0]), TABLES)
    results.new_log(cells[1].cell_id)
    files = [path for path in results.folder.rglob("*") if path.is_file()]
    assert len(files) == 3 + len(TABLES)
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}


# -- what a second run keeps -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["ok", "target-missed", "diverged", "out-of-memory", "not-possible"])
def test_findings_are_final(cells, status):
    assert Status(status).final
    assert record_of(cells[0], status).final


@pytest.mark.parametrize("status", ["crashed", "timeout"])
def test_failures_are_final_only_after_the_second_attempt(cells, status):
    assert [record_of(cells[0], status, attempts=n).final for n in (1, 2, 3)] == [False, True, True]


def test_interruptions_are_never_final(cells):
    assert not any(record_of(cells[0], "interrupted", attempts=n).final for n in range(5))


def test_setting_aside_moves_a_folder_and_deletes_nothing(results, cells):
    cell_id = cells[0].cell_id
    for _ in range(2):
        results.write_record(record_of(cells[0]), TABLES)
        results.set_aside(cell_id)
    results.set_aside(cell_id)  # nothing is there any more, and that is fine
    assert results.record(cell_id) is None
    kept = sorted((results.folder / "aside").iterdir())
    assert len(kept) == 2
    assert all((folder / "record.json").is_file() and (folder / "evals.csv").is_file() for folder in kept)
    assert results.stored_cells() == set()


# -- cells.csv ---------------------------------------------------------------------------------------------------------


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_columns_are_exactly_the_contract():
    assert list(COLUMNS) == CONTRACT


def test_cells_csv_has_the_columns_in_order_and_a_strategys_own_behind(results, cells):
    results.write_record(record_of(cells[0], x_rounds=3.0), {})
    header = results.write_cells_csv().read_text().splitlines()[0].split(",")
    assert header == [*CONTRACT, "x_rounds"]


def test_what_was_not_measured_is_empty_and_a_measured_zero_is_zero(results, cells):
    results.write_record(record_of(cells[0], staleness_mean=0.0, energy_j=None, bubble_fraction=None), {})
    (row,) = read_csv(results.write_cells_csv())
    assert row["staleness_mean"] == "0.0"
    for name in ("energy_j", "bubble_fraction", "mfu", "cost", "nvml_used_peak_bytes", "test_accuracy", "noisy"):
        assert row[name] == "", name


def test_cells_csv_covers_exactly_the_finished_cells_of_the_plan(results, cells):
    (stranger,) = make_cells(sweep__strategy="single", sweep__learning_rate=[0.7])
    for cell in (*cells[:2], stranger):
        results.write_record(record_of(cell), {})
    assert [row["cell_id"] for row in read_csv(results.write_cells_csv())] == [c.cell_id for c in cells[:2]]
    assert results.stored_cells() == {cells[0].cell_id, cells[1].cell_id, stranger.cell_id}


def test_text_with_commas_quotes_and_lines_survives_cells_csv(results, cells):
    reason = 'he said "no", twice\nand left'
    results.write_record(record_of(cells[0], reason=reason), {})
    assert read_csv(results.write_cells_csv())[0]["reason"] == reason


# -- reading by any path -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["root", "scenario", "cells.csv", "cell", "record"])
def test_load_takes_a_root_a_folder_a_table_or_a_record(results, cells, where):
    for cell in cells:
        results.write_record(record_of(cell, throughput_samples_per_s=10.0), TABLES)
    results.write_cells_csv()
    folder = results.cell_folder(cells[0].cell_id)
    path = {
        "root": results.folder.parent,
        "scenario": results.folder,
        "cells.csv": results.folder / "cells.csv",
        "cell": folder,
        "record": folder / "record.json",
    }[where]
    frames = harness.load(path)
    assert list(frames.cells.columns)[: len(CONTRACT)] == CONTRACT
    assert set(frames.cells["cell_id"]) == {cell.cell_id for cell in cells}
    assert frames.evals.groupby("cell_id").size().tolist() == [2] * len(cells)
    assert set(frames.steps.columns) == {"worker", "step", "loss", "cell_id"}
    assert frames.updates.empty
    assert frames.telemetry.empty


def test_load_takes_a_path_as_text(results, cells):
    results.write_record(record_of(cells[0]), {})
    assert len(harness.load(str(results.folder)).cells) == 1


def test_load_of_a_root_joins_its_scenarios(results, cells):
    other = Results(results.folder.parent / "other")
    other.write_plan(Plan("other", "", Machine(cores=2), (cells[0],)))
    for folder in (results, other):
        folder.write_record(record_of(cells[0]), {})
    assert len(find_results(results.folder.parent)) == 2
    assert len(harness.load(results.folder.parent).cells) == 2


def test_load_keeps_what_was_not_measured_apart_from_zero(results, cells):
    results.write_record(record_of(cells[0], staleness_mean=0.0), TABLES)
    frames = harness.load(results.folder)
    assert frames.cells.loc[0, "staleness_mean"] == 0.0
    assert pd.isna(frames.cells.loc[0, "energy_j"])
    assert frames.evals["validation_accuracy"].isna().tolist() == [False, True]


# -- what is not there, or broken --------------------------------------------------------------------------------------


def test_a_folder_without_results_says_what_to_give(tmp_path):
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(InputError, match="no results found; give the folder results/SCENARIO") as error:
            find_results(path)
        assert error.value.exit_code == 2


def test_a_file_outside_any_results_is_refused(tmp_path):
    stray = tmp_path / "cells.csv"
    stray.write_text("cell_id\n")
    with pytest.raises(InputError, match="no results found; give the folder"):
        find_results(stray)


def test_a_folder_without_a_plan_says_so(tmp_path):
    with pytest.raises(InputError, match=r"no plan\.json found; give the folder that `harness run` wrote"):
        Results(tmp_path).plan()


@pytest.mark.parametrize("content", ["{", "", "[1, 2]", '{"schema": 1}', "not json"])
def test_a_corrupt_record_is_named_with_what_to_do(results, cells, content):
    folder = results.cell_folder(cells[0].cell_id)
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(content)
    with pytest.raises(InputError, match=r"record\.json: not a record .*move the folder away"):
        results.record(cells[0].cell_id)


@pytest.mark.parametrize("content", ["{", '{"name": "x"}'])
def test_a_corrupt_plan_is_named_with_what_to_do(results, content):
    (results.folder / "plan.json").write_text(content)
    with pytest.raises(InputError, match=r"plan\.json: not a plan"):
        results.plan()


# -- schemas -----------------------------------------------------------------------------------------------------------


def rewritten(path: Any, **changes: Any) -> None:
    content = json.loads(path.read_text())
    content = {key: value for key, value in (content | changes).items() if (key, value) != ("schema", None)}
    path.write_text(json.dumps(content))


def test_records_and_plans_say_their_schema_and_what_says_none_is_of_the_first(results, cells):
    results.write_record(record_of(cells[0]), {})
    record, plan = results.cell_folder(cells[0].cell_id) / "record.json", results.folder / "plan.json"
    for path in (record, plan):
        assert json.loads(path.read_text())["schema"] == RECORD_SCHEMA
        rewritten(path, schema=None)
    assert results.record(cells[0].cell_id) == record_of(cells[0])
    assert results.plan().cells == tuple(cells)


def test_what_a_newer_version_wrote_is_refused_with_what_to_do(results, cells):
    results.write_record(record_of(cells[0]), {})
    rewritten(results.cell_folder(cells[0].cell_id) / "record.json", schema=RECORD_SCHEMA + 1)
    rewritten(results.folder / "plan.json", schema=RECORD_SCHEMA + 1)
    for read in (lambda: results.record(cells[0].cell_id), results.plan):
        with pytest.raises(InputError, match=r"json: a newer version of the harness wrote it, .*; update the harness"):
            read()


def test_a_schema_that_is_none_is_refused(results, cells):
    rewritten(results.folder / "plan.json", schema="two")
    with pytest.raises(InputError, match=r"plan\.json: not a plan"):
        results.plan()


def test_results_of_the_first_schema_are_read_as_they_were_written():
    """The folder was written by the version before ids followed code and cells had types."""
    stored = Results(Path(__file__).parent / "schema1")
    plan, records = stored.plan(), stored.records()
    assert [cell.strategy for cell in plan.cells] == ["single", "async-ps", "async-ps"]
    assert {record.status for record in records.values()} == {Status.OK}
    assert [cell.faults.stragglers[0].slowdown for cell in plan.cells] == [2.0, 2.0, 2.0]
    found = {row["strategy"]: row["time_to_target_s"] for row in stored.rows()}
    assert found == {"single": pytest.approx(0.42), "async-ps": pytest.approx(0.212, rel=0.01)}
    assert all(row["ranked"] for row in stored.rows())
