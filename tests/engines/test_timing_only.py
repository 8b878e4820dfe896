"""Timing-only cells: programs run with sizes in place of numbers, and the clock must not notice."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cells import host, make_cell, make_cells
from lazy import lazy

from harness.analysis.cell_row import outcome_row
from harness.analysis.points import number
from harness.commands.rounds import run_cells
from harness.core.budget import Budget
from harness.core.errors import Impossible
from harness.costs.cells import find
from harness.costs.memory.fit import memory_of, memory_verdict, placement_of
from harness.engines.calibration.trace_in_child import find_or_trace
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.prices import Costs
from harness.results.store import Results
from harness.scenario.plan import Machine, make_plan
from harness.scenario.read import parse_scenario

virtual_engine = lazy("harness.engines.virtual.engine")
timing = lazy("harness.engines.virtual.timing")

FIGURES = {"samples_per_second": 2000, "batch_size": 32}
CLUSTER = {"device": FIGURES, "inter_node": {"bandwidth": "1 GB/s", "latency": "30 us"}}
CLOCKED = (
    "worker",
    "step",
    "start_s",
    "compute_s",
    "communication_s",
    "idle_s",
    "samples",
    "base_version",
    "staleness",
)
READS_NUMBERS = '''
from harness import Strategy, hookimpl


class Reader(Strategy):
    """Plain training that looks at its gradient."""

    name = "reader"

    async def work(self, worker):
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            worker.record(largest=float(gradient.tensor().abs().max()))
            await worker.apply(gradient)


@hookimpl
def harness_strategies():
    return [Reader]
'''


def cell_of(strategy: str, gpus: int, **changes: object):
    return make_cell(
        **{
            "engine": "virtual",
            "workload__model": "mlp",
            "sweep": {"strategy": strategy, "gpus": gpus, "global_batch_size": 32, "learning_rate": 0.01},
            "goal": {"target_accuracy": "none", "max_steps": 20},
            "cluster": CLUSTER,
            **changes,
        }
    )


@pytest.mark.parametrize("strategy", ["sync-ps", "async-ps", "local-sgd", "sync-ddp", "fsdp"])
def test_a_program_takes_the_same_time_with_sizes_as_with_numbers(strategy):
    cell = cell_of(strategy, 4)
    assert cell.timing_only
    shape = find_or_trace(cell, host(), ())
    timed = timing.run_timing(cell, host(), shape)
    costs = Costs(find.profile_of(cell, shape), find.cluster_of(cell))
    computed = virtual_engine.run_virtual(make_setup(cell), costs=costs)
    for column in CLOCKED:
        assert timed.steps[column] == computed.steps[column], column
    assert timed.updates_log == computed.updates_log
    assert timed.training_s == computed.training_s
    assert timed.bytes_sent_per_step == computed.bytes_sent_per_step


GIVEN_PIPELINE = {
    "workload": {"model": {"parameters": "1 B", "layers": 24, "hidden": 1792, "heads": 28, "sequence": 1024}},
    "sweep": {"strategy": "model-split", "gpus": 4, "global_batch_size": 64, "micro_batch_size": 4},
    "goal": {"max_steps": 3},
    "cluster": {"preset": "workstation-4xa100"},
}


def test_stragglers_slow_a_timing_only_pipeline_by_its_stage():
    seconds = []
    for slowdown in (1.0, 2.0):
        faults = {"stragglers": [{"rank": 1, "slowdown": slowdown}]} if slowdown > 1 else {}
        (cell,) = make_cells(**GIVEN_PIPELINE, faults=faults)
        seconds.append(timing.run_timing(cell, host()).training_s)
    assert 1.3 < seconds[1] / seconds[0] < 2.0  # the slow stage sets the pace; filling and draining wait less


@pytest.mark.parametrize("dram", ["30 GB", "60 GB"])
def test_one_cut_decides_what_a_pipeline_needs_and_what_it_takes(dram):
    (cell,) = make_cells(**GIVEN_PIPELINE, limits={"dram": dram})
    shape = find.given_shape(cell)
    assert memory_verdict(cell, host(), shape) is None
    outcome = timing.run_timing(cell, host())
    estimate = memory_of(cell, host(), shape, outcome.facts["placement"])
    assert estimate.fullest.total_bytes <= cell.dram_bytes
    assert outcome.facts["placement"] == placement_of(cell, host(), shape)


def test_named_stages_that_are_not_the_layers_are_refused():
    names = {"strategy__model-split": {"placement": [["a"], ["b"], ["c"], ["d"]]}}
    (cell,) = make_cells(**GIVEN_PIPELINE, **names)
    with pytest.raises(Impossible, match="placement names a, b, c, d, which is no part of the model"):
        timing.run_timing(cell, host())


def test_a_timing_only_cell_is_deterministic_to_the_bit():
    cell = cell_of("async-ps", 8)
    shape = find_or_trace(cell, host(), ())
    first, second = (timing.run_timing(cell, host(), shape) for _ in range(2))
    assert first.steps == second.steps
    assert first.updates_log == second.updates_log


def test_only_simulated_cells_that_nobody_evaluates_are_timing_only():
    assert not cell_of("single", 1, engine="real").timing_only
    assert not cell_of("single", 1, goal={"max_steps": 20, "evaluate_every": 64}).timing_only


def test_copies_of_a_layout_are_one_worker_whose_cost_does_not_grow():
    few, many = (
        cell_of("sync-ddp", gpus, sweep={"strategy": "sync-ddp", "gpus": gpus, "batch_size": 8}) for gpus in (2, 65536)
    )
    shape = find_or_trace(few, host(), ())
    outcomes = [timing.run_timing(cell, host(), shape) for cell in (few, many)]
    rows = [
        outcome_row(cell, outcome, Budget.of(cell.goal, outcome.facts["num_train"]))
        for cell, outcome in zip((few, many), outcomes, strict=True)
    ]
    assert len(outcomes[1].steps["step"]) == len(outcomes[0].steps["step"]) == 20
    assert number(rows[1], "throughput_samples_per_s") > number(rows[0], "throughput_samples_per_s")
    for row in rows:
        parts = sum(row[part] for part in ("input_s", "compute_s", "communication_s", "idle_s", "other_s"))
        assert parts == pytest.approx(row["wall_s"], rel=1e-9)


class Silent:
    """Progress that nobody watches."""

    def started(self, *_: object) -> None: ...

    def reached(self, *_: object) -> None: ...

    def finished(self, *_: object) -> None: ...

    def elsewhere(self, *_: object) -> None: ...

    def waiting(self, *_: object) -> None: ...

    def round_ended(self, *_: object) -> None: ...


def test_a_program_that_reads_numbers_is_computed_instead(tmp_path):
    plugin = tmp_path / "reader.py"
    plugin.write_text(READS_NUMBERS)
    plugins = (str(plugin),)
    (cell,) = make_cells(
        plugins=plugins,
        engine="virtual",
        sweep={"strategy": "reader", "gpus": 1, "global_batch_size": 32, "learning_rate": 0.01},
        goal={"target_accuracy": "none", "max_steps": 3},
        cluster=CLUSTER,
    )
    scenario = parse_scenario('[sweep]\nstrategy = ["single"]\n', host(), Path("x.toml"))
    plan = make_plan(scenario, host(), Machine(cores=2))
    results = Results(tmp_path / "results")
    summary = run_cells(plan, [cell], results, host(plugins), plugins, Silent())
    assert [record.status for record in summary.ran] == ["ok"]
    assert summary.ran[0].row["x_largest"] > 0


def test_ticket_is_answered_without_torch(tmp_path):
    code = (
        "import sys; sys.argv = ['harness', 'run', 'ticket']\n"
        "from harness.commands import run\n"
        "run.write_report_of = lambda *_: 'not drawn'\n"
        "from harness.commands.cli import main\n"
        "try: main()\n"
        "finally: print('torch' in sys.modules, 'simpy' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert "Gb/s between nodes would explain 205 samples/s (configured: 25 Gb/s)." in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "False True"
