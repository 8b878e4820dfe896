"""What a plan, and the start of a run, say of a model that does not take its data."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from harness.commands.cli import main

TRAIN = """
from torch import nn


def colours():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))


def grey():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Norms(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(64)
        self.out = nn.Linear(64, 10)

    def forward(self, x):
        return self.out(self.norm(x.flatten(1)))


def load():
    raise OSError("no such disk")
"""
SCENARIO = """
engine = "real"
[workload]
model = "train.py:grey"
dataset = "digits"
[sweep]
strategy = "single"
batch_size = 32
[goal]
target_accuracy = "none"
max_steps = 2
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    Path("train.py").write_text(TRAIN)
    Path("s.toml").write_text(SCENARIO)


def told(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, [*words])
    return done.exit_code, done.output


@pytest.mark.dist
def test_a_plan_and_a_run_refuse_a_model_that_takes_other_data():
    for command in ("plan", "run"):
        code, said = told(command, "s.toml", "--set", "model=train.py:colours")
        assert code == 2
        assert "layer 0 (Conv2d) got (2, 1, 8, 8) float32" in said
        assert "takes 3 channels" in said
    assert not Path("results").exists()


@pytest.mark.dist
def test_that_a_model_fits_is_found_once_and_asked_of_no_edited_one_or_other_data(monkeypatch):
    assert told("plan", "s.toml")[0] == 0
    with monkeypatch.context() as patched:
        patched.setattr("harness.engines.calibration.fit_in_child.started", None)  # no process is started again
        assert told("plan", "s.toml")[0] == 0
    Path("train.py").write_text(TRAIN.replace("Linear(64", "Linear(63"))
    assert "takes 63 features" in told("plan", "s.toml")[1]


@pytest.mark.dist
def test_a_model_that_fits_runs_beside_one_that_does_not():
    Path("s.toml").write_text(
        SCENARIO.replace('model = "train.py:grey"\n', "").replace(
            "[sweep]", '[sweep]\n"workload.model" = ["train.py:grey", "train.py:colours"]'
        )
    )
    code, said = told("plan", "s.toml")
    assert code == 0, said
    assert "takes 3 channels" in said
    code, said = told("run", "s.toml")
    assert code == 1
    assert "1 ok" in said
    assert "1 crashed" in said


@pytest.mark.dist
def test_a_plan_asks_the_model_that_was_built_for_batch_norm_and_not_its_file():
    shared = ("--set", "strategy=sync-ddp", "--set", "gpus=2")
    assert "BatchNorm" not in told("plan", "s.toml", *shared)[1]
    normalises = ("s.toml", "--set", "model=train.py:Norms")
    for _ in ("tried", "kept"):
        code, said = told("plan", *normalises, *shared)
        assert code == 0, said
        assert "train.py:Norms has BatchNorm: under sync-ddp each replica normalises by its own samples" in said
    assert "BatchNorm" not in told("plan", *normalises)[1]


@pytest.mark.dist
def test_of_data_that_cannot_be_had_here_a_plan_says_that_nothing_is_known():
    code, said = told("plan", "s.toml", "--set", "dataset=train.py:load")
    assert code == 0, said
    assert "whether train.py:grey takes train.py:load is not known yet" in said
    assert "no such disk" in said


@pytest.mark.parametrize(
    ("model", "data", "said"),
    [
        ("lenet5", "tokens", "the model lenet5 reads images, the data set holds tokens"),
        ("resnet50", "digits", "images of 8 x 8 pixels are too small for resnet50"),
        ("{ name = 'gpt', sequence = 32 }", "tokens", "gpt has 32 positions; set sequence = 32 in workload.dataset"),
        ("{ name = 'gpt', vocabulary = 32 }", "tokens", "64 different tokens, and gpt knows 32"),
        ("bert-large", "tokens", "labels"),
    ],
)
def test_built_in_models_that_do_not_fit_are_refused_with_the_line(model, data, said):
    written = model.replace("'", '"') if model.startswith("{") else f'"{model}"'
    Path("s.toml").write_text(SCENARIO.replace('"train.py:grey"', written).replace("digits", data))
    code, words = told("plan", "s.toml")
    assert code == 2
    assert said in words
    assert "(line 5)" in words
