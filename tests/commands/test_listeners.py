"""Who listens to a run: what listeners are told and may ask, and that none of them can end it."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from cells import TWO_STRATEGIES
from click.testing import CliRunner, Result

from harness.commands.cli import main
from harness.results.store import Results

CELLS = 3  # single makes no sense on 2

LISTENER = """\
from harness import Listener, Tracker, hookimpl


class Diary(Listener):
    def __init__(self, where=""):
        self.where = where

    def run_started(self, run):
        self.run = run
        print("heard:", "run", run.name, run.description, run.folder, len(list(run.stored())), self.where)

    def cell_started(self, cell):
        print("heard:", cell.strategy, "started")

    def cell_finished(self, cell, record):
        stored = self.run.cell(cell.cell_id)
        assert (stored.cell, stored.row) == (cell, record)
        print("heard:", record["strategy"], record["status"], len(stored.table("steps.parquet")["loss"]))

    def run_finished(self, run, answer):
        print("heard:", len(list(run.stored())), "cells,", answer["leader"])


"""
ALWAYS = "@hookimpl\ndef harness_listeners():\n    return [Diary()]\n"
WHEN_ASKED = """\
@hookimpl
def harness_trackers():
    return [Tracker("diary", "Prints.", "a word", Diary, MODULE, "diary-kit")]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with one scenario and a listener."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(TWO_STRATEGIES)
    write_listener()
    return tmp_path


def write_listener(was: str = "", becomes: str = "", hook: str = ALWAYS) -> None:
    assert was in LISTENER
    Path("diary.py").write_text(LISTENER.replace(was, becomes) + hook)


def harness(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def run(*words: str) -> Result:
    return harness("run", "small.toml", "--plugins", "diary.py", *words)


def heard(done: Result) -> list[str]:
    return re.findall("^heard: (.*)", done.output, re.MULTILINE)


# -- what they are told ------------------------------------------------------------------------------------------------


def test_a_listener_is_told_of_the_run_of_its_cells_and_of_the_answer():
    done = run()
    assert done.exit_code == 0, done.output
    (leader,) = {row["cell_id"] for row in rows() if row["strategy"] == "local-sgd" and row["gpus"] == "2"}
    began = f"run small Two strategies on a small virtual cluster. {Path('results/small')} 0 "
    cells = ["single started", "single ok 4", "local-sgd started", "local-sgd ok 4"]
    cells += ["local-sgd started", "local-sgd ok 8"]
    assert heard(done) == [began, *cells, f"{CELLS} cells, {leader}"]


def rows() -> list[dict[str, str]]:
    with Path("results/small/cells.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_that_runs_nothing_tells_what_is_there():
    run()
    began, ended = heard(run())
    assert began.endswith(f" {CELLS} ")
    assert ended.startswith(f"{CELLS} cells, local-sgd")


def test_a_cell_that_was_interrupted_is_not_among_the_stored():
    run()
    folder = next(Path("results/small/cells").iterdir())
    record = folder / "record.json"
    record.write_text(re.sub(r'"status": "ok"', '"status": "interrupted"', record.read_text()))
    assert Results(Path("results/small")).record(folder.name).status == "interrupted"
    began = heard(run("--only", "strategy=local-sgd"))[0]
    assert began.endswith(f" {CELLS - 1} ")


# -- what becomes of one that fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "method", "line"),
    [
        ("self.run = run", "run_started", 9),
        ('print("heard:", cell.strategy, "started")', "cell_started", 13),
        ("stored = self.run.cell(cell.cell_id)", "cell_finished", 16),
    ],
    ids=["at the start", "before a cell", "after a cell"],
)
def test_a_listener_that_raises_is_named_once_and_the_run_goes_on(here, was, method, line):
    write_listener(was, "x = 1 / 0")
    done = run()
    assert done.exit_code == 0, done.output
    assert len(rows()) == CELLS
    told = re.findall(r"^note: Diary\.(\w+): (.*)", done.output, re.MULTILINE)
    assert told == [(method, f"{here / 'diary.py'}:{line}: ZeroDivisionError: division by zero")]
    assert "the run goes on, and Diary is told again when it ends" in done.output
    assert len(heard(done)) == {"run_started": 1, "cell_started": 2, "cell_finished": 3}[method]
    assert heard(done)[-1].startswith(f"{CELLS} cells")


def test_a_listener_that_fails_to_the_end_is_said_to_have_failed_again():
    write_listener('print("heard:", ', "x = 1 / 0  # ")
    done = run()
    assert done.exit_code == 0, done.output
    assert len(rows()) == CELLS
    assert done.output.count("ZeroDivisionError") == 1
    assert "note: Diary failed again when the run ended" in done.output


# -- trackers ----------------------------------------------------------------------------------------------------------


def test_a_tracker_is_told_only_where_it_is_asked_for():
    write_listener(hook=WHEN_ASKED.replace("MODULE", '"json"'))
    assert heard(run()) == []
    began, ended = heard(run("--track", "diary=somewhere"))
    assert began.endswith(f" {CELLS} somewhere")
    assert ended.startswith(f"{CELLS} cells")


@pytest.mark.parametrize(
    ("words", "code", "problem"),
    [
        (("--track", "diry"), 2, "--track diry: no such tracker; did you mean diary?"),
        (("--track", "diary", "--track", "diary=x"), 2, "--track diary=x: diary is named twice"),
        (("--track", "diary", "--debug"), 2, "--debug stores nothing"),
    ],
    ids=["misspelt", "twice", "debug"],
)
def test_what_cannot_be_tracked_is_refused_before_anything_runs(words, code, problem):
    write_listener(hook=WHEN_ASKED.replace("MODULE", '"json"'))
    done = run(*words)
    assert done.exit_code == code, done.output
    assert problem in done.output
    assert not Path("results").exists()


def test_a_tracker_whose_package_is_missing_says_what_to_install_before_anything_runs():
    write_listener(hook=WHEN_ASKED.replace("MODULE", '"no_such_package"'))
    done = run("--track", "diary")
    assert done.exit_code == 3
    assert "--track diary: the package no_such_package is not installed: pip install 'diary-kit'" in done.output
    assert not Path("results").exists()


def test_plugins_lists_trackers_and_listeners():
    Path("both.py").write_text(LISTENER + ALWAYS + WHEN_ASKED.replace("MODULE", '"json"'))
    listed = harness("--plugins", "both.py", "plugins").output
    trackers, listeners = listed.partition("\ntrackers:\n")[2].partition("\nlisteners:\n")[::2]
    assert re.findall(r"^  (\S+)", trackers, re.MULTILINE) == ["diary", "mlflow", "tensorboard"]
    assert re.findall(r"^  (\S+)", listeners, re.MULTILINE) == ["Diary"]
    shown = harness("--plugins", "both.py", "plugins", "diary").output
    assert "harness run SCENARIO --track diary=WHERE; WHERE: a word" in shown
    assert "needs: pip install 'diary-kit'" in shown
    assert "from: both.py" in harness("--plugins", "both.py", "plugins", "Diary").output.replace(f"{Path.cwd()}/", "")
