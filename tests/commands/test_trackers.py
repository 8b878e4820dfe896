"""Trackers, read back through their own clients: what was logged is what evals.csv, cells.csv and telemetry hold."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from cells import TWO_STRATEGIES
from click.testing import CliRunner, Result

import harness as face
from harness.commands.cli import main
from harness.results.store import Record, Results

# The trackers' own libraries warn of each other; what is ours has its own tests.
pytestmark = pytest.mark.filterwarnings("ignore")

VIRTUAL = TWO_STRATEGIES.replace('target_accuracy = "none"\nmax_steps = 4', "target_accuracy = 0.8\nmax_epochs = 2")
CELLS = 3  # single makes no sense on 2

REAL = """\
engine = "real"
device = "cpu"

[workload]
model = "softmax"
dataset = "digits"

[sweep]
strategy = "single"
gpus = 1

[goal]
max_epochs = 2

[measure]
telemetry_interval = "20 ms"
"""


def store() -> str:
    """Return a store of this test's own: MLflow keeps connections by this name as long as the process lives."""
    return f"sqlite:///{Path.cwd() / 'ml.db'}"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with two scenarios, and with nothing of MLflow in the environment."""
    monkeypatch.chdir(tmp_path)
    Path("small.toml").write_text(VIRTUAL)
    Path("real.toml").write_text(REAL)
    for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(*words: str) -> Result:
    done = CliRunner().invoke(main, ["run", *words])
    assert done.exit_code == 0, done.output
    return done


def records(scenario: str = "small") -> list[Record]:
    return list(Results(Path("results", scenario)).records().values())


def evals(record: Record, scenario: str = "small") -> dict[str, list[float]]:
    with Path("results", scenario, "cells", record.cell.cell_id, "evals.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    return {name: [float(row[name]) for row in rows] for name in rows[0] if all(row[name] for row in rows)}


def measured(record: Record) -> dict[str, float]:
    """Return the numbers of a cell's line in cells.csv that are not what it was asked to be."""
    asked = {"gpus", "nodes", "workers", "seed", "batch_size", "micro_batch_size", "global_batch_size", "learning_rate"}
    compared = {"speedup", "pipeline"}
    with Path("results", "small", "cells.csv").open() as file:
        (line,) = (line for line in csv.DictReader(file) if line["cell_id"] == record.cell.cell_id)
    number = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
    found = {name: value for name, value in line.items() if number.fullmatch(value)}
    return {name: float(value) for name, value in found.items() if name not in asked | compared}


def telemetry(scenario: str = "real") -> dict[str, list[tuple[float, float]]]:
    """Return (time, value) of each series, named as trackers do."""
    frame = face.load(f"results/{scenario}").telemetry
    series: dict[str, list[tuple[float, float]]] = {}
    for row in frame.itertuples():
        name = re.sub(r"[^\w\-. :/]", "_", f"system/{row.source}/{row.device}/{row.quantity}")
        series.setdefault(name, []).append((row.time_s, row.value))
    return series


def began_s(record: Record) -> float:
    return datetime.fromisoformat(record.started).timestamp()


# -- MLflow ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mlflow() -> Any:
    return pytest.importorskip("mlflow", reason="mlflow is not installed: make .venv/.integrated")


