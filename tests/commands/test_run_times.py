"""What a plan foretells of its runs on this machine, what it rests on, and why of some cells nothing is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import host, make_cells
from click.testing import CliRunner
from recorded import record_of

from harness.commands.cli import main
from harness.commands.plan_text import describe
from harness.commands.run_times import RunTimes, TimedBy, run_times, time_left
from harness.core.cell import Cell, Plan
from harness.core.environment import describe_environment
from harness.core.machine import Machine
from harness.costs.cells import keep_step
from harness.costs.cells.measured import MeasuredStep, sizes_of
from harness.costs.profiles.shape import LayerShape, ModelShape
from harness.results.store import Record, Results

MACHINE = Machine(cores=2)
HERE = describe_environment(MACHINE)

SCENARIO = """\
engine = "virtual"
[workload]
model = { name = "parameters", parameters = 1_000_000, layers = 2 }
[sweep]
strategy = ["single", "sync-ddp"]
gpus = [1, 2]
[goal]
max_steps = 4
[cluster]
device = { samples_per_second = 1000, batch_size = 32 }
inter_node = { bandwidth = "1 GB/s", latency = "50 us" }
"""


@pytest.fixture(autouse=True)
def _nothing_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def planned(**changes: Any) -> Plan:
    given = {"engine": "real", "cluster": {}, "sweep__strategy": ["single"], "sweep__seeds": 3} | changes
    return Plan("s", "", MACHINE, tuple(make_cells(**given)))


def ran(results: Results, cell: Cell, took_s: float | None, **changes: Any) -> None:
    record: Record = replace(record_of(cell), environment=HERE, took_s=took_s)
    record = replace(record, **changes)
    results.write_record(replace(record, row=record.row | {"status": record.status}), {})


def times(plan: Plan, results: Results) -> RunTimes:
    return run_times(plan, results, results.records_of(plan.cells), host())


def test_other_seeds_of_a_point_foretell_it() -> None:
    plan, results = planned(), Results(Path("r"))
    ran(results, plan.cells[0], 4.0)
    found = times(plan, results)
    assert {(time.seconds, time.origin) for time in found.known.values()} == {(4.0, TimedBy.SEEDS)}
    left = time_left(plan.cells[1:], found)
    assert (left.cells, left.known, left.seconds) == (2, 2, 8.0)
    text = describe(plan, host(), [plan.cells[0].cell_id], times=found)
    assert "2 cells left to run: about 8.00 s" in text
    assert "as other seeds of the same point took here" in text


def test_the_same_at_another_rate_foretells_what_has_not_run() -> None:
    plan, results = planned(sweep__learning_rate=[0.1, 0.2]), Results(Path("r"))
    first = next(cell for cell in plan.cells if cell.learning_rate == 0.1)
    ran(results, first, 4.0)
    origins = {cell.learning_rate: times(plan, results).known[cell.cell_id].origin for cell in plan.cells}
    assert origins == {0.1: TimedBy.SEEDS, 0.2: TimedBy.RATES}


def test_cells_of_an_earlier_sweep_of_this_scenario_count() -> None:
    before, results = planned(sweep__learning_rate=[0.3]), Results(Path("r"))
    ran(results, before.cells[0], 4.0)
    plan = planned()
    assert {time.origin for time in times(plan, results).known.values()} == {TimedBy.RATES}


def test_an_older_record_counts_by_its_own_clock_where_that_is_this_machines() -> None:
    plan, results = planned(), Results(Path("r"))
    ran(results, plan.cells[0], None)
    assert {time.seconds for time in times(plan, results).known.values()} == {2.0}
    virtual = planned(engine="virtual", cluster={"device": {"samples_per_second": 1000, "batch_size": 32}})
    ran(results, virtual.cells[0], None)
    assert not times(virtual, results).known


@pytest.mark.parametrize("changes", [{"environment": {**HERE, "id": "elsewhere"}}, {"status": "interrupted"}])
def test_what_ran_elsewhere_or_was_interrupted_foretells_nothing(changes: dict[str, Any]) -> None:
    from harness.core.endings import Status

    given = {key: Status(value) if key == "status" else value for key, value in changes.items()}
    plan, results = planned(), Results(Path("r"))
    ran(results, plan.cells[0], 4.0, **given)
    assert not times(plan, results).known


def measured(cell: Cell, step_s: float) -> None:
    """Keep a step of `cell`'s model as if it had been measured here."""
    shape = ModelShape((LayerShape("layer", (650,)),))
    for size in sizes_of(cell):
        step = MeasuredStep(shape, (step_s / 3,), (2 * step_s / 3,), 0.0, 0.0, 0.0, 0.0, 10, 0.0, 1e9, 0, "a core")
        keep_step(cell, MACHINE, size, step)


