"""What meeting costs beyond messages, exchanges and updates: real cells against their virtual twins.

Processes of one host wake each other, move between its cores and disturb each other's caches, and no law says how long
that takes. It is measured with networks that hardly compute, as what a step takes longer than its twin.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.errors import MachineError
from harness.core.machine import Machine
from harness.core.outcome import CountedDram
from harness.costs.cells import profile_of
from harness.costs.profiles import Cluster
from harness.costs.steps import fsdp_messages
from harness.engines.calibration.workload_times import ensure_profiles
from harness.engines.processes.launch import run_cell

if TYPE_CHECKING:
    from harness.core.cell import Cell

SCENARIO = """
engine = "real"
device = "cpu"
threads_per_device = {threads}
[workload]
model = {{ name = "mlp", hidden = [{width}] }}
dataset = {{ name = "synthetic", samples = 2048, size = 16 }}
[sweep]
strategy = ["{strategy}"]
batch_size = [32]
learning_rate = [0.001]
gpus = [{gpus}]
[goal]
target_accuracy = "none"
max_steps = {steps}
"""

WIDTHS = (64, 1024, 8192)
"""Hidden units; chosen: values of 70 KB, 1 MB and 9 MB, below and above what caches of one core hold."""

GROUPS = {
    "served": (("sync-ps", 2), ("async-ps", 2)),
    "served_apart": (("sync-ps", 1), ("async-ps", 1)),
    "exchanged": (("sync-ddp", 2),),
    "sharded": (("fsdp", 2),),
}
"""Fields of a runtime, with the (strategy, processes) whose mean they are: a program does not say how it meets."""

ROUNDS = 3
"""Times that every cell runs; chosen: the median of three."""

STEPS, WARM_STEPS, WINDOW = 80, 8, 4
"""Of one run; chosen: half a second of the smallest, 3 s of the largest network."""


def losses(machine: Machine, threads: int, cluster: Cluster) -> dict[str, list[tuple[float, float]]]:
    """Return for each field the seconds that a step takes longer than predicted, by the bytes of the parameters.

    Of sharded parameters it is each exchange of a step, by its bytes: a step has as many as the model has units.

    Args:
        cluster: all that was calibrated before.

    Raises:
        MachineError: a cell did not finish.
    """
    cells = {
        (field, width): [_cell(width, strategy, gpus, threads, machine) for strategy, gpus in group]
        for field, group in GROUPS.items()
        for width in WIDTHS
    }
    ensure_profiles([cell for group in cells.values() for cell in group], [], lambda _: None, machine)
    found: dict[tuple[str, int], list[float]] = {key: [] for key in cells}
    for _ in range(ROUNDS):
        for key, group in cells.items():
            found[key].append(statistics.fmean(_longer_s(cell, cluster) for cell in group))
    curves: dict[str, list[tuple[float, float]]] = {field: [] for field in GROUPS}
    for (field, width), group in cells.items():
        shape = profile_of(group[0]).shape
        sizes = [m.num_bytes for m in fsdp_messages(shape, 2, True)] if field == "sharded" else [shape.parameter_bytes]
        lost = max(0.0, statistics.median(found[field, width])) / len(sizes)
        curves[field].append((statistics.fmean(sizes), lost))
    return curves


def _cell(width: int, strategy: str, gpus: int, threads: int, machine: Machine) -> Cell:
    from harness.api.host import load_host
    from harness.scenario.plan import make_plan
    from harness.scenario.read import parse_scenario

    host, steps = load_host(), STEPS * (gpus if strategy == "async-ps" else 1)
    text = SCENARIO.format(strategy=strategy, gpus=gpus, width=width, threads=threads, steps=steps)
    (cell,) = make_plan(parse_scenario(text, host, Path("calibrate.toml")), host, machine).cells
    return cell


def _longer_s(cell: Cell, cluster: Cluster) -> float:
    result: Any = run_cell(cell)
    if not result.finished:
        raise MachineError(f"calibrating servers: {result.status}, {result.reason}")
    return _step_s(result.outcome) - _step_s(_twin(cell, cluster))


def _twin(cell: Cell, cluster: Cluster) -> Any:
    from harness.api.host import load_host
    from harness.engines.virtual.engine import build
    from harness.engines.virtual.prices import Costs
    from harness.engines.virtual.sizes import Sizes
    from harness.engines.virtual.timing import timing_setup

    setup, profile = timing_setup(cell, load_host()), profile_of(cell)
    executor: Any = Sizes(setup, profile.shape.parameter_bytes, 0, CountedDram)
    return build(setup, costs=Costs(profile, cluster), executor=executor).run()


def _step_s(outcome: Any) -> float:
    """Return the median over windows of the first worker's mean step."""
    starts = [s for s, w in zip(outcome.steps["start_s"], outcome.steps["worker"], strict=True) if w == 0][WARM_STEPS:]
    return float(statistics.median((b - a) / WINDOW for a, b in zip(starts, starts[WINDOW:], strict=False)))
