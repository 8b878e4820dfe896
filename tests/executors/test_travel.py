"""What a task takes along to another machine: files, and what was measured here; and how it comes home."""

from __future__ import annotations

import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from cells import to_toml

from harness.api.host import load_host
from harness.core import cache
from harness.core.cell import Cell
from harness.core.endings import Status
from harness.core.held_files import holding
from harness.core.machine import Machine, detect_machine
from harness.core.records import to_json
from harness.core.text import Text
from harness.costs.cells import MeasuredStep, keep_step, load_profile, missing_sizes
from harness.costs.profiles import LayerShape, ModelShape
from harness.engines.processes.forking import sources_of
from harness.executors.protocol import CellTask
from harness.executors.run_one import run_elsewhere
from harness.executors.travel import packed, run_parcel, without_prefix
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario

STRATEGY = """\
from harness import Strategy, Worker, hookimpl


class Mine(Strategy):
    name = "mine"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.mean(await worker.gradient(batch)))
        {after}


@hookimpl
def harness_strategies():
    return [Mine]
"""

SCENARIO = {
    "workload": {"model": {"profile": "layers.csv", "batch_size": 8}},
    "sweep": {"strategy": ["mine"], "gpus": [2], "batch_size": [8]},
    "goal": {"max_steps": 2},
    "cluster": {"preset": "dgx-a100", "device": {"samples_per_second": 100, "batch_size": 8}},
}

LAYERS = "name,forward_ms,backward_ms,activation_bytes,parameter_bytes\none,1,2,1000,4000\ntwo,1,2,1000,4000\n"


def write(folder: Path, after: str = "pass") -> tuple[Cell, tuple[str, ...]]:
    """Write a scenario with a plugin and a file of times, and return its cell and the plugin."""
    folder.mkdir()
    (folder / "layers.csv").write_text(LAYERS)
    (folder / "mine.py").write_text(STRATEGY.format(after=after))
    (folder / "s.toml").write_text(to_toml(SCENARIO))
    plugins = (str(folder / "mine.py"),)
    host = load_host(plugins)
    (cell,) = make_plan(load_scenario(folder / "s.toml", host), host, Machine(cores=2)).cells
    return cell, plugins


def away(task: CellTask):
    """Return the parcel as another machine gets it."""
    return pickle.loads(pickle.dumps(packed(task)))


def test_files_are_laid_out_where_they_are_not_and_the_record_is_as_if_they_were(tmp_path):
    cell, plugins = write(tmp_path / "home")
    task = CellTask(cell, plugins=plugins)
    here = run_elsewhere(task)
    parcel = away(task)
    shutil.rmtree(tmp_path / "home")
    there = run_parcel(parcel)
    assert there.record.status is Status.OK, there.record.reason
    assert there.record.cell == here.record.cell
    assert there.record.row == here.record.row
    memory_there, memory_here = (each.record.detail["facts"]["memory"] for each in (there, here))
    assert memory_there == memory_here
    assert not (tmp_path / "home").exists()


def test_what_went_wrong_elsewhere_names_the_file_as_it_is_called_at_home(tmp_path):
    cell, plugins = write(tmp_path / "home", after='raise KeyError("beta")')
    parcel = away(CellTask(cell, plugins=plugins))
    shutil.rmtree(tmp_path / "home")
    ended = run_parcel(parcel)
    assert ended.record.status is Status.CRASHED
    place = f"{tmp_path / 'home' / 'mine.py'}:10"
    assert place in ended.record.reason
    assert ended.record.detail["failure"]["raised_at"]["file"] == str(tmp_path / "home" / "mine.py")
    assert str(tmp_path / "home" / "mine.py") in ended.log.decode()
    assert "harness-files-" not in json.dumps(to_json(ended.record)) + ended.log.decode()


def test_a_signal_amid_the_lines_of_a_strategy_is_no_crash_of_it(tmp_path):
    cell, plugins = write(tmp_path / "home", after="raise KeyboardInterrupt")
    with pytest.raises(KeyboardInterrupt):
        run_elsewhere(CellTask(cell, plugins=plugins))


