"""What torch's pipelining runtime adds to every pass of a micro-batch and to every hop between stages."""

from __future__ import annotations

import itertools
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import MachineError
from harness.core.machine import Machine
from harness.engines.calibration.workload_times import measure_profile
from harness.engines.processes.launch import run_cell

if TYPE_CHECKING:
    from harness.core.cell import Cell

SCENARIO = """
engine = "real"
device = "cpu"
threads_per_device = {threads}
[workload]
model = {{ name = "mlp", hidden = [{width}, {width}] }}
dataset = {{ name = "synthetic", samples = 1024, size = 8 }}
[sweep]
strategy = ["model-split"]
global_batch_size = [{batch}]
micro_batch_size = {micro}
learning_rate = [0.01]
gpus = [2]
[strategy.model-split]
schedule = ["{schedule}"]
placement = [["flatten", "linear1", "activation1"], ["linear2", "activation2", "classifier"]]
[goal]
target_accuracy = "none"
max_steps = {steps}
"""
"""A network so small that what is left of a step is the runtime itself."""

WIDTH, MICRO_BATCH = 16, 8
"""Of the network: hardly any computing; chosen."""

STEPS = 40
"""Chosen: half a second of the longest of these cells."""

ROUNDS = 3
"""Times that all cells run; chosen: the median of three leaves out one that others disturbed."""

FEW, MANY = 2, 8
"""Micro-batches; chosen: their difference leaves out what a step adds however many there are."""


def pipeline_overhead(machine: Machine, threads: int) -> tuple[float, list[tuple[int, float]]]:
    """Return the seconds added to every pass through a stage, and those of a hop, by its bytes.

    With two stages a further micro-batch costs the naive schedule four passes and two hops, and 1f1b two passes.

    Raises:
        MachineError: a cell that is measured did not finish.
    """
    profile = measure_profile(_cell("1f1b", machine, threads, FEW))
    compute, read = profile.gradient_s(MICRO_BATCH), profile.input.at(MICRO_BATCH)
    rounds = [_slopes(machine, threads) for _ in range(ROUNDS)]
    filled, naive = (statistics.median(found) for found in zip(*rounds, strict=True))
    action = max(0.0, (filled - read - compute / 2) / 2)
    hop = max(0.0, (naive - read - compute - 4 * action) / 2)
    return action, [(4 * WIDTH * MICRO_BATCH, float(hop))]


def _slopes(machine: Machine, threads: int) -> tuple[float, float]:
    """Return what a further micro-batch adds to a step of 1f1b, and of the naive schedule."""
    filled, naive = (
        [_step_s(_cell(schedule, machine, threads, count)) for count in (FEW, MANY)] for schedule in ("1f1b", "naive")
    )
    return max(0.0, filled[1] - filled[0]) / (MANY - FEW), max(0.0, naive[1] - naive[0]) / (MANY - FEW)


def _cell(schedule: str, machine: Machine, threads: int, count: int) -> Cell:
    from harness.api.host import load_host
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    host = load_host()
    text = SCENARIO.format(
        schedule=schedule, threads=threads, width=WIDTH, micro=MICRO_BATCH, batch=MICRO_BATCH * count, steps=STEPS
    )
    (cell,) = make_plan(parse_scenario(text, host, Path("calibrate.toml")), host, machine).cells
    return replace(cell, measure=replace(cell.measure, warmup_steps=5))


def _step_s(cell: Cell) -> float:
    """Run a cell for real and return its median step.

    Raises:
        MachineError: it did not finish.
    """
    result: Any = run_cell(cell)
    if not result.finished:
        raise MachineError(f"calibrating pipelines: {result.status}, {result.reason}")
    starts = [
        start
        for start, device in zip(result.outcome.steps["start_s"], result.outcome.steps["device"], strict=True)
        if device == 0
    ]
    return float(statistics.median(b - a for a, b in itertools.pairwise(starts[5:])))
