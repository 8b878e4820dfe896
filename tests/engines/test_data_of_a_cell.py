"""How a cell gets its samples: kept, read as they are needed, read ahead, drawn anew; and the same on every device."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from cells import make_cell
from click.testing import CliRunner
from lazy import lazy

from harness.commands.cli import main
from harness.core.endings import Cause
from harness.core.errors import PluginError
from harness.core.outcome import Outcome
from harness.core.step_parts import Part
from harness.engines.processes.launch import Result, run_cell
from harness.engines.shared.keeping import keeps
from harness.engines.shared.sample_order import own_batches, shared_batches, steps_of_a_pass
from harness.engines.shared.setup import make_setup
from harness.scenario.settings import Loading

torch = lazy("torch")
virtual_engine = lazy("harness.engines.virtual.engine")

TRAIN = """
import random, time
import numpy as np
import torch


class Samples(torch.utils.data.Dataset):
    def __init__(self, count, noise=0.0, wait_s=0.0):
        draw = np.random.default_rng(count)
        self.targets = draw.integers(0, 3, count)
        self.inputs = draw.normal(size=(count, 4, 4)) + self.targets[:, None, None]
        self.noise, self.wait_s = noise, wait_s

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, row):
        time.sleep(self.wait_s)
        drawn = np.random.normal() + float(torch.randn(())) + random.random()
        return torch.from_numpy(self.inputs[row]) + self.noise * drawn, int(self.targets[row])


def same():
    return Samples(90), Samples(30)


def noisy():
    return Samples(90, noise=0.1), Samples(30, noise=0.1)


def slow():
    return Samples(90, wait_s=0.002), Samples(30, wait_s=0.002)


def other_each_time():
    draw = np.random.default_rng()
    return draw.normal(size=(90, 4, 4)), np.arange(90) % 3, draw.normal(size=(30, 4, 4)), np.arange(30) % 3


def drawn():
    inputs = np.random.normal(size=(90, 4, 4)) + random.random() + torch.randn(4).numpy()
    return inputs, np.arange(90) % 3, inputs[:30], np.arange(30) % 3


class Fails(Samples):
    def __getitem__(self, row):
        if row == 77:
            raise LookupError("no sample 77")
        return super().__getitem__(row)


def fails():
    return Fails(90), Samples(30)


class OwnGenerator(Samples):
    def __getitem__(self, row):
        self.draw = getattr(self, "draw", None) or np.random.default_rng(0)
        return torch.from_numpy(self.inputs[row]) + self.draw.normal(), int(self.targets[row])


def own_generator():
    return OwnGenerator(90), OwnGenerator(30)


calls = []


def only_once():
    calls.append(1)
    if len(calls) > 1:
        raise LookupError("gone")
    return same()


def few():
    return np.zeros((4, 4, 4)), np.arange(4) % 2, np.zeros((4, 4, 4)), np.arange(4) % 2
