"""`harness run --ab`: whose code each side runs, in which order, and what is left behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

import harness
from harness.commands import interleave
from harness.commands.cli import main
from harness.commands.interleave import side_of
from harness.core.errors import InputError
from harness.results.interleaved_with import mark_interleaved, took_turns

HERE = Path(harness.__file__).parents[1]

SCENARIO = """
engine = "real"
[workload]
model = "softmax"
dataset = { name = "synthetic", samples = 200 }
[sweep]
strategy = ["single"]
gpus = [1]
learning_rate = [0.1]
[goal]
target_accuracy = "none"
max_steps = 3
"""


def checkout(folder: Path, version: str) -> Path:
    """Write the least that can be imported as a harness."""
    (folder / "harness").mkdir(parents=True)
    (folder / "harness" / "__init__.py").write_text(f"__version__ = {version!r}\n")
    return folder


def interpreter(folder: Path, *variables: str) -> Path:
    """Write what a virtual environment has: a program bin/python, here this one with variables set."""
    (folder / "bin").mkdir(parents=True)
    program = folder / "bin" / "python"
    program.write_text(f'#!/bin/sh\nexec env {" ".join(variables)} "{sys.executable}" "$@"\n')
    program.chmod(0o755)
    return folder


def test_a_checkout_runs_its_own_code_wherever_we_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = checkout(tmp_path / "old", "0.0.8"), checkout(tmp_path / "new", "0.0.9")
    monkeypatch.chdir(old)
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    sides = [side_of(name, str(path), tmp_path / "ab") for name, path in (("base", old), ("new", new))]
    assert [side.version.split()[0] for side in sides] == ["0.0.8", "0.0.9"]
    assert [Path(side.code) for side in sides] == [old / "harness", new / "harness"]
    assert [side.root for side in sides] == [tmp_path / "ab" / "base", tmp_path / "ab" / "new"]


def test_an_environment_or_an_interpreter_runs_what_is_installed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    installed = checkout(tmp_path / "site", "0.0.7")
    path = interpreter(tmp_path / "env", f"PYTHONPATH={installed}")
    for given in (path, path / "bin" / "python"):
        assert side_of("new", str(given), tmp_path).version.split()[0] == "0.0.7"


def test_a_harness_on_the_path_of_this_process_is_not_taken_for_that_of_a_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(HERE), str(tmp_path)]))
    side = side_of("base", str(checkout(tmp_path / "one", "1")), tmp_path)
    assert side.environment["PYTHONPATH"] == os.pathsep.join([str(tmp_path / "one"), str(tmp_path)])


@pytest.mark.parametrize("make", [lambda folder: None, lambda folder: folder.mkdir()])
def test_what_is_none_of_them_is_refused(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "nothing")
    with pytest.raises(InputError, match="no virtual environment, interpreter or checkout"):
        side_of("base", str(tmp_path / "nothing"), tmp_path)
    broken = checkout(tmp_path / "broken", "1")
    (broken / "harness" / "__init__.py").write_text("import no_such_module\n")
    with pytest.raises(InputError, match=r"cannot import harness: .*no_such_module"):
        side_of("base", str(broken), tmp_path)


def planned(seed: int, side: str, engine: str = "real", **changes: Any) -> dict[str, Any]:
    cell = dict.fromkeys(interleave.POINT_KEYS, 1) | {"engine": engine, "learning_rate": 0.1, "seed": seed}
    return cell | {"cell_id": f"{side}{seed}", "finished": False} | changes


def test_cells_run_a_b_b_a_and_what_is_finished_is_kept() -> None:
    cells = [[planned(seed, side) for seed in range(3)] for side in "ab"]
    turns = [only.partition("=")[2] for _, only in interleave.turns_of(cells, fresh=False)]
    assert turns == ["a0", "b0", "b1", "a1", "a2", "b2"]
    cells[0][1]["finished"] = True
    assert [o.partition("=")[2] for _, o in interleave.turns_of(cells, fresh=False)] == ["a0", "b0", "b1", "a2", "b2"]
    assert len(list(interleave.turns_of(cells, fresh=True))) == 6
    virtual = [[*own, planned(9, "v", engine="virtual")] for own in cells]
    assert list(interleave.turns_of(virtual, fresh=True))[:2] == [(0, "engine=virtual"), (1, "engine=virtual")]
    alone = [[planned(0, "a")], [planned(0, "b"), planned(0, "c", gpus=2)]]
    assert [o.partition("=")[2] for _, o in interleave.turns_of(alone, fresh=False)] == ["a0", "b0", "c0"]


def test_results_know_with_which_others_they_took_turns(tmp_path: Path) -> None:
    for name in ("base", "new", "other"):
        (tmp_path / name).mkdir()
    assert not took_turns(tmp_path / "new", tmp_path / "base")
    mark_interleaved(tmp_path / "new", tmp_path / "base")
    assert took_turns(tmp_path / "new", tmp_path / "base")
    assert not took_turns(tmp_path / "new", tmp_path / "other")
    (tmp_path / "new" / "interleaved.json").write_text("[")
    assert not took_turns(tmp_path / "new", tmp_path / "base")


def run(folder: Path, *words: str) -> Result:
    (folder / "night.toml").write_text(SCENARIO)
    return CliRunner().invoke(main, ["run", str(folder / "night.toml"), "--results", str(folder / "r"), *words])


def test_options_that_mean_nothing_in_turns_are_refused(tmp_path: Path) -> None:
    done = run(tmp_path, "--ab", str(HERE), str(HERE), "--only", "seed=1")
    assert done.exit_code == 2
    assert "run: --only means nothing with --ab" in done.output


@pytest.mark.dist
@pytest.mark.slow
def test_both_sides_leave_results_of_their_own_and_a_comparison(tmp_path: Path) -> None:
    done = run(tmp_path, "--ab", str(HERE), str(HERE))
    assert done.exit_code in (0, 5), done.output
    assert "both sides are the same code" in done.output
    assert [line[:10] for line in done.output.splitlines() if line.startswith("[")] == ["[1/2] base", "[2/2] new:"]
    ab = tmp_path / "r" / "ab"
    assert all(len(list((ab / side / "night").glob("cells/*/record.json"))) == 1 for side in ("base", "new"))
    assert took_turns(ab / "new" / "night", ab / "base" / "night")
    found = json.loads((ab / "comparison.json").read_text())
    assert (found["cells"], found["exit_code"]) == (1, done.exit_code)
    assert any("took turns" in note for note in found["notes"])
