"""DRAM that a step needs, counted tensor by tensor; the same on every engine and on CPU, where RSS says nothing."""

from __future__ import annotations

from harness.costs.memory import CPU, CUDA, Placement, StageMemory, Work, device_memory, stage_memory
from harness.engines.shared.setup import Setup
from harness.engines.shared.trace_or_find import shape_of


def count_dram(setup: Setup, placement: Placement | None = None) -> dict[str, int]:
    """Return bytes by kind on the device that holds most, as they are traced.

    Args:
        placement: layers of each pipeline stage; None where one device holds them all.
    """
    estimate = device_memory(shape_of(setup), setup.layout, _work(setup), CPU, placement)
    return dict(max(estimate.devices, key=lambda device: sum(device.kinds.values())).kinds)


def stage_limits(setup: Setup) -> StageMemory | None:
    """Return what stages need and what their devices have; None where memory has no end."""
    if setup.cell.dram_bytes is None:
        return None
    constants = CUDA if setup.cell.device == "cuda" else CPU
    limits = [setup.cell.dram_bytes] * setup.layout.pipeline
    return stage_memory(shape_of(setup), setup.layout, _work(setup), constants, limits)


def _work(setup: Setup) -> Work:
    cell = setup.cell
    samples = min(cell.micro_batch_size, setup.num_train)
    microbatches = -(-cell.batch_size // cell.micro_batch_size)
    return Work(cell.workload.optimizer, samples, microbatches, cell.workload.precision)
