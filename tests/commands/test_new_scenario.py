"""From a model of one's own to a scenario that runs, with what was found as comments."""

from __future__ import annotations

import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from harness.commands.cli import main
from harness.commands.write_scenario import CELL_S, propose, scenario_text
from harness.core.machine import Machine
from harness.engines.shared.findings import DataFindings, Findings, FoundBlock, Guess, ModelFindings
from harness.workloads.entries import Feature

TRAIN = """
import numpy as np
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))

def load():
    inputs = np.random.randn(120, 1, 2, 3)
    targets = (inputs[:, 0, 0, 0] > 0).astype(int)
    return inputs[:100], targets[:100], inputs[100:], targets[100:]

def wide():
    return nn.Linear(7, 2)
"""

MODEL = ModelFindings(
    name="train.py:build",
    parameters=90,
    tensors=4,
    frozen=(),
    without_gradient=(),
    ties=(),
    buffers=(),
    batch_norms=(),
    blocks=(FoundBlock("0", "Linear", 80), FoundBlock("1", "Linear", 10)),
    chain=True,
    draws=False,
    normalises=False,
    outputs=(2,),
    result="",
)
DATA = DataFindings("train.py:load", {}, (Feature("", (6,)),), Feature("", (), "int64", 2), 2, 0, 1000, 20)
FOUND = Findings(MODEL, DATA, "cross-entropy", batch_size=32, step_s=1e-3)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with a file of one's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    return tmp_path


def harness(*words: str) -> Result:
    return CliRunner().invoke(main, words)


@pytest.mark.dist
def test_a_scenario_for_a_model_of_ones_own_plans_and_runs():
    done = harness("new", "scenario", "mine", "--model", "train.py:build", "--data", "train.py:load")
    assert done.exit_code == 0, done.output
    text = Path("mine.toml").read_text()
    written = tomllib.loads(text)
    assert written["workload"]["dataset"] == "train.py:load"
    assert written["workload"]["loss"] == "cross-entropy"
    assert all(fact in text for fact in ("1 x 2 x 3 float", "2 classes", "74 parameters", "1 (Linear): 56 parameters"))
    assert harness("plan", "mine.toml").exit_code == 0
    ran = harness("run", "mine.toml", "--set", "seeds=1", "--set", "max_epochs=1", "--set", "strategy=single,sync-ddp")
    assert ran.exit_code == 0, ran.output
    told = harness("doctor", "--model", "train.py:build", "--data", "train.py:load").output
    assert all(fact in told for fact in ("inputs: 1 x 2 x 3 float", "1 (Linear): 56 parameters", "loss: cross-entropy"))


@pytest.mark.dist
def test_where_model_and_data_do_not_fit_nothing_is_written():
    done = harness("new", "scenario", "mine", "--model", "train.py:wide", "--data", "train.py:load")
    assert done.exit_code == 1
    assert "train.py:wide: fails on inputs of shape (2, 1, 2, 3)" in done.output
    assert not Path("mine.toml").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("new", "scenario", "mine", "--model", "train.py:biuld"), "did you mean build?"),
        (("new", "scenario", "mine", "--model", "train.py:build", "--data", "none.py:load"), "cannot be read"),
        (("new", "scenario", "mine", "--model", "train.py:build", "--data", "digts"), "did you mean digits?"),
        (("new", "scenario", "mine", "--data", "train.py:load"), "--data means nothing without --model"),
        (("doctor", "--data", "train.py:load"), "--data means nothing without --model"),
    ],
)
def test_what_is_not_there_is_refused_before_anything_is_started(words, reason):
    done = harness(*words)
    assert done.exit_code == 2
    assert reason in done.output
    assert not Path("mine.toml").exists()


def test_a_bundled_scenario_takes_data_of_ones_own_too():
    words = ("new", "scenario", "mine", "--from", "lenet", "--model", "train.py:build", "--data", "train.py:load")
    assert harness(*words).exit_code == 0
    written = tomllib.loads(Path("mine.toml").read_text())["workload"]
    assert written == {"model": "train.py:build", "dataset": "train.py:load"}


