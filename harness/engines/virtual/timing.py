"""Run a timing-only cell: its program on the simulated clock, with sizes in place of numbers. Imports no torch.

The copies of one layout are one worker, whose step is computed once and remembered; so 65,536 replicas of DDP cost
what two do.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from harness.core.budget import Budget
from harness.core.errors import NotForetold
from harness.core.not_known import Hurdle, NotKnown
from harness.core.text import Text
from harness.costs.cells import cluster_of, find_shape, given_shape, profile_of
from harness.costs.memory import counted_of, placement_of
from harness.costs.profiles import ModelShape
from harness.engines.shared.rate_schedule import make_rate
from harness.engines.shared.setup import Setup, make_strategy
from harness.engines.virtual.engine import build
from harness.engines.virtual.prices import Costs
from harness.engines.virtual.sizes import Sizes

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.core.outcome import CountedDram, Outcome


@dataclass(frozen=True)
class Uncounted:
    """A data set of which only the size is known."""

    num_train: int
    checksum: str = ""
    counts: None = None
    train: None = None
    remarks: tuple[str, ...] = ()


def run_timing(cell: Cell, host: Host, shape: ModelShape | NotKnown | None = None, trace: int | None = None) -> Outcome:
    """Run a cell without computing anything.

    Args:
        shape: of a model that was traced, or why it could not be; not needed where the workload gives one.
        trace: steps to record spans of.

    Raises:
        HarnessError: what the scenario says is not enough to tell how long anything takes.
    """
    began = time.perf_counter()
    setup = timing_setup(cell, host)
    profile = profile_of(cell, shape)
    costs = Costs(profile, cluster_of(cell), placement_of(cell, host, profile.shape))
    buffers = sum(layer.buffers_bytes for layer in profile.shape.layers)
    traced = find_shape(cell, host) or profile.shape
    executor: Any = Sizes(setup, profile.shape.parameter_bytes, buffers, lambda: _counted(cell, host, traced), traced)
    engine = build(setup, costs=costs, executor=executor, trace=trace)
    prepared = time.perf_counter()
    outcome = engine.run()
    outcome.setup_s = prepared - began
    outcome.facts |= {"num_train": setup.num_train, "data_checksum": "", "timing_only": True}
    return outcome


def _counted(cell: Cell, host: Host, shape: ModelShape) -> CountedDram | NotKnown:
    if not shape.activations_known and given_shape(cell) is None:
        return NotKnown(Hurdle.STEP, Text("what its layers keep was not found by running it"))
    try:
        return counted_of(cell, host, shape)
    except NotForetold as error:
        return NotKnown(Hurdle.COUNT, Text(str(error)))


def timing_setup(cell: Cell, host: Host) -> Setup:
    """Put a cell together without data and model: every batch is full."""
    strategy = make_strategy(host, cell)
    num_train = cell.global_batch_size * max(1, cell.goal.max_steps or 1)
    budget = Budget.of(replace(cell.goal, evaluate_every=None), num_train)
    rate = make_rate(cell.learning_rate, cell.workload.lr_schedule, 0.0, num_train, None)
    return Setup(cell, strategy, strategy.layout(cell.gpus), None, Uncounted(num_train), None, budget, rate)
