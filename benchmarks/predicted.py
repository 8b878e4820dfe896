"""Predicted against measured step time: strategies x workloads x one and two processes of this machine.

    python benchmarks/predicted.py [--set first|other|later] [--rounds 3] [--fresh]

`first` and `other` are cells that the laws were looked at with. `later` are thirty that they never saw: other
strategies, other models, small batches and large. Alone on two cores three rounds of any take about ten minutes, of
which the calibration is two.

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
model = {model}
dataset = {dataset}
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
    """What is trained, and how long.

    Attributes:
        model, dataset: as a scenario names them.
    """

    name: str
    model: str
    dataset: str
    batch: int
    steps: int


def _pictures(size: int, channels: int = 1) -> str:
    return f'{{ name = "synthetic", samples = 4096, channels = {channels}, size = {size} }}'


EVERYWHERE = ("single", "sync-ddp", "sync-ps", "async-ps", "local-sgd", "model-split")
GPT = '{ name = "gpt", layers = 2, hidden = 64, heads = 4, vocabulary = 256, sequence = 64 }'

FIRST = {
    Workload("lenet5", '"lenet5"', _pictures(32), 64, 168): EVERYWHERE,
    Workload("mlp", '"mlp"', _pictures(32), 64, 328): EVERYWHERE,
    Workload("resnet18", '"resnet18"', _pictures(32, 3), 16, 24): EVERYWHERE,
}
"""Workloads with their strategies."""

OTHER = {
    Workload("softmax 512", '"softmax"', _pictures(28), 512, 408): ("single", "sync-ddp", "sync-ps", "async-ps"),
    Workload("mlp 64 x 32", '{ name = "mlp", hidden = [64] }', _pictures(16), 32, 408): (
        *("single", "sync-ddp", "fsdp", "async-ps"),
    ),
    Workload("mlp 1024 x 128", '{ name = "mlp", hidden = [1024, 1024] }', _pictures(28), 128, 88): (
        *("single", "sync-ddp", "fsdp", "sync-ps", "local-sgd", "model-split"),
    ),
    Workload("lenet5 256", '"lenet5"', _pictures(32), 256, 72): ("single", "sync-ddp", "fsdp", "async-ps", "local-sgd"),
    Workload("gpt 16", GPT, '{ name = "tokens", sequence = 64, vocabulary = 256 }', 16, 72): (
        *("single", "sync-ddp", "fsdp", "sync-ps", "local-sgd", "model-split"),
    ),
    Workload("resnet18 4", '"resnet18"', _pictures(32, 3), 4, 40): ("single", "sync-ddp", "fsdp"),
}
DEEP_GPT = '{ name = "gpt", layers = 4, hidden = 128, heads = 4, vocabulary = 256, sequence = 32 }'
LATER = {
    Workload("softmax 64", '"softmax"', _pictures(32, 3), 64, 408): ("single", "sync-ddp", "async-ps", "local-sgd"),
    Workload("mlp 3 x 256", '{ name = "mlp", hidden = [256, 256, 256] }', _pictures(28), 64, 328): (
        *("single", "sync-ddp", "fsdp", "zero-2", "sync-ps", "async-ps", "model-split"),
    ),
    Workload("mlp 2048 x 16", '{ name = "mlp", hidden = [2048] }', _pictures(16), 16, 168): (
        *("single", "sync-ddp", "fsdp", "sync-ps"),
    ),
    Workload("lenet5 32", '"lenet5"', _pictures(28), 32, 168): (
        *("single", "sync-ddp", "zero-2", "sync-ps", "local-sgd", "model-split"),
    ),
    Workload("gpt 8 deep", DEEP_GPT, '{ name = "tokens", sequence = 32, vocabulary = 256 }', 8, 72): (
        *("single", "sync-ddp", "fsdp", "async-ps", "local-sgd", "model-split"),
    ),
    Workload("resnet18 8", '"resnet18"', _pictures(32, 3), 8, 32): ("single", "sync-ddp", "local-sgd"),
}
SETS = {"first": FIRST, "other": OTHER, "later": LATER}

TWICE = (("mlp 1024 x 128", "sync-ps"), ("gpt 16", "sync-ps"))
"""Of the other cells, those that run with one process too."""

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
        return f"{self.workload.name:<14} {self.strategy:<12} {self.gpus}"


def cases(name: str) -> list[Case]:
    """Return the cells of a set: of the first one all that are possible."""
    every = [(work, strategy) for work, chosen in SETS[name].items() for strategy in chosen]
    both = name == "first"
    found = []
    for work, strategy in every:
        alone = strategy == "single" or both or (work.name, strategy) in TWICE
        found += [Case(work, strategy, 1)] * (alone and strategy != "model-split")
        found += [Case(work, strategy, 2)] * (strategy != "single")
    return found


def cell_of(case: Case, engine: str) -> Any:
    """Return the cell of a case."""
    from harness.api.host import load_host
    from harness.core.machine import detect_machine
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    work, host = case.workload, load_host()
    per_rank = work.batch if case.strategy in ("single", "async-ps", "model-split") else work.batch // case.gpus
    micro = work.batch // MICRO_BATCHES if case.strategy == "model-split" else per_rank
    # An asynchronous server counts every worker's gradients as steps.
    work = work._replace(steps=work.steps * (case.gpus if case.strategy == "async-ps" else 1))
    text = SCENARIO.format(**work._asdict(), engine=engine, strategy=case.strategy, micro=micro, gpus=case.gpus)
    (cell,) = make_plan(parse_scenario(text, host, Path("predicted.toml")), host, detect_machine()).cells
    return cell


class Step(NamedTuple):
    """A step of the first device, in seconds.

    Attributes:
        input_s: of it, until its samples were there.
        host_s: of it, what is in no part of a step: the program's and the harness's own work.
    """

    whole_s: float
    input_s: float
    host_s: float


def step_of(outcome: Any) -> Step:
    """Return medians over windows of a mean step; the same for both engines."""
    from harness.core.step_parts import PART_COLUMNS, Part

    names = ("start_s", "worker", "device", Part.INPUT.column)
    parts = [sum(found) for found in zip(*(outcome.steps[name] for name in PART_COLUMNS), strict=True)]
    rows = zip(*(outcome.steps[name] for name in names), parts, strict=True)
    own = sorted((start, read, known) for start, worker, device, read, known in rows if worker == device == 0)
    starts, inputs, known = zip(*own[WARM_STEPS:], strict=True)
    hosts = [b - a - part for a, b, part in zip(starts, starts[1:], known, strict=False)]
    return Step(
        statistics.median((b - a) / WINDOW for a, b in zip(starts, starts[WINDOW:], strict=False)),
        statistics.median(inputs),
        statistics.median(hosts),
    )


def prepare(rows: Sequence[Case]) -> None:
    """Calibrate, and measure the profiles that are missing."""
    from harness.core.machine import detect_machine
    from harness.costs.cells.measured import load_cluster
    from harness.engines.calibration.link_times import calibrate
    from harness.engines.calibration.workload_times import ensure_profiles

    if load_cluster("cpu", 1) is None:
        calibrate(detect_machine(), "cpu", 1, print)
    ensure_profiles([cell_of(case, "virtual") for case in rows], [], print)


def predicted_step(case: Case) -> Step:
    """Return the step of the virtual twin; its program runs with sizes in place of numbers."""
    from harness.api.host import load_host
    from harness.engines.virtual.timing import run_timing

    return step_of(run_timing(cell_of(case, "virtual"), load_host()))


def measured_step(case: Case) -> Step:
    """Return the step of a real run."""
    from harness.engines.processes.launch import run_cell

    result = run_cell(cell_of(case, "real"))
    assert result.finished, f"{case.name}: {result.reason}"
    return step_of(result.outcome)


# -- what came out -----------------------------------------------------------------------------------------------------


def report(foretold: dict[Case, Step], ran: dict[Case, list[Step]]) -> None:
    """Print a row for each case, the median error, and whether ranks are right."""
    predicted = {case: step.whole_s for case, step in foretold.items()}
    measured = {case: [step.whole_s for step in steps] for case, steps in ran.items()}
    heads = "".join(f"{head:>10}" for head in ("measured", "low", "high", "predicted", "error"))
    print(f"\n{'milliseconds of a step':<32} {heads}  {'input':>16}{'host':>16}")
    errors = []
    for case, seconds in measured.items():
        middle = statistics.median(seconds)
        errors.append(predicted[case] / middle - 1)
        times = "".join(f"{1e3 * x:>10.3f}" for x in (middle, min(seconds), max(seconds), predicted[case]))
        print(f"{case.name:<32} {times}{100 * errors[-1]:>+8.1f} %  {_parts(foretold[case], ran[case])}")
    sizes = [abs(error) for error in errors]
    print("input and host: measured > predicted; of a step, in milliseconds")
    print(f"\nmedian error {100 * statistics.median(sizes):.1f} % (aim 8), mean {100 * statistics.fmean(sizes):.1f} %,")
    print(f"bias {100 * statistics.median(errors):+.1f} %, worst {100 * max(sizes):.1f} %, {len(sizes)} cases")
    wrong, decided = wrong_pairs(predicted, measured)
    print(f"order: {decided - len(wrong)} of {decided} pairs whose measured intervals do not overlap are right")
    for first, second in wrong:
        print(f"  wrong: {first.name} is faster than {second.name}")


def _parts(foretold: Step, ran: Sequence[Step]) -> str:
    """Return input and host, measured and predicted."""
    pairs = ((statistics.median(step[k] for step in ran), foretold[k]) for k in (1, 2))
    return "".join(f"{f'{1e3 * before:.3f} > {1e3 * after:.3f}':>16}" for before, after in pairs)


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
    parser.add_argument("--set", choices=list(SETS), default="first")
    parser.add_argument("--only", nargs="*", default=[], help="words that the names of cells begin with")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        if chosen.fresh:
            os.environ["HARNESS_CACHE"] = folder
        rows = [case for case in cases(chosen.set) if not chosen.only or case.name.startswith(tuple(chosen.only))]
        prepare(rows)
        predicted = {case: predicted_step(case) for case in rows}
        measured: dict[Case, list[Step]] = {case: [] for case in rows}
        for number in range(chosen.rounds):
            for case in rows:
                measured[case].append(measured_step(case))
            print(f"round {number + 1} of {chosen.rounds} done", flush=True)
        report(predicted, measured)


if __name__ == "__main__":
    main()
