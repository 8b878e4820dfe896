"""Predicted against measured step time: six strategies, three workloads, one and two processes on this machine.

    python benchmarks/predicted.py [--rounds 3] [--fresh]

Inputs of the predictions are the profile of `single` beside busy neighbours and `harness calibrate`, nothing else; both
are measured before the first round where they are not stored (--fresh: in any case). Then all cells run for real, round
after round, so that a drifting machine favours none of them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")

SCENARIO = """
engine = "{engine}"
device = "cpu"
[workload]
model = "{model}"
dataset = {{ name = "synthetic", samples = 4096, channels = {channels}, size = 32 }}
[sweep]
strategy = ["{strategy}"]
global_batch_size = [{batch}]
micro_batch_size = {micro}
learning_rate = [0.01]
gpus = [{gpus}]
[goal]
target_accuracy = "none"
max_steps = {steps}
"""

WINDOW = 8
"""Steps that one time is the mean of: local-sgd exchanges in every eighth step, and a step is no smaller unit there."""

WARM_STEPS = 8
"""Left out at the start: first touches of memory, first messages."""


class Workload(NamedTuple):
    """What is trained, and how long."""

    model: str
    channels: int
    batch: int
    steps: int


WORKLOADS = (Workload("lenet5", 1, 64, 168), Workload("mlp", 1, 64, 328), Workload("resnet18", 3, 16, 24))
STRATEGIES = ("single", "sync-ddp", "sync-ps", "async-ps", "local-sgd", "model-split")
MICRO_BATCHES = 4
"""Of model-split; the other strategies pass their batch at once."""


class Case(NamedTuple):
    """One row of the table."""

    workload: Workload
    strategy: str
    gpus: int

    @property
    def name(self) -> str:
        """Say which it is."""
        return f"{self.workload.model:<9} {self.strategy:<12} {self.gpus}"


def cases() -> list[Case]:
    """Return all combinations that are possible."""
    impossible = {("single", 2), ("model-split", 1)}
    every = itertools.product(WORKLOADS, STRATEGIES, (1, 2))
    return [Case(*case) for case in every if case[1:] not in impossible]


def cell_of(case: Case, engine: str) -> Any:
    """Return the cell of a case."""
    from harness.api.host import load_host
    from harness.core.machine import detect_machine
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    work, host = case.workload, load_host()
    per_rank = work.batch // case.gpus if case.strategy in ("sync-ddp", "sync-ps", "local-sgd") else work.batch
    micro = work.batch // MICRO_BATCHES if case.strategy == "model-split" else per_rank
    # An asynchronous server counts every worker's gradients as steps.
    work = work._replace(steps=work.steps * (case.gpus if case.strategy == "async-ps" else 1))
    text = SCENARIO.format(**work._asdict(), engine=engine, strategy=case.strategy, micro=micro, gpus=case.gpus)
    (cell,) = make_plan(parse_scenario(text, host, Path("predicted.toml")), host, detect_machine()).cells
    return cell


def step_time_s(outcome: Any) -> float:
    """Return the median over windows of the mean step of the first device; the same for both engines."""
    rows = zip(*(outcome.steps[key] for key in ("start_s", "worker", "device")), strict=True)
    starts = sorted(start for start, worker, device in rows if worker == device == 0)[WARM_STEPS:]
    return statistics.median((b - a) / WINDOW for a, b in zip(starts, starts[WINDOW:], strict=False))


def prepare() -> None:
    """Calibrate, and measure the profiles that are missing."""
    from harness.core.machine import detect_machine
    from harness.costs.cells.measured import load_cluster
    from harness.engines.calibration.link_times import calibrate
    from harness.engines.calibration.workload_times import ensure_profiles

    if load_cluster("cpu", 1) is None:
        calibrate(detect_machine(), "cpu", 1, print)
    ensure_profiles([cell_of(case, "virtual") for case in cases()], [], print)


def predicted_s(case: Case) -> float:
    """Return the step time of the virtual twin; its program runs with sizes in place of numbers."""
    from harness.api.host import load_host
    from harness.engines.virtual.timing import run_timing

    return step_time_s(run_timing(cell_of(case, "virtual"), load_host()))


def measured_s(case: Case) -> float:
    """Return the step time of a real run."""
    from harness.engines.processes.launch import run_cell

    result = run_cell(cell_of(case, "real"))
    assert result.finished, f"{case.name}: {result.reason}"
    return step_time_s(result.outcome)


# -- what came out -----------------------------------------------------------------------------------------------------


def report(predicted: dict[Case, float], measured: dict[Case, list[float]]) -> None:
    """Print a row for each case, the median error, and whether ranks are right."""
    heads = ("measured", "low", "high", "predicted")
    print(f"\n{'milliseconds of a step':<27}", "".join(f"{head:>10}" for head in heads), f"{'error':>8}")
    errors = []
    for case, seconds in measured.items():
        middle = statistics.median(seconds)
        errors.append(predicted[case] / middle - 1)
        figures = [1e3 * x for x in (middle, min(seconds), max(seconds), predicted[case])]
        print(f"{case.name:<27}", "".join(f"{x:>10.3f}" for x in figures), f"{100 * errors[-1]:>+8.1f} %")
    sizes = [abs(error) for error in errors]
    print(
        f"\nmedian error {100 * statistics.median(sizes):.1f} % (aim 15), mean {100 * statistics.fmean(sizes):.1f} %,"
    )
    print(f"bias {100 * statistics.median(errors):+.1f} %, worst {100 * max(sizes):.1f} %, {len(sizes)} cases")
    wrong, decided = wrong_pairs(predicted, measured)
    print(f"order: {decided - len(wrong)} of {decided} pairs whose measured intervals do not overlap are right")
    for first, second in wrong:
        print(f"  wrong: {first.name} is faster than {second.name}")


def wrong_pairs(predicted: dict[Case, float], measured: dict[Case, list[float]]) -> tuple[list[tuple[Case, Case]], int]:
    """Return pairs (faster, slower) of one workload that are predicted the other way round, and how many there are."""
    wrong, decided = [], 0
    for first, second in itertools.permutations(measured, 2):
        if first.workload != second.workload or max(measured[first]) >= min(measured[second]):
            continue
        decided += 1
        if predicted[first] >= predicted[second]:
            wrong.append((first, second))
    return wrong, decided


def main(arguments: Sequence[str] | None = None) -> None:
    """Predict, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--fresh", action="store_true", help="measure profiles and links anew, and keep nothing")
    parser.add_argument("--models", nargs="*", default=[work.model for work in WORKLOADS])
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.fresh:
            os.environ["HARNESS_CACHE"] = folder
        prepare()
        rows = [case for case in cases() if case.workload.model in chosen.models]
        predicted = {case: predicted_s(case) for case in rows}
        measured: dict[Case, list[float]] = {case: [] for case in rows}
        for number in range(chosen.rounds):
            for case in rows:
                measured[case].append(measured_s(case))
            print(f"round {number + 1} of {chosen.rounds} done", flush=True)
        report(predicted, measured)


if __name__ == "__main__":
    main()