def test_files_that_are_there_are_used_where_they_are(tmp_path, monkeypatch):
    cell, plugins = write(tmp_path / "home")
    parcel = away(CellTask(cell, plugins=plugins))
    monkeypatch.setattr("tempfile.mkdtemp", lambda *_, **__: pytest.fail("nothing is to be laid out"))
    with pytest.raises(pytest.fail.Exception):
        run_parcel(replace(parcel, files={**parcel.files, str(tmp_path / "other"): b""}))
    monkeypatch.undo()
    assert run_parcel(parcel).record.status is Status.OK


def test_a_file_that_was_edited_meanwhile_runs_as_it_was_held(tmp_path):
    with holding():
        cell, plugins = write(tmp_path / "home")
        parcel = away(CellTask(cell, plugins=plugins))
    (tmp_path / "home" / "mine.py").write_text("raise SystemExit(1)\n")
    assert run_parcel(parcel).record.status is Status.OK


@pytest.mark.dist
def test_a_model_of_the_users_trains_where_its_file_is_not(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    (home / "parts.py").write_text("import torch\n\ndef layer():\n    return torch.nn.Linear(64, 10)\n")
    built = "torch.nn.Sequential(torch.nn.Flatten(), layer())"
    (home / "train.py").write_text(f"import torch\nfrom parts import layer\n\ndef build():\n    return {built}\n")
    document = {
        "engine": "virtual",
        "workload": {"model": "train.py:build", "dataset": "digits"},
        "sweep": {"strategy": ["sync-ddp"], "gpus": [2], "learning_rate": [0.1]},
        "goal": {"target_accuracy": "none", "max_steps": 4, "evaluate_every": "0.1 epoch"},
        "cluster": {"device": {"samples_per_second": 1000, "batch_size": 32}, "inter_node": "25 Gb/s"},
    }
    (home / "s.toml").write_text(to_toml(document))
    host = load_host()
    (cell,) = make_plan(load_scenario(home / "s.toml", host), host, Machine(cores=2)).cells
    with holding():
        sources = sources_of(cell)
        parcel = away(CellTask(cell, sources=sources))
    assert len(sources) == 2
    shutil.rmtree(home)
    ended = run_parcel(parcel)
    assert ended.record.status is Status.OK, ended.record.reason
    assert ended.record.cell.folder == cell.folder
    assert ended.tables["evals.csv"]["validation_loss"]


# -- what was measured -------------------------------------------------------------------------------------------------


def test_a_simulated_cell_is_priced_with_what_was_measured_where_it_came_from(tmp_path, monkeypatch):
    (tmp_path / "s.toml").write_text(
        to_toml(
            {
                "engine": "virtual",
                "workload": {"model": "softmax", "dataset": "digits"},
                "sweep": {"strategy": ["sync-ddp"], "gpus": [2], "learning_rate": [0.1]},
                "goal": {"target_accuracy": "none", "max_steps": 4},
            }
        )
    )
    host = load_host()
    (cell,) = make_plan(load_scenario(tmp_path / "s.toml", host), host, Machine(cores=2)).cells
    shape = ModelShape((LayerShape("all", tensors=(650,)),), element_bytes=4)
    with cache.kept_in(str(tmp_path / "home")):
        for size in missing_sizes(cell, detect_machine()):
            step = MeasuredStep(shape, (0.5,), (1.0,), 0.0, 0.25, 2.0, 0.01, 10, 0.0, 1e10, 0, "a slow machine")
            keep_step(cell, detect_machine(), size, step)
        here = run_elsewhere(CellTask(cell))
        parcel = away(CellTask(cell))
    assert here.record.status is Status.OK, here.record.reason
    with cache.kept_in(str(tmp_path / "there")):
        there = run_parcel(parcel)
        assert load_profile(cell) is None  # it does not pass for a measurement of that machine
    assert there.record.row["step_time_s"] == here.record.row["step_time_s"] > 1.5
    assert not list((tmp_path / "there").glob("profile/*"))


def test_a_folder_is_taken_out_of_paths_however_deep_they_lie():
    class Word(str):
        pass

    word = Word("/x/kept")
    value = {"a": ["/x/home/f.py:3", ("/x/home", 1.0)], "b": Text("in /x/home/g.py"), "c": word}
    assert without_prefix(value, "/x") == {"a": ["/home/f.py:3", ("/home", 1.0)], "b": "in /home/g.py", "c": word}
    assert type(without_prefix(value, "/x")["b"]) is Text
