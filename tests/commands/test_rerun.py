"""`harness compare --rerun` on real runs: what stays slower breaks the build, what the machine did once does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from harness.commands import reference_runs
from harness.commands.cli import main
from harness.core.one_writer import sole_writer
from harness.results.store import Results

PLUGIN = """
import os
import select
from pathlib import Path
from harness import Strategy, hookimpl


class Waiting(Strategy):
    '''Plain training that waits as long as a file says.'''

    name = "waiting"
    equals = "single"

    async def work(self, worker):
        wait_s = float(Path(os.environ["WAIT_FILE"]).read_text())
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            select.select([], [], [], wait_s)
            await worker.apply(gradient)


@hookimpl
def harness_strategies():
    return [Waiting]
"""

SCENARIO = """
engine = "real"
plugins = ["waiting.py"]
[workload]
model = "softmax"
dataset = { name = "synthetic", samples = 200 }
[sweep]
strategy = ["waiting"]
gpus = [1]
learning_rate = [0.1]
[goal]
target_accuracy = "none"
max_steps = 15
[measure]
reference = 4
"""

USUAL_S, SLOW_S = 0.05, 0.1


@pytest.fixture
def wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the file that says how long a step waits; the reference is as fast every time."""
    script, path = tmp_path / "loop.py", tmp_path / "wait.txt"
    script.write_text("import random\nprint(1 + random.random() / 1e3)\n")
    monkeypatch.setattr(reference_runs, "SCRIPT", script)
    monkeypatch.setenv("WAIT_FILE", str(path))
    (tmp_path / "waiting.py").write_text(PLUGIN)
    (tmp_path / "night.toml").write_text(SCENARIO)
    return path


def night(folder: Path, name: str, *words: str) -> Path:
    done = CliRunner().invoke(main, ["run", str(folder / "night.toml"), "--results", str(folder / name), *words])
    assert done.exit_code == 0, done.output
    return folder / name


def compare(base: Path, new: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["compare", str(base), str(new), "--json", *words])


def found(done: Result) -> Any:
    return json.loads(done.stdout)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.timed
def test_what_stays_slower_is_a_regression_and_what_was_once_is_none(tmp_path: Path, wait: Path) -> None:
    wait.write_text(str(USUAL_S))
    base = night(tmp_path, "base")
    wait.write_text(str(SLOW_S))
    new = night(tmp_path, "new")
    before = (new / "night" / "cells").rglob("record.json")
    kept = {path: path.read_bytes() for path in before}

    first = compare(base, new)
    assert (first.exit_code, found(first)["verdict"]) == (0, "suspect")
    assert "To run them again: --rerun." in found(first)["sentence"]
    with sole_writer(new / "night", say=pytest.fail):
        done = compare(base, new, "--rerun")
    assert (done.exit_code, found(done)["verdict"]) == (3, "suspect")
    assert "another harness (process" in done.stderr
    done = compare(base, new, "--rerun")
    assert (done.exit_code, found(done)["verdict"]) == (1, "regression"), done.output
    (finding,) = found(done)["findings"]
    assert (finding["quantity"], finding["beside"]["fresh"], finding["beside"]["basis"]) == ("step", 5, "one-night")
    assert 1.5 < finding["beside"]["relative"] < 2.5
    assert done.stderr.count("fresh run ") == 5
    marked = [Results(plan.parent).records() for plan in sorted((new / "night" / "reruns").glob("*/plan.json"))]
    assert [record.rerun for records in marked for record in records.values()] == [1, 2, 3, 4, 5]
    assert len(json.loads((new / "night" / "reruns" / "reference.json").read_text())["runs"]) == 5
    assert {path: path.read_bytes() for path in kept} == kept

    again = compare(base, new, "--rerun")
    assert (again.exit_code, "fresh run 1" in again.stderr) == (1, False)
    assert compare(base, new).exit_code == 1

    slow_once = night(tmp_path, "new", "--fresh")
    assert not (slow_once / "night" / "reruns").exists()
    wait.write_text(str(USUAL_S))
    done = compare(base, slow_once, "--rerun")
    assert (done.exit_code, found(done)["verdict"], found(done)["findings"]) == (0, "no-regression", [])

    (tmp_path / "waiting.py").write_text(PLUGIN + "\nANOTHER = 1\n")
    (slow_once / "night" / "reruns").rename(tmp_path / "gone")
    done = compare(base, slow_once, "--rerun")
    assert (done.exit_code, found(done)["verdict"]) == (3, "suspect")
    assert "the code of waiting is not what" in done.stderr


@pytest.mark.dist
def test_without_a_reference_nothing_is_run_again_and_it_is_said(tmp_path: Path, wait: Path) -> None:
    wait.write_text(str(USUAL_S))
    base = night(tmp_path, "base", "--reference", "0")
    wait.write_text(str(SLOW_S))
    new = night(tmp_path, "new", "--reference", "0")
    done = compare(base, new, "--rerun", "--history", str(tmp_path / "no-history"))
    assert done.exit_code == 0
    assert not (new / "night" / "reruns").exists()
    assert any("code and machine cannot be told apart and nothing is run again" in n for n in found(done)["notes"])