def test_where_nothing_ran_a_plan_says_how_to_know_and_a_step_that_was_measured_tells() -> None:
    plan, results = planned(workload={"model": "softmax", "dataset": "digits"}), Results(Path("r"))
    found = times(plan, results)
    assert not found.known
    assert set(found.why_not.values()) == {"none ran here; `harness plan --measure` measures a step"}
    assert "a run here" not in describe(plan, host(), times=found)
    measured(plan.cells[0], 0.01)
    found = times(plan, results)
    updates = round(2 * 1437 * 0.9 / 32)  # two epochs of digits without its validation split
    assert [time.seconds for time in found.known.values()] == pytest.approx([0.01 * updates] * 3, rel=0.02)
    text = describe(plan, host(), times=found)
    assert "up to 2.43 s of steps" in text
    assert "of steps: by the time of a step, measured here; starting and evaluating come on top" in text


def test_every_cell_without_a_time_says_why_once_others_have_one() -> None:
    plan = planned(sweep__strategy=["single", "async-ps"], sweep__gpus=[1, 2])
    results = Results(Path("r"))
    ran(results, plan.cells[0], 4.0)
    text = describe(plan, host(), times=times(plan, results))
    assert "3 of them, of the others it is not known" in text
    assert "not known: async-ps on 1 and 2: none ran here; the first one tells" in text


def harness(*words: str) -> str:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_record_keeps_what_its_cell_took_and_the_next_plan_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.commands.run.write_report_of", lambda results, *_: results.folder / "report.html")
    monkeypatch.setattr("harness.commands.turning_points.flips_of", lambda *_: ())
    Path("s.toml").write_text(SCENARIO)
    assert "left to run" not in harness("plan", "s.toml")
    harness("run", "s.toml")
    took = [json.loads(path.read_text())["took_s"] for path in Path("results/s/cells").glob("*/record.json")]
    assert all(0 < seconds < 60 for seconds in took)
    told = json.loads(harness("plan", "s.toml", "--set", "seeds=2", "--confirm", "--json"))
    assert (told["left_cells"], told["left_known"]) == (3, 3)
    assert told["left_s"] == pytest.approx(sum(took))
    assert {cell["run_s_from"] for cell in told["cells"]} == {"seeds"}
    assert "3 cells left to run: about " in harness("plan", "s.toml", "--set", "seeds=2")


def test_fresh_seeds_are_foretold_at_the_two_longest_points() -> None:
    plan, results = planned(sweep__strategy=["single", "async-ps"], sweep__gpus=[1, 2]), Results(Path("r"))
    first = [cell for cell in plan.cells if cell.seed == 0]
    for place, cell in enumerate(first):
        ran(results, cell, 10.0 * (place + 1))
    text = describe(replace(plan, confirm=3), host(), times=times(plan, results))
    assert "then at most 6 more cells confirm the answer: 3 fresh seeds (1000-1002) of the leader and the" in text
    assert "runner-up, at most 2.50 min" in text


def test_a_cost_says_what_it_is_for() -> None:
    text = describe(planned(engine="virtual", cluster__device="a100", cost={"per_gpu_hour": "2 EUR"}), host())
    assert "cost of a cell" in text


def test_each_prediction_that_is_missing_names_its_cells_and_their_batches() -> None:
    plan = planned(
        engine="virtual",
        cluster={"device": {"samples_per_second": 1000, "batch_size": 32}},
        sweep__strategy=["single", "local-sgd"],
        sweep__gpus=[1, 2],
        sweep__global_batch_size=[16, 32],
    )
    text = describe(plan, host())
    told = "not predicted: local-sgd on 2 (global batch 16 and 32): it depends on how workers communicate; run it"
    assert told in text
