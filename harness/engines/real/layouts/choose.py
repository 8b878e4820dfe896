"""Which runner a layout needs."""

from __future__ import annotations

from harness.engines.real.clock import Ledger
from harness.engines.real.layouts.one_device import OneDevice, UnderDDP
from harness.engines.real.meetings import Meetings
from harness.engines.shared.setup import Setup
from harness.workloads.entries import COMPILED, CUDA_GRAPH


def make_runner(setup: Setup, ledger: Ledger, worker: int, rank: int, meetings: Meetings | None = None) -> OneDevice:
    """Return the runner of a layout, its steps executed as the cell asks.

    Args:
        setup: the cell, put together.
        ledger: that steps are accounted in.
        worker: that this device belongs to.
        rank: of the device in it.
        meetings: whom it exchanges with; default: all processes.

    Raises:
        Impossible: torch cannot execute them so.
    """
    work = setup.cell.workload
    if work.step == CUDA_GRAPH:
        from harness.engines.real.layouts.captured import Captured

        return Captured(setup, ledger, worker, rank)
    runner = _runner(setup, ledger, worker, rank, meetings or Meetings())
    if work.step == COMPILED:
        from harness.engines.real.layouts.execution import Compiled

        runner.execution = Compiled(work.model.name, runner.to_compile(), runner.replica.device)
    return runner


def _runner(setup: Setup, ledger: Ledger, worker: int, rank: int, meetings: Meetings) -> OneDevice:
    """Return the runner of a layout; what only some layouts need of torch is imported for them alone."""
    layout = setup.layout
    if layout.pipeline > 1:
        from harness.engines.real.layouts.pipelined import Pipeline

        return Pipeline(setup, ledger, worker, rank)
    if layout.shard == "states" and layout.data > 1:
        from harness.engines.real.layouts.shared_states import SharedStates

        return SharedStates(setup, ledger, worker, rank)
    if layout.reduce is not None and (layout.data == 1 or not layout.overlap):
        from harness.engines.real.layouts.reduced import ReducedAfterwards

        return ReducedAfterwards(setup, ledger, worker, rank, meetings)
    if layout.tensor > 1 or (layout.data > 1 and not layout.gathers and not layout.overlap):
        from harness.engines.real.layouts.exchanged import Exchanged

        return Exchanged(setup, ledger, worker, rank)
    if layout.data > 1 and layout.gathers:
        from harness.engines.real.layouts.sharded import FullySharded

        return FullySharded(setup, ledger, worker, rank)
    if layout.data > 1:
        return UnderDDP(setup, ledger, worker, rank, meetings)
    return OneDevice(setup, ledger, worker, rank)
