"""Models and data of the user's own, on clusters that he does not have: planned, run, and never in each other's way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from lazy import lazy

from harness.api.host import load_host
from harness.commands.cli import main
from harness.core.endings import Cause, Status
from harness.core.machine import Machine
from harness.core.not_known import Hurdle, NotKnown
from harness.core.text import Text
from harness.costs.cells import cluster_of, find_shape, profile_of
from harness.costs.memory import placement_of
from harness.costs.memory.fit import layout_of
from harness.costs.price import price
from harness.costs.steps import step_cost
from harness.executors.admission import admit
from harness.results.store import Results
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario
from harness.workloads.entries import DataShape

trace = lazy("harness.costs.tracing.trace")
nn = lazy("torch.nn")

TRAIN = """\
import torch
from torch import nn


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, values):
        return values + self.down(torch.relu(self.up(values)))


class Net(nn.Module):
    def __init__(self, width, depth):
        super().__init__()
        self.entry = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = nn.Linear(width, 10)

    def forward(self, values):
        values = self.entry(values.flatten(1))
        for block in self.blocks:
            values = block(values)
        return self.head(values)


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(64, 10))

    def forward(self, values):
        return values.flatten(1) @ self.weight


def build():
    return Net(32, 8)


def bare():
    return Bare()


def broken():
    return nn.Linear(3, 10)


def load():
    images, labels = torch.rand(80, 8, 8), torch.arange(80) % 10
    return images[:60], labels[:60], images[60:], labels[60:]
"""
SCENARIO = """\
[workload]
model = "train.py:build"
dataset = "train.py:load"

[sweep]
strategy = ["sync-ddp", "fsdp", "model-split"]
gpus = [4]
global_batch_size = [64]

[cluster]
preset = "workstation-4xa100"

[cost]
per_gpu_hour = "1.50 EUR"

[goal]
target_accuracy = "none"
max_steps = 4
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with the user's files, and nothing known yet of them."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "s.toml").write_text(SCENARIO)
    return tmp_path


def typed(*words):
    return CliRunner().invoke(main, [*words])


def planned(path="s.toml", sets=()):
    host = load_host()
    return make_plan(load_scenario(Path(path), host, sets), host, Machine(cores=2)), host


def predictions(sets=()):
    plan, host = planned(sets=sets)
    return {cell.strategy: price(cell, host) for cell in plan.cells}


def test_a_plan_with_measuring_knows_a_model_of_ones_own_on_a_cluster_of_the_catalogue(folder):
    assert all(found.step_time_s is None for found in predictions().values())
    done = typed("plan", "s.toml", "--measure")
    assert done.exit_code == 0, done.output
    found = predictions()  # without measuring: from now on it is known, data included
    assert list(found) == ["sync-ddp", "fsdp", "model-split"]
    for each in found.values():
        assert each.step_time_s > 0
        assert each.throughput_samples_per_s > 0
        assert each.dram_bytes > 0
        assert each.cost > 0
    assert "tracing" not in typed("plan", "s.toml", "--measure").output
    plan, host = planned()
    shape = find_shape(plan.cells[0], host)
    assert [layer.name for layer in shape.layers] == ["entry", *(f"blocks.{k}" for k in range(8)), "head"]
    assert sum(layer.parameters for layer in shape.layers) == shape.parameters


def test_a_plan_shows_the_blocks_of_a_model_of_ones_own(folder):
    typed("plan", "s.toml", "--measure")
    shown = typed("plan", "s.toml").output
    assert "blocks.0 to blocks.7" in shown
    assert "8,352" in shown  # parameters of each


def test_a_run_leaves_behind_what_a_plan_needs(folder):
    done = typed("run", "s.toml", "--results", "r", "--only", "strategy=sync-ddp")
    assert "1 ok" in done.output, done.output
    assert predictions()["fsdp"].step_time_s > 0


def test_an_edited_data_set_is_not_taken_for_the_one_that_was_loaded(folder):
    typed("plan", "s.toml", "--measure")
    (folder / "train.py").write_text(TRAIN.replace("rand(80, 8, 8)", "rand(80, 1, 8, 8)"))
    assert all(found.step_time_s is None for found in predictions().values())


def test_a_strategy_that_cannot_cut_the_model_ends_its_own_cell_only(folder):
    own = ("--set", "workload.model=train.py:bare")
    shown = typed("plan", "s.toml", "--measure", *own).output
    assert "model-split, gpus 4: 4 stages need at least 4 layers; there are 1" in shown
    found = predictions(("workload.model=train.py:bare",))
    assert found["sync-ddp"].step_time_s > 0
    assert "there are 1" in found["model-split"].not_possible
    done = typed("run", "s.toml", "--results", "r", *own)
    assert done.exit_code == 0, done.output
    records = {record.cell.strategy: record for record in Results(folder / "r" / "s").records().values()}
    statuses = {name: record.status for name, record in records.items()}
    assert statuses == {"sync-ddp": Status.OK, "fsdp": Status.OK, "model-split": Status.NOT_POSSIBLE}
    assert records["model-split"].cause is Cause.IMPOSSIBLE
    assert "3 kept" in typed("run", "s.toml", "--results", "r", *own).output  # found out once, and kept


