"""What the harness costs: its throughput as a ratio to what people write without it, in one interleaved run.

    python benchmarks/overhead.py [--rounds 7] [--steps 400] [--only compiled]

Prints the median ratio with the lowest and highest of all rounds; single timings on a shared machine mean nothing.
Compiled steps are compared with eager ones of the same cell; what compiling takes is no part of either.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
HERE = Path(__file__).resolve().parent

SCENARIO = """
engine = "{engine}"
[workload]
model = "{model}"
dataset = {dataset}
step = "{step}"
[sweep]
strategy = ["{strategy}"]
global_batch_size = [64]
learning_rate = [0.05]
gpus = [{gpus}]
[goal]
target_accuracy = "none"
max_steps = {steps}
[cluster]
device = {{ samples_per_second = 20000, batch_size = 64 }}
inter_node = {{ bandwidth = "1 GB/s", latency = "50 us" }}
"""


def dataset() -> str:
    """MNIST where it is, else as many pictures of the same size."""
    folder = Path(os.environ.get("HARNESS_DATA", "")) / "mnist"
    return '"mnist"' if folder.is_dir() else '{ name = "synthetic", samples = 60000 }'


@cache
def host() -> Any:
    from harness.api.host import load_host

    return load_host()


def cell(strategy: str, gpus: int, steps: int, engine: str, model: str = "lenet5", step: str = "eager") -> Any:
    from harness.core.machine import Machine
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    point = {"strategy": strategy, "gpus": gpus, "steps": steps, "engine": engine, "model": model, "step": step}
    text = SCENARIO.format(**point, dataset=dataset())
    return make_plan(parse_scenario(text, host(), Path("bench.toml")), host(), Machine(cores=64)).cells[0]


def prepared_data() -> Any:
    """The tensors that every contestant trains on."""
    from harness.engines.shared.setup import make_setup

    return make_setup(cell("single", 1, 1, "real")).data


def raw_pictures() -> Any:
    """The same pictures as bytes, before any transformation."""
    import torch

    made = cell("single", 1, 1, "real")
    entry = host().datasets[made.workload.dataset.name]
    raw = entry.load(entry.Options(**made.workload.dataset.options))
    images = raw.train_inputs.reshape(
        len(raw.train_inputs), *raw.train_inputs.shape[-2:]
    )  # synthetic ones have a channel
    return torch.from_numpy(images), torch.from_numpy(raw.train_targets)


def harness(
    strategy: str, gpus: int, steps: int, engine: str = "real", model: str = "lenet5", step: str = "eager"
) -> tuple[float, float]:
    """Return samples per second, and seconds outside training and evaluation."""
    from harness.analysis.cell_row import speed_row
    from harness.engines.processes.launch import run_cell

    made = cell(strategy, gpus, steps, engine, model, step)
    began = time.perf_counter()
    result = run_cell(made)
    wall = time.perf_counter() - began
    assert result.finished, result.reason
    outcome = result.outcome
    if engine == "virtual":
        return outcome.samples / outcome.facts["host_s"], 0.0
    speed = speed_row(made, outcome)["throughput_samples_per_s"]
    return speed, wall - outcome.training_s - outcome.evaluation_s


def without(kind: str, steps: int) -> float:
    """Return samples per second of a plain script in a process of its own."""
    script = [str(HERE / "plain.py"), kind, str(steps)]
    command = [sys.executable, *script]
    if kind == "ddp":
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", *script]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=HERE)
    found = re.search(r"samples_per_s ([\d.e+]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found.group(1))


def report(name: str, ratios: list[float], aim: float | None = None) -> None:
    middle = statistics.median(ratios)
    verdict = "" if aim is None else f"; aim {aim}) {'ok' if middle >= aim else 'MISSED'}"
    low, high = min(ratios), max(ratios)
    print(f"{name:<52} {middle:6.3f}  ({low:.3f} to {high:.3f}, n = {len(ratios)}{verdict or ')'}", flush=True)


def compiled(rounds: int, steps: int) -> None:
    """Compare compiled steps with eager ones; the first compiled cell fills torch's cache for the others."""
    for model in ("lenet5", "mlp"):
        harness("single", 1, 10, model=model, step="compiled")
        ratios = []
        for _ in range(rounds):
            before = harness("single", 1, steps, model=model)[0]
            ours = harness("single", 1, steps, model=model, step="compiled")[0]
            ratios.append(2 * ours / (before + harness("single", 1, steps, model=model)[0]))
        report(f"{model}: compiled / eager", ratios)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--only", choices=["compiled"])
    chosen = parser.parse_args()
    if chosen.only:
        return compiled(chosen.rounds, chosen.steps)
    found: dict[str, list[float]] = {}

    def add(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)

    harness("single", 1, 10)  # starts the fork server
    for _ in range(chosen.rounds):
        # Every contestant stands between two runs of its yardstick, so that a drifting machine favours neither.
        before = without("plain", chosen.steps)
        ours, outside = harness("single", 1, chosen.steps)
        alone = harness("single", 1, chosen.steps, "virtual")[0]
        many = harness("async-ps", 64, chosen.steps, "virtual")[0]
        plain = (before + without("plain", chosen.steps)) / 2
        add("single / plain loop", ours / plain)
        add("virtual single / plain loop", alone / plain)
        add("64 virtual workers / plain loop", many / plain)
        add("outside", outside)
        add("single / DataLoader script", harness("single", 1, chosen.steps)[0] / without("dataloader", chosen.steps))
        before = without("ddp", chosen.steps)
        ours = harness("sync-ddp", 2, chosen.steps)[0]
        add("sync-ddp 2 / torchrun DDP", 2 * ours / (before + without("ddp", chosen.steps)))
    aims = {
        "single / plain loop": 0.97,
        "single / DataLoader script": 1.2,
        "sync-ddp 2 / torchrun DDP": 0.95,
        "virtual single / plain loop": 0.95,
        "64 virtual workers / plain loop": 0.8,
    }
    for name, aim in aims.items():
        report(name, found[name], aim)
    print(
        f"seconds of a cell outside training and evaluation: median {statistics.median(found['outside']):.2f} (aim < 1)"
    )
    compiled(chosen.rounds, chosen.steps)


if __name__ == "__main__":
    main()