@pytest.fixture(scope="module")
def empty_store(mlflow: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a database once: its tables take MLflow seconds."""
    path = tmp_path_factory.mktemp("store") / "ml.db"
    mlflow.MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def client(mlflow: Any, empty_store: Path) -> Any:
    shutil.copy(empty_store, "ml.db")
    return mlflow.MlflowClient(store())


def runs(client: Any, name: str = "small") -> dict[str, list[Any]]:
    """Return the runs of an experiment by the name of the cell."""
    found: dict[str, list[Any]] = {}
    for each in client.search_runs([client.get_experiment_by_name(name).experiment_id]):
        found.setdefault(each.info.run_name, []).append(each)
    return found


def history(client: Any, run: Any, name: str) -> list[tuple[int, int, float]]:
    found = [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, name)]
    return sorted(found)


def test_mlflow_has_a_run_for_each_cell_with_its_curves_numbers_and_settings(client):
    run("small.toml", "--track", f"mlflow={store()}")
    found = runs(client)
    assert sorted(found) == sorted(record.cell.cell_id for record in records())
    for record in records():
        (logged,) = found[record.cell.cell_id]
        assert (logged.info.status, logged.data.tags["status"]) == ("FINISHED", record.status)
        curve, began_ms = evals(record), int(began_s(record) * 1000)
        at = [began_ms + int(1000 * time_s) for time_s in curve["time_s"]]
        for name in ("samples", "train_loss", "validation_loss", "validation_accuracy"):
            steps = list(map(int, curve["updates"]))
            assert history(client, logged, name) == list(zip(steps, at, curve[name], strict=True))
        assert [value for _, _, value in history(client, logged, "training_time_s")] == curve["time_s"]
        numbers = {name: logged.data.metrics[f"final_{name}" if name in curve else name] for name in measured(record)}
        assert numbers == measured(record)
        cell, params = record.cell, logged.data.params
        assert (params["strategy"], params["gpus"], params["model"]) == (cell.strategy, str(cell.gpus), "softmax")
        assert (float(params["learning_rate"]), params["seed"]) == (0.1, "0")
        tags = {name: logged.data.tags[name] for name in ("strategy", "seed", "engine")}
        assert tags == {"strategy": cell.strategy, "seed": "0", "engine": "virtual"}
    (steps,) = {logged.data.params["options.steps"] for (logged,) in found.values() if "local" in logged.info.run_name}
    assert int(steps) > 1


def test_the_experiment_says_the_answer_and_the_recommended_run_is_marked(client):
    run("small.toml", "--track", f"mlflow={store()}")
    shown = CliRunner().invoke(main, ["show", "small", "--json"])
    (answer,) = (each["answer"] for each in json.loads(shown.output)["scenarios"])
    experiment = client.get_experiment_by_name("small")
    assert answer["sentence"] in experiment.tags["mlflow.note.content"]
    assert experiment.tags["harness.recommendation"] == answer["kind"]
    marked = [name for name, (each,) in runs(client).items() if each.data.tags.get("harness.recommended") == "true"]
    assert marked == [answer["leader"]]


def test_mlflow_gets_each_measurement_once_and_what_ran_without_it_later(client):
    run("small.toml", "--only", "strategy=single")
    run("small.toml", "--only", "gpus=2", "--track", f"mlflow={store()}")
    assert {name.partition("-b")[0] for name in runs(client)} == {"single", "local-sgd"}
    run("small.toml", "--track", f"mlflow={store()}")
    run("small.toml", "--track", f"mlflow={store()}")
    assert {name: len(each) for name, each in runs(client).items()} == {r.cell.cell_id: 1 for r in records()}
    before = [record.started for record in records()]
    while datetime.fromisoformat(before[0]).timestamp() >= int(time.time()):
        time.sleep(0.01)  # a second later is another measurement
    run("small.toml", "--fresh", "--only", "strategy=single", "--track", f"mlflow={store()}")
    assert sorted(len(each) for each in runs(client).values()) == [1, 1, 2]
    marked = [each for some in runs(client).values() for each in some if "harness.recommended" in each.data.tags]
    assert len(marked) == 1


def test_a_run_that_was_logged_in_part_is_made_whole_and_nothing_stands_twice(client, mlflow):
    run("small.toml", "--track", f"mlflow={store()}")
    before = {name: history(client, each, "validation_loss") for name, (each,) in runs(client).items()}
    (cut,) = next(iter(runs(client).values()))
    client.set_terminated(cut.info.run_id, "RUNNING")
    run("small.toml", "--track", f"mlflow={store()}")
    assert {name: history(client, each, "validation_loss") for name, (each,) in runs(client).items()} == before
    assert {each.info.status for (each,) in runs(client).values()} == {"FINISHED"}


def test_a_run_that_was_deleted_in_mlflow_stays_deleted(client):
    run("small.toml", "--track", f"mlflow={store()}")
    client.delete_run(next(iter(runs(client).values()))[0].info.run_id)
    done = run("small.toml", "--track", f"mlflow={store()}")
    assert "note: mlflow" not in done.output
    assert len(runs(client)) == CELLS - 1


def test_a_failed_cell_is_a_failed_run_with_its_reason(client):
    Path("broken.py").write_text(
        "from harness import Strategy, hookimpl\n"
        "class Broken(Strategy):\n"
        "    name = 'broken'\n"
        "    async def work(self, worker):\n"
        "        raise KeyError('lost')\n"
        "@hookimpl\ndef harness_strategies():\n    return [Broken]\n"
    )
    words = ["--plugins", "broken.py", "--set", "strategy=broken", "--set", "gpus=1", "--track", f"mlflow={store()}"]
    done = CliRunner().invoke(main, ["run", "small.toml", *words])
    assert done.exit_code == 1
    ((logged,),) = runs(client).values()
    assert (logged.info.status, logged.data.tags["status"]) == ("FAILED", "crashed")
    assert "lost" in logged.data.tags["mlflow.note.content"]


def test_the_environment_says_which_server_and_nothing_of_ours_stays_in_it(client, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store())
    before = dict(os.environ)
    run("small.toml", "--track", "mlflow")
    assert len(runs(client)) == CELLS
    assert dict(os.environ) == before


def test_a_server_that_does_not_answer_is_said_once_and_loses_no_cell(mlflow, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = run("small.toml", "--track", "mlflow=http://127.0.0.1:9")
    assert len(records()) == CELLS
    assert done.output.count("note: mlflow.run_started: http://127.0.0.1:9: ") == 1
    assert "the run goes on, and mlflow is told again when it ends" in done.output
    assert done.output.count("note: mlflow") == 2
    assert "note: mlflow failed again when the run ended" in done.output


def test_an_experiment_that_was_deleted_is_named_with_what_to_do(client):
    run("small.toml", "--track", f"mlflow={store()}")
    client.delete_experiment(client.get_experiment_by_name("small").experiment_id)
    done = run("small.toml", "--track", f"mlflow={store()}")
    assert "the experiment small was deleted in MLflow; bring it back (mlflow experiments restore" in done.output


# -- TensorBoard -------------------------------------------------------------------------------------------------------


@pytest.fixture
def board() -> Callable[..., Any]:
    """Return what reads a folder of events."""
    reason = "tensorboard is not installed: make .venv/.integrated"
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=reason)

    def read(folder: Path) -> Any:
        return module.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0}).Reload()

    return read


def in_single_precision(values: list[float]) -> Any:
    return pytest.approx(values, rel=1e-6, nan_ok=True)


def text_of(read: Any, tag: str) -> str:
    (event,) = read.Tensors(f"{tag}/text_summary")
    return str(event.tensor_proto.string_val[0].decode())


def test_tensorboard_has_a_folder_for_each_cell_with_its_curves_numbers_and_settings(board):
    run("small.toml", "--track", "tensorboard")
    folder = Path("results/small/tensorboard")
    assert sorted(path.name for path in folder.iterdir()) == sorted(["answer", *(r.cell.cell_id for r in records())])
    for record in records():
        read, curve = board(folder / record.cell.cell_id), evals(record)
        for name in ("train_loss", "validation_loss", "validation_accuracy"):
            for tag, steps in ((name, curve["updates"]), (f"by samples/{name}", curve["samples"])):
                events = read.Scalars(tag)
                assert [event.step for event in events] == steps
                assert [event.value for event in events] == in_single_precision(curve[name])
                since = [event.wall_time - began_s(record) for event in events]
                assert since == pytest.approx(curve["time_s"], abs=1e-5)
        numbers = {name: read.Scalars(f"result/{name}")[0].value for name in measured(record)}
        assert numbers == pytest.approx(measured(record), rel=1e-6)
        shown = text_of(read, "cell")
        assert f"| strategy | {record.cell.strategy} |" in shown
        assert f"| status | {record.status} |" in shown
    shown = CliRunner().invoke(main, ["show", "small", "--json"])
    (answer,) = (each["answer"] for each in json.loads(shown.output)["scenarios"])
    assert answer["sentence"] in text_of(board(folder / "answer"), "answer")


def test_the_hparams_plugin_reads_a_session_for_each_cell(board):
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    run("small.toml", "--track", "tensorboard")
    for record in records():
        read = board(Path("results/small/tensorboard", record.cell.cell_id))
        content = read.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
        given = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
        assert given["strategy"].string_value == record.cell.strategy
        assert given["gpus"].number_value == record.cell.gpus
        assert read.SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.plugin_name == metadata.PLUGIN_NAME


def test_tensorboard_gets_each_measurement_once_into_the_folder_that_was_given(board):
    run("small.toml", "--only", "strategy=single")
    run("small.toml", "--track", "tensorboard=logs")
    files = {path: path.stat().st_mtime_ns for path in Path("logs/small").glob("*-*/*tfevents*")}
    assert len(files) == CELLS
    run("small.toml", "--track", "tensorboard=logs")
    assert {path: path.stat().st_mtime_ns for path in Path("logs/small").glob("*-*/*tfevents*")} == files
    assert len(list(Path("logs/small/answer").iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_once_and_loses_no_cell(board):
    Path("logs").write_text("a file lies here")
    done = run("small.toml", "--track", "tensorboard=logs")
    assert len(records()) == CELLS
    assert len(re.findall("note: tensorboard.run_started: .*(NotADirectory|FileExists)Error", done.output)) == 1
    assert Path("logs").read_text() == "a file lies here"


def test_a_full_disk_is_said_once_and_the_next_run_writes_what_is_missing(board, monkeypatch):
    def full(path: Path, mode: int = 0) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr("harness.commands.trackers.to_tensorboard.atomic", full)
        done = run("small.toml", "--track", "tensorboard")
    assert len(records()) == CELLS
    assert re.findall("^note: tensorboard.*: OSError: .*No space left on device", done.output, re.MULTILINE)
    assert done.output.count("note: tensorboard") == 2
    assert list(Path("results/small/tensorboard").rglob("*tfevents*")) == []
    run("small.toml", "--track", "tensorboard")
    assert len(list(Path("results/small/tensorboard").glob("*-*/*tfevents*"))) == CELLS


@pytest.mark.dist
def test_telemetry_of_a_real_cell_is_in_both(board, client):
    run("real.toml", "--track", "tensorboard", "--track", f"mlflow={store()}")
    (record,) = records("real")
    (logged,) = runs(client, "real")[record.cell.cell_id]
    read = board(Path("results/real/tensorboard", record.cell.cell_id))
    series = telemetry()
    assert any("rss" in name for name in series), sorted(series)
    began_ms = int(began_s(record) * 1000)
    for name, readings in series.items():
        assert len(readings) <= 1000
        values = [value for _, value in readings]
        assert [event.value for event in read.Scalars(name)] == in_single_precision(values)
        expected = [(n, began_ms + int(1000 * t), value) for n, (t, value) in enumerate(readings)]
        assert history(client, logged, name) == expected
    assert math.isclose(logged.info.end_time, began_ms + 1000 * record.took_s, abs_tol=1)
    curve = evals(record, "real")
    assert [value for _, _, value in history(client, logged, "validation_accuracy")] == curve["validation_accuracy"]
