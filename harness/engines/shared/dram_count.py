"""DRAM that a step needs, counted tensor by tensor; the same on every engine and on CPU, where RSS says nothing."""

from __future__ import annotations

from harness.core.errors import words_of_error
from harness.core.not_known import Hurdle, NotKnown
from harness.core.outcome import CountedDram
from harness.core.text import Text
from harness.costs.memory import CPU, CUDA, Placement, StageMemory, Work, counted_dram, device_memory, stage_memory
from harness.costs.profiles import ModelShape
from harness.engines.shared.setup import Setup
from harness.engines.shared.trace_or_find import shape_of


def count_dram(setup: Setup, placement: Placement | None = None) -> CountedDram | NotKnown:
    """Return the tensors of the device that holds most, as they are traced, or why that is not known.

    A cell that has run does not fail for what it would have needed: whatever is raised here is only said.

    Args:
        placement: layers of each pipeline stage; None where one device holds them all.
    """
    shape = shape_of(setup)
    if isinstance(shape, NotKnown):
        return shape
    try:
        estimate = device_memory(shape, setup.layout, _work(setup), CPU, placement)
    except Exception as error:
        return NotKnown(Hurdle.COUNT, Text(f"{type(error).__name__}: {words_of_error(error)}"))
    return counted_dram(estimate)


def stage_limits(setup: Setup) -> StageMemory | None:
    """Return what stages need and what their devices have; None where memory has no end, or needs are not known."""
    shape = shape_of(setup) if setup.cell.dram_bytes is not None else None
    if not isinstance(shape, ModelShape) or setup.cell.dram_bytes is None:
        return None
    constants = CUDA if setup.cell.device == "cuda" else CPU
    limits = [setup.cell.dram_bytes] * setup.layout.pipeline
    return stage_memory(shape, setup.layout, _work(setup), constants, limits)


def _work(setup: Setup) -> Work:
    cell = setup.cell
    samples = min(cell.micro_batch_size, setup.num_train)
    microbatches = -(-cell.batch_size // cell.micro_batch_size)
    return Work(cell.workload.optimizer, samples, microbatches, cell.scalar_bytes)
