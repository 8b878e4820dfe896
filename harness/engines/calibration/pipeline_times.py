"""What torch's pipelining runtime adds to every pass of a micro-batch through a stage."""

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
schedule = ["naive"]
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


def pipeline_overhead(machine: Machine, threads: int, message_s: float) -> float:
    """Return the seconds added to every pass through a stage.

    With two stages a further micro-batch costs the naive schedule four passes and two messages, one after another.
    Other schedules are no measure of it, since both processes wake each other all the time: 1f1b took 0.4 to 1.3 ms
    where naive took 0.6 to 0.75 (2 EPYC cores, torch 2.13).

    Args:
        message_s: of a few bytes between two processes.

    Raises:
        MachineError: a cell that is measured did not finish.
    """
    profile = measure_profile(_cell(machine, threads, FEW))
    compute, read = profile.gradient_s(MICRO_BATCH), profile.input.at(MICRO_BATCH)
    naive = statistics.median(_slope(machine, threads) for _ in range(ROUNDS))
    return max(0.0, naive - read - compute - 2 * message_s) / 4


def _slope(machine: Machine, threads: int) -> float:
    """Return what a further micro-batch adds to a step of the naive schedule."""
    few, many = (_step_s(_cell(machine, threads, count)) for count in (FEW, MANY))
    return max(0.0, many - few) / (MANY - FEW)


def _cell(machine: Machine, threads: int, count: int) -> Cell:
    from harness.api.host import load_host
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    host = load_host()
    text = SCENARIO.format(threads=threads, width=WIDTH, micro=MICRO_BATCH, batch=MICRO_BATCH * count, steps=STEPS)
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
