"""The commands as people type them: what they print, what they leave on disk, and what they exit with."""

from __future__ import annotations

import csv
import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from cells import TWO_STRATEGIES, make_cell
from click.testing import CliRunner, Result

from harness.commands.cli import main
from harness.engines.processes.launch import run_cell
from harness.results.store import Results
from harness.scenario.schema import key_paths

CELLS = 3  # single makes no sense on 2

PLUGIN = """\
from harness import Strategy, hookimpl


class Mine(Strategy):
    name = "mine"


@hookimpl
def harness_strategies():
    return [Mine]
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with one scenario."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(TWO_STRATEGIES)
    return tmp_path


def harness(*words: str) -> Result:
    return CliRunner().invoke(main, words)


def counts(result: Result) -> tuple[int, int]:
    """Return how many cells were run, and how many were there already."""
    found = re.search(r"^(\d+) cells? run now, (\d+) kept from earlier runs$", result.output, re.MULTILINE)
    assert found, result.output
    return int(found[1]), int(found[2])


def statuses() -> list[str]:
    return [record.status for record in Results(Path("results/small")).records().values()]


def write_plugin(body: str = "") -> Path:
    path = Path("mine.py")
    path.write_text(PLUGIN.replace('    name = "mine"\n', f'    name = "mine"\n{body}'))
    return path


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run_alone_lists_the_bundled_scenarios_with_a_line_each():
    done = harness("run")
    assert done.exit_code == 0
    listed = re.findall(r"^  (\S+) +(\S.*)$", done.output, re.MULTILINE)
    assert {"lenet", "classroom", "speed"} <= {name for name, _ in listed}
    assert all(description for _, description in listed)


def test_run_writes_records_a_table_and_a_report_and_a_second_run_runs_nothing():
    first = harness("run", "small.toml")
    assert first.exit_code == 0, first.output
    assert counts(first) == (CELLS, 0)
    folder = Path("results/small")
    assert len((folder / "cells.csv").read_text().splitlines()) == 1 + CELLS
    assert "<html" in (folder / "report.html").read_text().lower()
    written = {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")}
    second = harness("run", "small.toml")
    assert second.exit_code == 0
    assert counts(second) == (0, CELLS)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("cells/*/*")} == written


def test_last_lines_of_a_run_are_statuses_counts_answer_report_and_what_to_type_next():
    lines = harness("run", "small.toml").output.rstrip().splitlines()
    at = lines.index("3 ok")
    assert lines[at + 1] == "3 cells run now, 0 kept from earlier runs"
    assert lines[at + 2].startswith("Simulated: ")
    assert lines[-2] == "report: results/small/report.html"
    assert lines[-1] == "next: harness report results/small --open"


def test_a_run_says_first_how_many_cells_it_has_and_what_is_left_out():
    first = harness("run", "small.toml").output.splitlines()
    assert first[0] == "small: 3 cells, 3 to run"
    assert first[1].startswith("  this machine: ")
    assert "1 point left out; `harness plan` shows why" in first[2]


def test_only_narrows_what_runs_and_not_what_is_planned():
    done = harness("run", "small.toml", "--only", "gpus=1")
    assert counts(done) == (2, 0)
    assert "2 ok, 1 not run yet" in done.output
    assert counts(harness("run", "small.toml")) == (1, 2)


def test_only_that_fits_nothing_is_refused_and_says_what_there_is():
    done = harness("run", "small.toml", "--only", "gpus=9")
    assert done.exit_code == 2
    assert "gpus is one of 1, 2" in done.output
    assert not Path("results").exists()


def test_set_makes_another_plan_and_says_which_stored_cells_it_does_not_show():
    harness("run", "small.toml")
    done = harness("run", "small.toml", "--set", "learning_rate=0.2", "--set", "gpus=1")
    assert counts(done) == (2, 0)
    after_counts = done.output.partition(" kept from earlier runs\n")[2].splitlines()
    assert "not shown: 3 stored cells of another plan of this name" in after_counts
    assert counts(harness("run", "small.toml")) == (0, CELLS)


def test_seeds_run_in_rounds_and_each_leaves_a_fair_comparison():
    done = harness("run", "small.toml", "--set", "seeds=2", "--set", "gpus=1")
    ran = re.findall(r"^\[\d/4\] (\S+)-b32-lr0.1-g1-s(\d)-", done.output, re.MULTILINE)
    assert ran == [("single", "0"), ("local-sgd", "0"), ("single", "1"), ("local-sgd", "1")]
    assert done.output.count("  so far: ") == 1


def test_an_edited_strategy_file_runs_again():
    path = write_plugin()
    command = ("run", "small.toml", "--plugins", str(path), "--set", "strategy=single,mine", "--set", "gpus=1")
    assert counts(harness(*command)) == (2, 0)
    assert counts(harness(*command)) == (0, 2)
    path.write_text(path.read_text() + "\n# another thought\n")
    assert counts(harness(*command)) == (0, 2)  # a remark trains nothing else
    path.write_text(path.read_text() + "\nOTHER = 1\n")
    done = harness(*command)
    assert counts(done) == (1, 1)
    assert "not shown: 1 stored cell of another plan of this name" in done.output


def test_plugins_are_accepted_before_and_after_the_command():
    path = str(write_plugin())
    for words in (
        ("--plugins", path, "plan", "small.toml", "--set", "strategy=mine"),
        ("plan", "small.toml", "--plugins", path, "--set", "strategy=mine"),
        ("--plugins", path, "plan", "small.toml", "--plugins", path, "--set", "strategy=mine"),
    ):
        done = harness(*words)
        assert done.exit_code == 0, done.output
        assert "mine" in done.output


def test_a_crashed_cell_is_repeated_once_and_then_kept():
    path = write_plugin("\n    async def work(self, worker):\n        raise ValueError('mine')\n")
    command = ("run", "small.toml", "--plugins", str(path), "--set", "strategy=mine", "--set", "gpus=1")
    runs = [harness(*command) for _ in range(3)]
    assert [counts(done) for done in runs] == [(1, 0), (1, 0), (0, 1)]
    assert [done.exit_code for done in runs] == [1, 1, 1]
    assert statuses() == ["crashed"]
    assert counts(harness(*command, "--retry", "crashed")) == (1, 0)


def test_fresh_runs_everything_again_and_moves_what_was_there_aside():
    harness("run", "small.toml")
    assert counts(harness("run", "small.toml", "--fresh")) == (CELLS, 0)
    assert len(list(Path("results/small/aside").glob("*/record.json"))) == CELLS


def test_retry_runs_findings_again_and_keeps_the_old_ones_aside():
    harness("run", "small.toml", "--only", "gpus=2")
    assert counts(harness("run", "small.toml", "--only", "gpus=2", "--retry", "ok")) == (1, 0)
    assert len(list(Path("results/small/aside").glob("*/record.json"))) == 1


def test_retry_of_a_status_that_there_is_not_is_refused():
    assert harness("run", "small.toml", "--retry", "okay").exit_code == 2


def test_debug_runs_one_cell_in_this_process_and_stores_nothing():
    done = harness("run", "small.toml", "--debug")
    assert done.exit_code == 0, done.output
    assert "nothing is stored" in done.output
    assert "ok: ran its full budget; no target was set" in done.output
    assert not Path("results").exists()


# -- exit codes --------------------------------------------------------------------------------------------------------


def test_findings_end_with_0_and_with_strict_with_1():
    target = ("--set", "goal.target_accuracy=0.99", "--set", "gpus=1", "--set", "strategy=single")
    assert harness("run", "small.toml", *target).exit_code == 0
    assert statuses() == ["target-missed"]
    assert harness("run", "small.toml", *target, "--strict").exit_code == 1


def test_a_refused_scenario_ends_with_2_and_nothing_runs():
    done = harness("run", "small.toml", "--set", "goal.target_accuracy=97")
    assert done.exit_code == 2
    assert "for 97 % write 0.97" in done.output
    assert not Path("results").exists()


@pytest.mark.parametrize("words", [("run", "nowhere"), ("plan", "nowhere.toml"), ("show", "nothing"), ("nonsense",)])
def test_what_there_is_not_ends_with_2(words):
    done = harness(*words)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_budget_that_is_over_before_the_first_cell_ends_with_5():
    done = harness("run", "small.toml", "--budget", "1 us")
    assert done.exit_code == 5
    assert counts(done) == (0, 0)
    assert "next: the budget is used up; run the same command again to continue" in done.output


def test_a_bug_of_ours_ends_with_4_and_saves_its_traceback(monkeypatch):
    def bug(*_: object) -> None:
        raise ZeroDivisionError("ours")

    monkeypatch.setattr("harness.scenario.plan.make_plan", bug)
    done = harness("plan", "small.toml")
    assert done.exit_code == 4
    path = Path(done.output.split()[-1])
    assert "ZeroDivisionError: ours" in path.read_text()
    path.unlink()


def test_a_cell_that_a_bug_of_ours_ended_twice_ends_later_runs_with_4_and_is_not_ranked():
    only = ("--only", "gpus=2")
    assert harness("run", "small.toml", *only).exit_code == 0
    (path,) = Path("results/small").glob("cells/*/record.json")
    record = json.loads(path.read_text()) | {"status": "crashed", "cause": "harness", "attempts": 2}
    path.write_text(json.dumps(record | {"row": record["row"] | {"status": "crashed"}}))
    again = harness("run", "small.toml", *only)
    assert counts(again) == (0, 1)
    assert again.exit_code == 4
    assert f"{path.parent.name} hit a bug of the harness, not of your scenario" in again.output
    (row,) = csv.DictReader(Path("results/small/cells.csv").read_text().splitlines())
    assert row["ranked"] == "False"
    assert "  ranked: no\n" in harness("show", path.parent.name).output


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_missing_data_set_offline_ends_with_3_names_the_files_and_leaves_no_record(here):
    proxy = f"http://127.0.0.1:{closed_port()}"
    names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY")
    kept = {k: v for k, v in os.environ.items() if k.lower() != "no_proxy"}
    environment = kept | dict.fromkeys(names, proxy) | {"HARNESS_DATA": str(here / "data")}
    command = [sys.executable, "-m", "harness", "run", "small.toml", "--set", "dataset=mnist", "--set", "gpus=1"]
    command += ["--set", "evaluate_every=640"]  # what nobody evaluates is timed, and needs no data
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "data set mnist: could not be downloaded" in done.stderr
    assert f"put these files into {here / 'data' / 'mnist'}" in done.stderr
    for name, size in (("train-images-idx3-ubyte.gz", "9,912,422"), ("t10k-labels-idx1-ubyte.gz", "4,542")):
        assert re.search(rf"{name}  {size} bytes  sha256 [0-9a-f]{{64}}", done.stderr)
    assert "Traceback" not in done.stderr
    # Once the files are there the same command must run: a cell that was never tried has no record.
    assert list(Path("results").glob("*/cells/*/record.json")) == []


# -- show and report ---------------------------------------------------------------------------------------------------


@pytest.fixture
def cell() -> str:
    """Run one cell and return its id."""
    assert harness("run", "small.toml", "--only", "strategy=single").exit_code == 0
    (folder,) = Path("results/small/cells").iterdir()
    return folder.name


def test_show_of_a_scenario_says_cells_by_status_and_the_answer(cell):
    for what in ("small", "results/small", "results", "results/small/cells.csv"):
        done = harness("show", what)
        assert done.exit_code == 0, done.output
        assert done.output.startswith("small: 1 of 3 cells (1 ok)")
        assert "Simulated: " in done.output


def test_show_of_a_cell_says_status_reason_notes_figures_and_the_log(cell):
    folder = Path("results/small/cells") / cell
    for what in (cell, str(folder), str(folder / "record.json")):
        text = harness("show", what).output
        assert text.startswith(f"{cell}: ok\n  reason: ran its full budget; no target was set")
        assert "  note: virtual cluster with computing given (1000 samples/s" in text
        assert "  throughput_samples_per_s: 1000" in text
        assert "log" in text


def test_show_log_prints_all_of_it_and_nothing_else(cell):
    log = Path("results/small/cells") / cell / "log.txt"
    log.write_text("".join(f"line {k}\n" for k in range(100)))
    assert harness("show", cell, "--log").output.rstrip("\n").splitlines() == [f"line {k}" for k in range(100)]
    assert "line 79\n" not in harness("show", cell).output
    assert "line 80\n" in harness("show", cell).output


def test_show_markdown_sets_the_answer_in_bold(cell):
    assert re.search(r"^\*\*Simulated: [^*]*\.\*\* ", harness("show", "small", "--markdown").output, re.MULTILINE)


def test_show_of_a_near_miss_suggests_the_scenario(cell):
    done = harness("show", "smal")
    assert done.exit_code == 2
    assert "did you mean small?" in done.output


def test_report_goes_where_it_is_told(cell):
    done = harness("report", "results/small", "--out", "mine.html")
    assert done.exit_code == 0, done.output
    assert "report: mine.html" in done.output
    assert cell.split("-b32")[0] in Path("mine.html").read_text()
    assert harness("report", ".").exit_code == 2


# -- telling -----------------------------------------------------------------------------------------------------------


def test_plan_shows_cells_and_reasons_and_runs_nothing():
    done = harness("plan", "small.toml")
    assert done.exit_code == 0
    assert "single runs on 1 device, not 2" in done.output
    assert not Path("results").exists()


def test_schema_is_json_and_text_has_every_key():
    assert json.loads(harness("schema").output)["type"] == "object"
    text = harness("schema", "--text").output
    assert all(path.rpartition(".")[2] in text for path in key_paths())


def test_doctor_says_what_this_machine_offers():
    done = harness("doctor")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("processor: ")
    assert "torch: " in done.output


def test_plugins_of_a_name_shows_origin_options_and_defaults():
    text = harness("plugins", "local-sgd").output
    assert text.startswith("local-sgd (strategy)\n")
    assert re.search(r"^from: .*local_sgd\.py$", text, re.MULTILINE)
    assert "  steps = 8  batches that each worker trains on" in text
    assert "synchrony: synchronous" in text
    done = harness("plugins", "dpp")
    assert done.exit_code == 2


def test_help_names_every_command_and_every_exit_code():
    text = harness("--help").output
    assert all(re.search(rf"^  {name} ", text, re.MULTILINE) for name in main.commands)
    text = " ".join(text.split())
    codes = ("0 done", "1 a cell", "2 wrong input", "3 this machine", "4 a bug", "5 nothing", "130")
    assert all(code in text for code in codes)


# -- new ---------------------------------------------------------------------------------------------------------------


def test_new_scenario_is_a_copy_that_plans_and_is_never_overwritten():
    done = harness("new", "scenario", "mine", "--from", "lenet")
    assert done.exit_code == 0
    assert "next: harness run mine.toml" in done.output
    assert harness("plan", "mine.toml").exit_code == 0
    again = harness("new", "scenario", "mine")
    assert again.exit_code == 2
    assert "mine.toml already exists and was not changed" in again.output


def test_new_scenario_with_a_model_in_the_place_of_a_bundled_one_names_it(here):
    lines = [
        "from torch import nn",
        "def build(classes):",
        "    return nn.Sequential(nn.Flatten(), nn.LazyLinear(classes))",
    ]
    (here / "train.py").write_text("\n".join(lines))
    assert harness("new", "scenario", "mine", "--from", "lenet", "--model", "train.py:build").exit_code == 0
    assert 'model = "train.py:build"' in Path("mine.toml").read_text()
    assert harness("plan", "mine.toml").exit_code == 0


@pytest.mark.parametrize("name", ["../up", "with space", "1st", ""])
def test_new_refuses_names_that_will_not_do(name):
    for kind in ("scenario", "strategy"):
        assert harness("new", kind, name).exit_code == 2


@pytest.mark.dist
def test_new_strategy_runs_on_both_engines_and_equals_single(here):
    done = harness("new", "strategy", "my-own")
    assert done.exit_code == 0
    path = str(here / "my_own.py")
    changes = {"workload": {"model": "softmax", "precision": "fp64"}, "goal": {"max_epochs": 1}}
    single = run_cell(make_cell(sweep__strategy="single", **changes), options={"keep_weights": True})
    for engine in ("virtual", "real"):
        own = {"engine": engine, "sweep__strategy": "my-own", "sweep__gpus": [2], "plugins": (path,)}
        result = run_cell(make_cell(**changes, **own), [path], options={"keep_weights": True})
        assert result.finished, result.reason
        assert float(np.abs(result.outcome.weights - single.outcome.weights).max()) < 1e-12, engine
