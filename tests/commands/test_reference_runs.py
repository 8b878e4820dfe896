"""The reference beside a night's cells: where it runs, what is kept of it, and that it never ends the night."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path

import pytest
from cells import make_cells
from click.testing import CliRunner, Result
from lazy import lazy

from harness.commands import reference_runs
from harness.commands.cli import main
from harness.commands.reference_runs import ReferenceRuns, plain_seconds, runs_due, set_aside
from harness.core.cell import Cell
from harness.results.reference import REFERENCE_FILE, Reference, read_reference
from harness.results.store import Results

plain_loop = lazy("harness.engines.real.plain_loop")

SCENARIO = """
engine = "real"
[workload]
model = "softmax"
dataset = { name = "synthetic", samples = 200 }
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = [0.1, 0.2]
[goal]
target_accuracy = "none"
max_steps = 3
[measure]
reference = 3
"""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a script that stands for the loop: as fast as printing."""
    path = tmp_path / "loop.py"
    path.write_text("print(1.25)\n")
    monkeypatch.setattr(reference_runs, "SCRIPT", path)
    return path


def real_cells(**changes: object) -> list[Cell]:
    return make_cells(engine="real", cluster={}, sweep__strategy=["single"], **changes)


def stored(folder: Path) -> Reference:
    found = read_reference(folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("of", "runs", "due"),
    [
        (9, 10, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
        (3, 10, [1, 4, 7, 10]),
        (20, 3, [*[1] * 10, *[2] * 10, 3]),
        (2, 1, [1, 1, 1]),
        (0, 4, [4]),
        (2, 0, [0, 0, 0]),
    ],
)
def test_runs_are_first_last_and_between_the_cells(of: int, runs: int, due: list[int]) -> None:
    assert [runs_due(done, of, runs) for done in range(of + 1)] == due


def test_the_loop_trains_and_tells_its_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(plain_loop.LOOPS["cpu"], "steps", 2)
    assert 0 < plain_loop.loop_seconds("cpu", 1) < 60


def test_the_loop_imports_nothing_of_ours() -> None:
    text = reference_runs.SCRIPT.read_text(encoding="utf-8")
    assert set(re.findall(r"^(?:from|import) (\w+)", text, re.MULTILINE)) == {"__future__", "sys", "time", "torch"}


def test_each_run_is_stored_at_once_and_whoever_resumes_completes_them(tmp_path: Path, script: Path) -> None:
    cells = real_cells(sweep__seeds=4)
    beside = ReferenceRuns(Results(tmp_path), cells, 5, print)
    for done in range(3):
        beside.due(done, of=4)
    assert [run.after_cells for run in stored(tmp_path).runs] == [0, 1, 2]
    again = ReferenceRuns(Results(tmp_path), cells, 5, print)
    for done in range(3):
        again.due(done, of=2)
    found = stored(tmp_path)
    assert [run.after_cells for run in found.runs] == [0, 1, 2, 2, 4]
    assert found.kind == "plain-loop-1-cpu-1"
    assert {run.seconds for run in found.runs} == {1.25}
    assert all(run.started <= datetime.now(run.started.tzinfo) for run in found.runs)


@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("raise ValueError('CUDA is gone')", "ValueError: CUDA is gone"),
        ("import os; os._exit(7)", "exit code 7"),
        ("pass", "it printed 'nothing' instead of seconds"),
        ("print('soon')", "it printed 'soon' instead of seconds"),
        ("print(0.0)", "it printed '0.0' instead of seconds"),
        ("import time; time.sleep(60)", "it took longer than 0.5 s"),
    ],
)
def test_a_run_that_fails_is_said_and_left_out(
    tmp_path: Path, script: Path, monkeypatch: pytest.MonkeyPatch, program: str, why: str
) -> None:
    monkeypatch.setattr(reference_runs, "LONGEST_S", 0.5 if "sleep" in program else 20.0)
    script.write_text(program)
    said: list[str] = []
    beside = ReferenceRuns(Results(tmp_path), real_cells(), 2, said.append)
    beside.due(0, of=1)
    assert len(said) == 1
    assert said[0].endswith(why)
    assert read_reference(tmp_path) is None
    monkeypatch.setattr(reference_runs, "LONGEST_S", 20.0)
    script.write_text("print(2.0)")
    beside.due(1, of=1)
    assert [run.seconds for run in stored(tmp_path).runs] == [2.0]


def test_simulated_cells_and_finished_ones_have_no_reference(tmp_path: Path, script: Path) -> None:
    said: list[str] = []
    ReferenceRuns(Results(tmp_path), make_cells(sweep__strategy=["single"]), 2, said.append).due(0, of=1)
    ReferenceRuns(Results(tmp_path), real_cells(), 2, said.append).due(0, of=0)
    assert ["no cell is measured" in said[0], "no cell is left to run" in said[1]] == [True, True]
    assert read_reference(tmp_path) is None


def test_a_part_of_the_cells_has_the_loop_of_all(tmp_path: Path, script: Path) -> None:
    both = [*real_cells(), *real_cells(threads_per_device=2)]
    beside = ReferenceRuns(Results(tmp_path), both, 2, print, chosen=1)
    beside.due(0, of=1)
    beside.due(1, of=1)
    assert stored(tmp_path).kind == "plain-loop-1-cpu-2"
    assert [run.after_cells for run in stored(tmp_path).runs] == [0, 1]


def test_runs_of_another_loop_are_moved_aside(tmp_path: Path, script: Path) -> None:
    ReferenceRuns(Results(tmp_path), real_cells(), 1, print).due(0, of=1)
    ReferenceRuns(Results(tmp_path), real_cells(threads_per_device=2), 1, print).due(0, of=1)
    assert stored(tmp_path).kind == "plain-loop-1-cpu-2"
    assert len(list((tmp_path / "aside").iterdir())) == 1
    set_aside(Results(tmp_path), REFERENCE_FILE)
    set_aside(Results(tmp_path), REFERENCE_FILE)
    assert read_reference(tmp_path) is None
    assert len(list((tmp_path / "aside").iterdir())) == 2


def run(folder: Path, *words: str) -> Result:
    (folder / "night.toml").write_text(SCENARIO)
    return CliRunner().invoke(main, ["run", str(folder / "night.toml"), "--results", str(folder / "results"), *words])


@pytest.mark.dist
def test_a_night_has_its_reference_and_a_fresh_one_another(tmp_path: Path, script: Path) -> None:
    done = run(tmp_path)
    assert done.exit_code == 0, done.output
    assert "reference: 3 runs of a plain PyTorch loop, median 1.25 s" in done.output
    folder = tmp_path / "results" / "night"
    assert [run.after_cells for run in stored(folder).runs] == [0, 1, 2]
    script.write_text("print(1.5)")
    assert run(tmp_path, "--fresh", "--reference", "2").exit_code == 0
    assert [run.seconds for run in stored(folder).runs] == [1.5, 1.5]
    script.write_text("raise SystemExit('broken')")
    done = run(tmp_path, "--fresh", "--reference")
    assert done.exit_code == 0
    assert done.output.count("reference: a run failed") == 10
    assert read_reference(folder) is None


def test_the_real_loop_tells_seconds_to_a_process_of_its_own() -> None:
    found = plain_seconds("no-such-device", 1)
    assert isinstance(found, str)
    assert "no-such-device" in found
