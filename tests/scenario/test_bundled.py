"""Every bundled scenario plans; those that say how long they take are held to it within a factor of 3."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from cells import host
from chromium import BINARY
from lazy import lazy
from published_layers import FOLDER as LAYERS
from published_layers import NETWORKS
from stated_times import assert_as_stated, stated_seconds

from harness.commands.plan_text import describe
from harness.core.cell import Plan
from harness.core.machine import Machine
from harness.core.outcome import Outcome
from harness.costs.price import price
from harness.engines.shared.setup import make_setup
from harness.scenario.bundled import bundled_scenarios, copy_scenario, find_scenario
from harness.scenario.plan import make_plan
from harness.scenario.read import load_scenario, parse_scenario

virtual_engine = lazy("harness.engines.virtual.engine")

FOLDER = Path(os.environ.get("HARNESS_DATA", ""))


@cache
def plan_of(name: str) -> Plan:
    return make_plan(load_scenario(find_scenario(name), host()), host(), Machine(cores=2))


@pytest.mark.parametrize("name", bundled_scenarios())
def test_bundled_scenario_plans_and_says_what_it_shows_and_how_long_it_takes(name):
    plan = plan_of(name)
    assert plan.cells
    assert not [cell.cell_id for cell in plan.cells if cell.not_possible]
    assert stated_seconds(plan.description) > 0
    assert len(plan.description) > 40


@pytest.mark.parametrize("name", NETWORKS)
def test_the_layers_of_published_networks_are_what_their_architecture_says(name):
    assert (LAYERS / f"{name}.csv").read_text() == NETWORKS[name].table()
    assert {path.stem for path in LAYERS.iterdir()} == set(NETWORKS)


def test_published_networks_have_the_parameters_that_are_published():
    parameters = {name: sum(layer[3] for layer in network.layers) for name, network in NETWORKS.items()}
    assert parameters == {
        "alexnet-bvlc-ungrouped": 62_378_344,
        "alexnet-tf": 61_842_345,
        "resnet50": 25_557_032,
        "resnet101": 44_549_160,
        "vgg16": 138_357_544,
    }


def test_a_copied_scenario_has_the_layers_of_its_model_beside_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied = load_scenario(copy_scenario("mine", "published/alexnet-k40"), host())
    cells = [
        make_plan(one, host(), Machine(cores=2)).cells
        for one in (copied, load_scenario(find_scenario("published/alexnet-k40"), host()))
    ]
    assert [price(cell, host()).step_time_s for cell in cells[0]] == [
        price(cell, host()).step_time_s for cell in cells[1]
    ]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["alexnet-bvlc-ungrouped.csv", "layers", "mine.toml"]


def test_each_stage_of_sharding_holds_less_and_groups_inside_a_node_send_less_between_nodes():
    """The point of `sharding`: DDP does not fit, each stage of ZeRO holds less, and hsdp is faster than fsdp."""
    plan = make_plan(load_scenario(find_scenario("sharding"), host()), host(), Machine(cores=2))
    found = {cell.strategy: price(cell, host()) for cell in plan.cells}
    assert [name for name, each in found.items() if each.out_of_memory] == ["sync-ddp"]
    held = [found[name].dram_bytes for name in ("zero-1", "zero-2", "hsdp", "fsdp")]
    assert held == sorted(held, reverse=True)
    assert found["hsdp"].step_time_s < found["fsdp"].step_time_s / 2


def trained(name: str, *strategies: str) -> list[Outcome]:
    """Return what three epochs of these strategies of a simulated scenario come to, with its first seed."""
    text = find_scenario(name).read_text(encoding="utf-8").replace("seeds = 3", "seeds = 1")
    goal = '[goal]\ntarget_accuracy = "none"\nmax_epochs = 3\nevaluate_every = "3 epochs"\n'
    text = re.sub(r"\[goal\]\n(.+\n)+", goal, text)
    cells = make_plan(parse_scenario(text, host(), Path(f"{name}.toml")), host(), Machine(cores=2)).cells
    return [virtual_engine.run_virtual(make_setup(cell)) for cell in cells if cell.strategy in strategies]


def test_who_waits_for_a_straggler_trains_at_its_pace():
    """The point of `straggler`: one of eight at a third of the pace holds up all, as far as a strategy waits for it."""
    outcomes = trained("straggler", "sync-ps", "backup-workers", "async-ps")
    sync, backup, free = (outcome.samples / outcome.training_s for outcome in outcomes)
    pace = 2000.0
    assert sync == pytest.approx(8 * pace / 3, rel=0.05)
    assert backup == pytest.approx(7 * pace, rel=0.12)
    assert free == pytest.approx((7 + 1 / 3) * pace, rel=0.05)


def test_the_rarer_workers_talk_over_a_slow_link_the_faster_they_train():
    """The point of `slow-link`; parts of an exchange move its bytes in smaller pieces, and each pays the latency."""
    ddp, whole, parts, apart = trained("slow-link", "sync-ddp", "diloco", "ensemble")
    assert ddp.training_s > 10 * whole.training_s > 30 * apart.training_s
    assert whole.training_s < parts.training_s < ddp.training_s / 5
    assert whole.bytes_sent_per_step < ddp.bytes_sent_per_step / 16
    assert apart.bytes_sent_per_step == 0.0


SHORT = ["speed", "ticket", "four-gpus", "published/vgg16-k80-servers"]
"""One of each kind: real, timed on given links, timed by layouts, published."""
if BINARY is None:
    SHORT.append("lenet")  # with a browser, tests/report/test_real_runs.py runs it


FOR_A_GPU = "nightly"
"""On a few cores it ends itself by its budget; tests/test_nightly.py runs it cut down."""


@pytest.mark.slow
@pytest.mark.dist
@pytest.mark.timed
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    "name",
    [
        name if name in SHORT else pytest.param(name, marks=pytest.mark.long)
        for name in bundled_scenarios()
        if name != FOR_A_GPU
    ],
)
def test_bundled_scenario_takes_about_as_long_as_it_says(name, tmp_path):
    if "mnist" in name and not (FOLDER / "mnist").is_dir():
        pytest.skip("needs the MNIST files in HARNESS_DATA/mnist")
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "harness", "run", name], cwd=tmp_path, capture_output=True, text=True)
    seconds = time.monotonic() - began
    print(f"{name}: {seconds:.0f} s")
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert_as_stated(bundled_scenarios()[name], seconds)


@pytest.mark.parametrize(
    "name", [name for name in bundled_scenarios() if name != "pretrain"]
)  # it lays out for seconds
def test_each_question_mark_of_a_plan_has_a_reason_that_names_its_cells(name):
    plan = plan_of(name)
    lines = describe(plan, host()).splitlines()
    marked = {line.split()[0] for line in lines if "  ?" in line}
    told = [line for line in lines if "not predicted: " in line]
    for strategy in marked:
        assert any(re.search(rf"\b{strategy} on .*\d.*: \S", line) for line in told), strategy