@pytest.mark.parametrize("machine", [Machine(1), Machine(2), Machine(16, 8, "NVIDIA H200")])
def test_what_is_proposed_fits_the_machine(machine):
    written = tomllib.loads(scenario_text(FOUND, machine))
    gpus = written["sweep"]["gpus"]
    assert gpus == sorted({1, machine.gpus or min(2, machine.cores)})
    assert ("sync-ddp" in written["sweep"]["strategy"]) == (len(gpus) > 1)


def test_a_model_with_fewer_blocks_than_devices_is_not_cut():
    assert "model-split" in propose(FOUND, Machine(2)).strategies
    assert "model-split" not in propose(FOUND, Machine(16, 4)).strategies


def test_a_large_model_is_shared_out():
    large = replace(FOUND, model=replace(MODEL, parameters=100_000_000))
    assert "fsdp" in propose(large, Machine(16, 4)).strategies
    assert "fsdp" not in propose(FOUND, Machine(16, 4)).strategies


def test_no_batch_leaves_batchnorm_a_single_sample():
    for samples in range(200, 230):
        found = replace(FOUND, model=replace(MODEL, batch_norms=("1",)), data=replace(DATA, num_train=samples))
        batch, num_train = propose(found, Machine(2)).batch, samples - round(samples / 10)
        assert min(batch, num_train % batch or batch) // 2 >= 2, samples


def test_a_slow_model_gets_few_steps_and_a_quick_one_ten_epochs():
    assert propose(FOUND, Machine(2)).epochs == 10
    slow = propose(replace(FOUND, step_s=20.0), Machine(2))
    assert (slow.epochs, slow.steps) == (None, 20)


def test_the_time_that_is_proposed_counts_what_every_cell_takes_beside_training():
    found = replace(FOUND, step_s=1e-6, data=replace(DATA, load_s=3.0))
    proposed = propose(found, Machine(2))
    cells = 2 * len(proposed.strategies)
    assert cells * (CELL_S + 3.0) < proposed.run_s < cells * (CELL_S + 3.1)
    judged = propose(replace(FOUND, data=replace(DATA, num_test=10**6)), Machine(2))
    assert judged.run_s > propose(FOUND, Machine(2)).run_s + 2 * 10**6 / 32 * 1e-3 / 3


@pytest.mark.parametrize(
    ("guess", "text", "line"),
    [
        (Guess(2.3, 0.1), {}, "# target_accuracy = 0.82 "),
        (Guess(0.2, 0.95), {}, "# target_accuracy = 0.99 "),
        (Guess(7.8e9), {}, "# target_loss = 1.6e+09 "),
        (Guess(3.0, 0.17), {"vocabulary": 256, "target": Feature("", (32,), "int64", 256)}, "# target_loss = 2.4 "),
        (Guess(1.4, 0.25), {"vocabulary": 100}, "# target_accuracy = 0.85 "),  # a class for each text
    ],
)
def test_a_target_lies_where_guessing_does_not_reach(guess, text, line):
    data = replace(DATA, guess=guess, **text)
    (target,) = [
        each for each in scenario_text(replace(FOUND, data=data), Machine(2)).splitlines() if "target_" in each
    ]
    assert target.startswith(line)
    assert tomllib.loads(target.removeprefix("# "))


def test_a_scale_is_offered_where_numbers_have_none():
    large = replace(
        DATA, name="table", options={"target": "price"}, unscaled=("column lot has values up to 30,000,000",)
    )
    text = scenario_text(replace(FOUND, data=replace(large, standardizes=True)), Machine(2))
    (offered,) = [line for line in text.splitlines() if line.startswith("# dataset = ")]
    assert tomllib.loads(offered.removeprefix("# "))["dataset"]["standardize"] == ["inputs", "target"]
    assert "# column lot has values up to 30,000,000: training may diverge at any rate." in text
    assert "Scale it in table" in scenario_text(replace(FOUND, data=large), Machine(2))
    assert "diverge" not in scenario_text(FOUND, Machine(2))


def test_every_fact_is_a_comment():
    tied = replace(MODEL, ties=(("a", "b"),), batch_norms=("c",), frozen=("d",), draws=True, buffers=("e", "f"))
    text = scenario_text(replace(FOUND, model=tied), Machine(2))
    comments = [line for line in text.splitlines() if line.startswith("#")]
    for fact in ("a = b", "c: each device averages", "frozen", "drawn in training", "2 (e and f)", "up to 2 stages"):
        assert any(fact in line for line in comments), fact