"""


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAIN, encoding="utf-8")
    return path


def cell(
    train: Path, function: str, strategy: str = "single", *, gpus: int = 1, loading: Any = None, **changes: Any
) -> Any:
    workload = {"model": "mlp", "dataset": f"{train}:{function}", "precision": "fp64"}
    document: dict[str, Any] = {
        "workload": workload | ({"loading": loading} if loading else {}),
        "goal": {"max_steps": 9, "evaluate_every": 90},
        "sweep": {"strategy": strategy, "gpus": [gpus], "learning_rate": [0.05], "global_batch_size": [30]},
    }
    return make_cell(**(document | changes))


def simulated(*args: Any, **changes: Any) -> Outcome:
    return virtual_engine.run_virtual(make_setup(cell(*args, **changes)), merge=False)


def run(*args: Any, **changes: Any) -> Result:
    return run_cell(cell(*args, engine="real", **changes), options={"keep_weights": True})


def weights(outcome: Outcome) -> np.ndarray[Any, Any]:
    return np.asarray(outcome.weights)


READ = {"resident": False}
AHEAD = {"resident": False, "workers": 2, "prefetch": 1}


def test_samples_that_are_read_as_they_are_needed_train_the_same(train: Path) -> None:
    kept, read = simulated(train, "same"), simulated(train, "same", loading=READ)
    assert weights(kept).tolist() == weights(read).tolist()
    assert [e.validation_loss for e in kept.evaluations] == [e.validation_loss for e in read.evaluations]
    assert kept.test == read.test
    assert any("read as they are needed" in note for note in read.notes)
    assert any("reading a sample took" in note for note in read.notes)
    assert not any("read as they are needed" in note for note in kept.notes)


@pytest.mark.parametrize(("strategy", "gpus"), [("single", 1), ("sync-ddp", 2), ("local-sgd", 2), ("model-split", 2)])
def test_samples_that_are_read_ahead_train_the_same_and_leave_no_process(train: Path, strategy: str, gpus: int) -> None:
    ahead = run(train, "same", strategy, gpus=gpus, loading=AHEAD)
    assert ahead.finished, ahead.reason
    expected = simulated(train, "same", strategy, gpus=gpus)
    np.testing.assert_allclose(weights(ahead.outcome), weights(expected), rtol=0, atol=1e-12)
    assert any("by 2 processes of each device" in note for note in ahead.outcome.notes)
    started = {pid for pid, _, _ in ahead.targets}
    assert not [process for process in psutil.process_iter(["ppid"]) if process.info["ppid"] in started]


def test_samples_that_are_drawn_anew_are_drawn_alike_by_whoever_reads_them(train: Path) -> None:
    alone = weights(simulated(train, "noisy"))
    assert np.abs(alone - weights(simulated(train, "same"))).max() > 1e-6
    np.testing.assert_allclose(weights(simulated(train, "noisy", "sync-ddp", gpus=2)), alone, rtol=0, atol=1e-12)
    ahead = run(train, "noisy", "sync-ddp", gpus=2, loading={"workers": 1})
    assert ahead.finished, ahead.reason
    np.testing.assert_allclose(weights(ahead.outcome), alone, rtol=0, atol=1e-12)
    other = simulated(train, "noisy", sweep={"strategy": "single", "gpus": [1], "global_batch_size": [30], "seed": 5})
    assert np.abs(weights(other) - alone).max() > 1e-6


def test_samples_that_are_drawn_anew_are_others_in_the_next_pass_unless_they_are_kept(train: Path) -> None:
    setup = make_setup(cell(train, "noisy"))
    rows = np.arange(5)
    first, again = setup.data.train.rows(rows)[0], setup.data.train.rows(rows)[0]
    assert torch.equal(first, again)
    setup.begin_step(0, 2)
    assert torch.equal(first, setup.data.train.rows(rows)[0])
    setup.begin_step(0, 3)  # 81 samples in batches of 30
    assert not torch.equal(first, setup.data.train.rows(rows)[0])
    kept = make_setup(cell(train, "noisy", loading={"resident": True}))
    assert any("were read once: every epoch sees the same ones" in remark for remark in kept.data.remarks)


def test_samples_that_no_seed_reaches_are_said(train: Path) -> None:
    assert any("does not reach" in remark for remark in make_setup(cell(train, "own_generator")).data.remarks)
    assert not any("does not reach" in remark for remark in make_setup(cell(train, "noisy")).data.remarks)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_passes_are_as_long_as_the_order_makes_them(workers: int) -> None:
    for rank in range(workers):
        own = own_batches(0, 83, 10, rank, workers)
        seen: set[int] = set()
        steps = steps_of_a_pass(83, 10, rank, workers)
        for _ in range(steps):
            indices = set(next(own).indices.tolist())
            assert not seen & indices
            seen |= indices
        assert set(next(own).indices.tolist()) <= seen
    shared = shared_batches(0, 83, 10, 0, 1)
    whole = [next(shared).indices for _ in range(steps_of_a_pass(83, 10, 0, 1))]
    assert sorted(np.concatenate(whole)) == list(range(83))


def test_data_that_differ_between_devices_are_refused_before_the_first_step(train: Path) -> None:
    refused = run(train, "other_each_time", "sync-ddp", gpus=2)
    assert refused.cause is Cause.USER
    assert "other_each_time: rank 0 and rank 1 loaded different data" in refused.reason


def test_data_that_are_others_when_they_are_loaded_again_are_said(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.engines.shared.loads.SLOW_READING_S", 1e9)  # however busy the machine is

    def said(function: str) -> list[str]:
        return [note for note in make_setup(cell(train, function)).data_notes() if "two loads" in note]

    (note,) = said("other_each_time")
    assert f"two loads of {train}:other_each_time differ" in note
    assert "default_rng(0)" in note
    assert not said("same")
    assert not said("drawn")  # from the generators that are seeded
    assert not said("noisy")


def test_data_that_can_be_loaded_once_only_end_no_cell(train: Path) -> None:
    assert any("cannot be called twice" in note for note in make_setup(cell(train, "only_once")).data_notes())


def test_data_that_take_long_to_load_are_loaded_once(train: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.engines.shared.loads.SLOW_READING_S", 0.0)
    assert not [note for note in make_setup(cell(train, "other_each_time")).data_notes() if "two loads" in note]


def test_data_that_are_drawn_from_the_global_generators_are_the_same_in_every_run(train: Path) -> None:
    one, other = (make_setup(cell(train, "drawn")).data.checksum for _ in range(2))
    assert one == other
    drawn = run(train, "drawn", "sync-ddp", gpus=2)
    assert drawn.finished, drawn.reason
    assert drawn.outcome.facts["data_checksum"] == one


@pytest.mark.parametrize("loading", [READ, AHEAD], ids=["read", "ahead"])
def test_an_error_of_the_data_set_is_the_users(train: Path, loading: Any) -> None:
    failed = run(train, "fails", loading=loading)
    assert failed.cause is Cause.USER
    assert re.search(r"train\.py:\d+: LookupError: no sample 77", failed.reason)


def test_an_empty_validation_split_is_refused_where_it_is_needed(train: Path) -> None:
    with pytest.raises(PluginError, match=r"train\.py:\d+: few returned 4 training samples, of which goal.valid"):
        make_setup(cell(train, "few"))
    assert len(make_setup(cell(train, "few", goal={"max_steps": 3, "target_accuracy": "none"})).data.validation) == 0


def test_built_in_data_can_be_read_as_they_are_needed_too() -> None:
    changes = {"goal": {"max_steps": 5, "evaluate_every": 1000}, "sweep__strategy": "single"}
    kept, read = (
        virtual_engine.run_virtual(make_setup(make_cell(workload=workload, **changes)), merge=False)
        for workload in ({"dataset": "digits"}, {"dataset": "digits", "loading": READ})
    )
    assert torch.equal(kept.weights, read.weights)


def test_what_stays_in_memory(train: Path) -> None:
    automatic = keeps(cell(train, "same"), "cpu")
    assert automatic(1000, False)
    assert not automatic(1000, True)
    assert not automatic(2**60, False)
    assert keeps(cell(train, "same", loading={"resident": True}), "cpu")(2**60, True)
    assert not keeps(cell(train, "same", loading=READ), "cpu")(1, False)


def test_the_default_loading_leaves_ids_as_they_were(train: Path) -> None:
    default = cell(train, "same")
    assert default.workload.loading == Loading()
    assert cell(train, "same", loading={"workers": 0}).cell_id == default.cell_id
    assert cell(train, "same", loading=AHEAD).cell_id != default.cell_id


@pytest.mark.dist
@pytest.mark.parametrize(("strategy", "gpus"), [("single", 1), ("async-ps", 2)])
def test_nothing_is_read_ahead_while_the_clock_stands(train: Path, strategy: str, gpus: int) -> None:
    """Two processes of each device, 2 ms a sample: an evaluation of 45 samples takes as long as three steps' data."""
    goal = {"max_steps": 16, "evaluate_every": 30, "validation_fraction": 0.5}
    done = run(train, "slow", strategy, gpus=gpus, loading={"resident": False, "workers": 2}, goal=goal)
    assert done.finished, done.reason
    outcome = done.outcome
    assert outcome.evaluation_s > outcome.samples * 0.001
    assert outcome.samples / outcome.training_s < 1.1 * gpus * 2 / 0.002


def test_a_data_set_that_is_too_slow_is_named_in_the_answer(train: Path) -> None:
    slow = run(train, "slow", loading=READ)
    rows = slow.outcome.steps
    assert sum(rows[Part.INPUT.column]) > 0.5 * sum(rows[Part.INPUT.column] + rows[Part.COMPUTE.column])
    (train.parent / "s.toml").write_text(
        'name = "s"\n[workload]\nmodel = "mlp"\ndataset = "train.py:slow"\nloading = { resident = false }\n'
        '[sweep]\nstrategy = "single"\ngpus = [1]\n[goal]\nmax_steps = 9\n'
    )
    results = train.parent / "results"
    done = CliRunner().invoke(main, ["run", str(train.parent / "s.toml"), "--results", str(results)])
    assert done.exit_code == 0, done.output
    assert "of a step" in done.output
    assert "workload.loading.workers" in done.output
