"""How long simulated cells take in timing-only mode, and what share of it is spent outside the cost model.

Run it on an idle machine: python benchmarks/virtual.py
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.api.host import load_host
from harness.core.cell import Cell
from harness.core.machine import Machine
from harness.costs.steps import step_cost
from harness.engines.calibration.trace_in_child import find_or_trace
from harness.engines.virtual import prices as cost
from harness.engines.virtual.timing import run_timing
from harness.scenario.plan import make_plan
from harness.scenario.read import parse_scenario

HOST = load_host(())
MACHINE = Machine(cores=2)
RESNET50 = """
engine = "virtual"
[workload]
model = "resnet50"
dataset = { name = "synthetic", size = 224, channels = 3, classes = 1000 }
[sweep]
strategy = ["sync-ddp"]
batch_size = [64]
gpus = [GPUS]
[goal]
target_accuracy = "none"
[cluster]
preset = "dgx-a100"
"""
PIPELINE = """
[workload]
model = { parameters = "64 B", layers = 64, hidden = 8192, heads = 64, sequence = 2048 }
precision = "bf16"
[sweep]
strategy = ["model-split"]
batch_size = [512]
micro_batch_size = [1]
gpus = [64]
[goal]
max_steps = 60
[cluster]
preset = "dgx-a100"
[limits]
dram = "4 TB"
"""
THOUSAND = """
[workload]
model = { parameters = "335 M", layers = 24, hidden = 1024, heads = 16, sequence = 512 }
[sweep]
strategy = ["sync-ddp"]
global_batch_size = [256, 512, 1024, 2048, 4096]
gpus = [2, 4, 8, 16, 32, 64, 128, 256]
"cluster.inter_node" = [RATES]
[goal]
max_steps = 60
[cluster]
preset = "ethernet-25g-4xa100"
device = { samples_per_second = 52, batch_size = 16 }
"""


@dataclass(frozen=True)
class Case:
    name: str
    scenario: str
    limit_s: float


CASES = (
    Case("sync-ddp of resnet50 on 1,024 GPUs", RESNET50.replace("GPUS", "1024"), 1.0),
    Case("sync-ddp of resnet50 on 65,536 GPUs", RESNET50.replace("GPUS", "65536"), 5.0),
    Case("1f1b of 64 stages, 512 micro-batches", PIPELINE, 2.0),
)


def cells_of(scenario: str) -> Sequence[Cell]:
    return make_plan(parse_scenario(scenario, HOST, Path("benchmark.toml")), HOST, MACHINE).cells


class Clock:
    """Adds up the time that is spent inside a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        try:
            return self.function(*args, **kwargs)
        finally:
            self.seconds += time.perf_counter() - began


def measure(case: Case, repeats: int = 5) -> None:
    (cell,) = cells_of(case.scenario)
    shape = find_or_trace(cell, HOST, ())
    totals, shares = [], []
    for _ in range(repeats):
        model = Clock(step_cost)
        cost.steps.step_cost = model  # type: ignore[assignment]
        began = time.perf_counter()
        try:
            run_timing(cell, HOST, shape)
        finally:
            cost.steps.step_cost = model.function
        totals.append(time.perf_counter() - began)
        shares.append(1 - model.seconds / totals[-1])
    totals.sort()
    verdict = "ok" if totals[repeats // 2] < case.limit_s else "MISSED"
    print(
        f"{case.name}: {totals[repeats // 2]:.3f} s ({totals[0]:.3f} to {totals[-1]:.3f}, n = {repeats}; aim "
        f"{case.limit_s:g} s: {verdict}); outside the model {100 * sorted(shares)[repeats // 2]:.0f} %"
    )


def measure_command(name: str, scenario: str, limit_s: float) -> None:
    """Time `harness run` as a user types it, records and report included."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "benchmark.toml").write_text(scenario)
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "harness", "run", "benchmark.toml"], cwd=folder, capture_output=True, text=True
        )
        seconds = time.perf_counter() - began
    last = next(
        (line for line in done.stdout.splitlines() if line.endswith("kept from earlier runs")), done.stderr[-200:]
    )
    print(f"{name}: {seconds:.1f} s (aim {limit_s:g} s: {'ok' if seconds < limit_s else 'MISSED'}); {last}")


def main() -> None:
    for case in CASES:
        measure(case)
    rates = ", ".join(f'"{4 * k} Gb/s"' for k in range(1, 26))
    measure_command("1,000 timing-only cells, harness run", THOUSAND.replace("RATES", rates), 60.0)


if __name__ == "__main__":
    main()
