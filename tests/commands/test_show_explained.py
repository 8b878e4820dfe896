"""`harness show` of cells that can be compared: beside each other, beside what was observed, and what explains it."""

from __future__ import annotations

import itertools
import json
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cells import host
from click.testing import CliRunner
from lazy import lazy

from harness.analysis.cell_row import identity_row, outcome_row
from harness.analysis.explain import explain_difference
from harness.commands.cli import main
from harness.commands.simulator import simulator
from harness.core.budget import Budget
from harness.core.cell import Cell, Plan
from harness.core.endings import Status
from harness.core.given_cluster import GivenLink
from harness.costs.cells import find
from harness.costs.steps.step import optimizer_s, step_cost
from harness.report import write_report
from harness.results.store import Record, Results
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import parse_scenario

timing = lazy("harness.engines.virtual.timing")
whatif = lazy("harness.engines.virtual.whatif")

GIGABIT = 1e9 / 8
TICKET = """
engine = "virtual"
observed = [{ gpus = 16, strategy = "sync-ddp", throughput = "OBSERVED samples/s", source = "the ticket" }]
[workload]
model = { parameters = "335 M", layers = 24 }
[sweep]
strategy = STRATEGIES
gpus = [4, 16]
global_batch_size = 256
[goal]
max_steps = 20
[cluster]
device = { samples_per_second = 52, batch_size = 16 }
gpus_per_node = 4
overheads = false
intra_node = { bandwidth = "12 GB/s", latency = "5 us" }
inter_node = { bandwidth = "25 Gb/s", latency = "30 us" }
"""


@cache
def cells(strategies: tuple[str, ...] = ("sync-ddp",), observed: float = 205.0) -> tuple[Cell, ...]:
    text = TICKET.replace("STRATEGIES", json.dumps(list(strategies))).replace("OBSERVED", str(observed))
    return tuple(make_plan(parse_scenario(text, host(), Path("ticket.toml")), host(), Machine(cores=2)).cells)


def cell_of(strategy: str, gpus: int) -> Cell:
    (found,) = [cell for cell in cells(tuple({"sync-ddp", strategy})) if (cell.strategy, cell.gpus) == (strategy, gpus)]
    return found


def record_of(cell: Cell) -> Record:
    outcome = timing.run_timing(cell, host())
    budget = Budget.of(cell.goal, outcome.facts["num_train"])
    row = identity_row(cell, "env") | outcome_row(cell, outcome, budget) | {"status": "ok", "reason": "", "notes": ""}
    return Record(cell, Status.OK, "done", (), row, {})


def store(root: Path, records: list[Record]) -> Path:
    stored = Results(root / "results" / "ticket")
    stored.write_plan(Plan("ticket", "", Machine(cores=2), tuple(record.cell for record in records)))
    for record in records:
        stored.write_record(record, {})
    return root


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(store(tmp_path, [record_of(cell) for cell in cells()]))
    return tmp_path