def test_a_model_that_cannot_be_traced_is_not_known_and_says_why(folder):
    own = ("--set", "workload.model=train.py:broken")
    done = typed("plan", "s.toml", "--measure", *own)
    assert done.exit_code == 0, done.output
    found = predictions(("workload.model=train.py:broken",))
    assert all(each.step_time_s is None and "shapes cannot be multiplied" in each.reason for each in found.values())
    assert "shapes cannot be multiplied" in typed("plan", "s.toml", *own).output


def test_whether_a_model_that_cannot_be_traced_fits_is_left_open(folder, monkeypatch):
    why = NotKnown(Hurdle.STEP, Text("numpy is at home"))
    monkeypatch.setattr("harness.engines.calibration.trace_in_child.find_or_trace", lambda *_: why)
    plan, host = planned()
    cell, verdict = admit(plan.cells[0], host, ())
    assert verdict == ""
    assert "numpy is at home" in cell.notes[-1]
    assert cell.cell_id == plan.cells[0].cell_id


@pytest.mark.dist
def test_a_real_cell_ends_well_where_its_memory_cannot_be_foretold(folder, monkeypatch):
    looks = TRAIN.replace(
        "def bare():",
        "class Moody(Bare):\n"
        "    def forward(self, values):\n"
        "        assert (values[..., 0] == values[..., 1]).all(), 'no such data'\n"
        "        return super().forward(values)\n\n\n"
        "def moody():\n    return Moody()\n\n\n"
        "def bare():",
    )
    (folder / "train.py").write_text(looks.replace("torch.rand(80, 8, 8)", "torch.rand(80, 8, 1).expand(80, 8, 8)"))
    (folder / "real.toml").write_text(
        '[workload]\nmodel = "train.py:moody"\ndataset = "train.py:load"\n[sweep]\nstrategy = "single"\n'
        'batch_size = 16\n[goal]\ntarget_accuracy = "none"\nmax_steps = 3\nevaluate_every = 200\n'
    )
    done = typed("run", "real.toml", "--results", "r")
    assert done.exit_code == 0, done.output
    (record,) = Results(folder / "r" / "real").records().values()
    assert record.status is Status.OK
    assert record.row["dram_tensors_peak_bytes"] is None
    assert record.detail["dram_not_known"]["hurdle"] == "step"
    assert any("its memory is not counted" in note for note in record.notes)
    assert json.loads(json.dumps(record.detail["dram"])) == {}


@pytest.mark.dist
def test_a_real_strategy_that_cannot_cut_the_model_is_not_possible_and_the_others_run(folder):
    (folder / "real.toml").write_text(
        '[workload]\nmodel = "train.py:bare"\ndataset = "train.py:load"\n'
        '[sweep]\nstrategy = ["model-split", "single"]\ngpus = [1, 2]\nglobal_batch_size = 16\n'
        '[goal]\ntarget_accuracy = "none"\nmax_steps = 3\nevaluate_every = 200\n'
    )
    done = typed("run", "real.toml", "--results", "r")
    assert done.exit_code == 0, done.output
    statuses = {
        (record.cell.strategy, record.cell.gpus): (record.status, record.cause)
        for record in Results(folder / "r" / "real").records().values()
    }
    assert statuses["model-split", 2] == (Status.NOT_POSSIBLE, Cause.IMPOSSIBLE)
    assert statuses["single", 1] == (Status.OK, None)


# -- the same net, written in two ways ---------------------------------------------------------------------------------


def as_written(kind, width=1024, depth=12):
    """Return a transformer-like net as a list of blocks in a module, or as one sequence."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

        def forward(self, values):
            return values + self.down(nn.functional.gelu(self.up(values)))

    class Listed(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.entry = nn.Flatten(), nn.Linear(64, width)
            self.blocks = nn.ModuleList(Block() for _ in range(depth))
            self.head = nn.Linear(width, 10)

        def forward(self, values):
            values = self.entry(self.flat(values))
            for block in self.blocks:
                values = block(values)
            return self.head(values)

    if kind == "listed":
        return Listed()
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), *(Block() for _ in range(depth)), nn.Linear(width, 10))


def test_strategies_rank_alike_for_a_net_written_as_a_module_and_as_a_sequence(folder):
    plan, host = planned(sets=("sweep.global_batch_size=16384",))
    found = {}
    for kind in ("listed", "sequence"):
        rules = trace.Rules(precision="bf16", device="cuda")
        shape = trace.trace_model(lambda kind=kind: as_written(kind), DataShape(1, 8, 8, 10), rules)
        for cell in plan.cells:
            profile, cluster, layout = profile_of(cell, shape), cluster_of(cell), layout_of(cell, host)
            placement = placement_of(cell, host, shape)
            cost = step_cost(profile, cluster, layout, 16384, cell.micro_batch_size, placement)
            found[kind, cell.strategy] = (cost.total_s, cost.communication_s, cost.busy_s)
    for strategy in ("sync-ddp", "fsdp", "model-split"):
        assert found["listed", strategy] == pytest.approx(found["sequence", strategy])
    _, exposed, busy = found["listed", "sync-ddp"]
    assert exposed < busy / 2  # it overlaps, block by block: as one layer nothing would