def shown(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["show", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


# -- what if -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gpus", [4, 16])
def test_a_layouts_step_is_the_one_that_step_cost_tells(gpus):
    cell = cell_of("sync-ddp", gpus)
    layout = host().strategies["sync-ddp"]().layout(gpus)
    profile, cluster = find.profile_of(cell), find.cluster_of(cell)
    expected = step_cost(profile, cluster, layout, 256, cell.micro_batch_size).total_s
    expected += optimizer_s(profile, cluster, layout)
    assert whatif.what_if(cell, host()).step_s({}) == pytest.approx(expected)


@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps", "async-ps", "local-sgd"])
def test_a_step_is_as_long_as_a_whole_cell_records_it(strategy):
    cell = cell_of(strategy, 16)
    row = record_of(replace(cell, goal=replace(cell.goal, max_steps=400 if strategy == "async-ps" else 48))).row
    recorded = cell.global_batch_size / row["throughput_samples_per_s"]
    assert whatif.what_if(cell, host()).step_s({}) == pytest.approx(recorded, rel=0.1)


@pytest.mark.parametrize("strategy", ["sync-ddp", "sync-ps", "async-ps", "local-sgd"])
def test_no_figure_makes_a_step_shorter_by_getting_worse(strategy):
    known = whatif.what_if(cell_of(strategy, 16), host())
    for key, value in known.configured.items():
        values = (0.0, 0.2, 0.6) if key == whatif.JITTER else [value + k * 2e-4 for k in range(3)]
        if key.endswith("bandwidth") or key == whatif.SPEED:
            values = [value, value / 2, value / 8]
        seconds = [known.step_s({key: changed}) for changed in values]
        assert all(later >= earlier * (1 - 1e-9) for earlier, later in itertools.pairwise(seconds)), key
        assert seconds[0] == pytest.approx(known.step_s({})), key


def test_what_does_not_exist_cannot_be_changed():
    assert set(whatif.what_if(cell_of("sync-ddp", 4), host()).configured) == {
        f"{whatif.BUS}.bandwidth",
        f"{whatif.BUS}.latency",
        whatif.SPEED,
        whatif.JITTER,
    }
    several = whatif.what_if(cell_of("async-ps", 16), host()).configured
    assert {f"{whatif.NODES}.bandwidth", whatif.SERVER} <= set(several)
    assert whatif.JITTER not in several  # who waits for nobody loses nothing by it


@pytest.mark.parametrize("strategy", ["sync-ddp", "async-ps"])
def test_a_cluster_with_another_link_is_found_out(strategy):
    """A cell that ran with 14 Gb/s, explained by one that believes in 25."""
    cell = cell_of(strategy, 16)
    slow = replace(cell, cluster=replace(cell.cluster, inter_node=GivenLink(30e-6, 14 * GIGABIT)))
    observed = whatif.what_if(slow, host()).step_s({})
    known = whatif.what_if(cell, host())
    found = {a.key: a for a in explain_difference(known.step_s, known.configured, observed, samples=256)}
    assert found[f"{whatif.NODES}.bandwidth"].value == pytest.approx(14 * GIGABIT, rel=1e-3)
    assert "14 Gb/s between nodes would explain " in found[f"{whatif.NODES}.bandwidth"].sentence


# -- a folder ----------------------------------------------------------------------------------------------------------


def test_observed_stands_beside_predicted_with_what_would_account_for_it(results):
    text = shown("ticket")
    assert "Predicted and observed elsewhere:" in text
    assert "205 samples/s (the ticket)" in text
    assert "What could explain 205 samples/s for sync-ddp on 16 simulated GPUs, global batch 256, each alone:" in text
    assert " between nodes would explain 205 samples/s (configured: 25 Gb/s)." in text
    assert "check: each node's negotiated rate (ethtool)" in text


def test_what_lies_inside_the_stated_uncertainty_needs_no_account(tmp_path, monkeypatch):
    expected = 256 / whatif.what_if(cell_of("sync-ddp", 16), host()).step_s({})
    monkeypatch.chdir(store(tmp_path, [record_of(cell) for cell in cells(observed=round(0.97 * expected, 1))]))
    text = shown("ticket")
    assert "1 of 1 measurements lie inside the stated uncertainty" in text
    assert "could explain" not in text


def test_why_sixteen_are_hardly_faster_than_four_is_said_unasked(results):
    text = shown("ticket")
    assert "Why sync-ddp is only 1.3x as fast on 16 devices as on 4:" in text
    assert "Each step of 256 samples computes for 308 ms (1.23 s on 4 devices) and spends " in text
    assert "16 devices would be 90 % busy with " in text
    assert "Gb/s between nodes (configured: 25 Gb/s)." in text


def test_markdown_keeps_the_tables_as_they_are(results):
    assert shown("ticket", "--markdown").count("```") == 2


def test_folders_without_anything_to_compare_say_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(store(tmp_path, [record_of(replace(cells()[0], observed=()))]))
    text = shown("ticket")
    assert "redicted" not in text
    assert "Why sync-ddp" not in text


def test_a_strategy_that_is_not_loaded_is_named(tmp_path, monkeypatch):
    records = [record_of(cell) for cell in cells()]
    renamed = [
        replace(r, cell=replace(r.cell, strategy="a-strangers"), row={**r.row, "strategy": "a-strangers"})
        for r in records
    ]
    monkeypatch.chdir(store(tmp_path, renamed))
    text = shown("ticket")
    assert "a-strangers is in no loaded plugin. Load it with --plugins." in text
    assert "Each step of 256 samples computes for" in text  # what rows alone tell is said all the same


# -- two cells ---------------------------------------------------------------------------------------------------------


def test_two_cells_stand_side_by_side(results):
    few, many = (cell.cell_id for cell in cells())
    text = shown(few, many)
    assert few in text
    assert many in text
    assert "part of a step" in text
    assert "omputing saves 923 ms (308 ms against 1.23 s)" in text
    assert "16 devices would be 90 % busy with " in text


def test_a_real_cell_and_its_twin_are_explained_by_one_figure(tmp_path, monkeypatch):
    """The real one is a simulated one with 14 Gb/s under another name: that is what the explanation must find."""
    virtual = record_of(cell_of("sync-ddp", 16))
    cluster = replace(virtual.cell.cluster, inter_node=GivenLink(30e-6, 14 * GIGABIT))
    slow = record_of(replace(virtual.cell, cluster=cluster, cell_id="real-cell"))
    real = replace(
        slow, cell=replace(slow.cell, engine="real"), row={**slow.row, "engine": "real", "cell_id": "real-cell"}
    )
    monkeypatch.chdir(store(tmp_path, [virtual, real]))
    for names in ((virtual.cell.cell_id, "real-cell"), ("real-cell", virtual.cell.cell_id)):
        text = shown(*names)
        assert "Most of the difference is communication" in text
        first = text.split("each alone:\n")[1].splitlines()[0]
        assert first.startswith("  14 Gb/s between nodes would explain ")
        assert first.endswith(" (configured: 25 Gb/s).")
    folder = shown("ticket")
    assert "Predicted and measured:" in folder
    assert f"harness show {virtual.cell.cell_id} real-cell" in folder


@pytest.mark.parametrize("names", [("nothing", "here"), ("one", "two", "three")])
def test_names_that_do_not_fit_are_refused(results, names):
    done = CliRunner().invoke(main, ["show", *names])
    assert done.exit_code == 2
    assert "no finished cell" in done.output or "two cells" in done.output


def test_showing_and_explaining_imports_neither_torch_nor_pandas(results):
    few, many = (cell.cell_id for cell in cells())
    code = (
        "import sys\nfrom harness.commands.cli import main\n"
        "for arguments in (['show', 'ticket'], ['show', sys.argv[1], sys.argv[2]]):\n"
        "    try:\n        main(arguments, prog_name='harness')\n"
        "    except SystemExit as end:\n        assert not end.code, end.code\n"
        "print([name for name in ('torch', 'pandas') if name in sys.modules])\n"
    )
    done: Any = subprocess.run(
        [sys.executable, "-c", code, few, many], cwd=results, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"


# -- the report --------------------------------------------------------------------------------------------------------


def report_of(folder: Path) -> str:
    out = write_report([Results(folder)], folder / "report.html", what_if=simulator())
    return out.read_text(encoding="utf-8")


def test_the_report_shows_what_show_prints(results):
    page = report_of(results / "results" / "ticket")
    assert "<h2>Predicted and observed, in numbers</h2>" in page
    assert "205 samples/s (the ticket)" in page
    assert "<h2>Why more devices help little</h2>" in page
    assert "Each step of 256 samples computes for 308 ms (1.23 s on 4 devices)" in page
    assert not re.search(r"[a-z)]\.\.(?!\.)", page.partition("<h1")[2])  # no sentence ends twice
    assert "<b>What if:</b> " in page
    assert "Gb/s (configured: " in page
    assert "Predicted and measured, in numbers" not in page


def test_the_report_sets_twins_side_by_side(tmp_path):
    virtual = record_of(cell_of("sync-ddp", 16))
    row = {**virtual.row, "engine": "real", "cell_id": "real-cell", "step_time_s": 2 * virtual.row["step_time_s"]}
    real = replace(virtual, cell=replace(virtual.cell, engine="real", cell_id="real-cell", observed=()), row=row)
    folder = store(tmp_path, [virtual, real]) / "results" / "ticket"
    page = report_of(folder)
    table = page.split("<h2>Predicted and measured, in numbers</h2>")[1].split("</section>")[0]
    assert "step time: median error 50.0 %, worst 50.0 % (1 point); 0 of 1 measurements lie inside" in table
    assert "-50.0 %" in table
    assert "<td>no</td>" in table
