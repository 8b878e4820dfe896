"""Whether a cell fits into its devices' memory, and the largest micro-batch that does. Nothing here imports torch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.core.cell import LARGEST
from harness.core.errors import HarnessError, Impossible
from harness.core.given_cluster import is_elsewhere
from harness.core.outcome import CountedDram
from harness.core.words import counted, memory_size
from harness.costs.memory.device import CPU, CUDA, DeviceConstants, MemoryEstimate, Work, device_memory, stages_of
from harness.costs.memory.device import largest_micro_batch as largest
from harness.costs.memory.device import missing_bytes as lacking
from harness.costs.profiles.shape import ModelShape

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.api.strategy import Layout
    from harness.core.cell import Cell


def layout_of(cell: Cell, host: Host) -> Layout:
    """Return how one worker of a cell is spread over devices."""
    strategy = host.strategies[cell.strategy]
    return strategy(strategy.Options(**cell.options)).layout(cell.gpus)


def memory_of(
    cell: Cell, host: Host, shape: ModelShape, placement: Sequence[Sequence[str]] | None = None
) -> MemoryEstimate:
    """Return what a cell's devices need.

    Args:
        placement: names of the layers of each stage; default: as `placement_of` cuts them.
    """
    placement = placement or placement_of(cell, host, shape)
    return device_memory(shape, layout_of(cell, host), _work(cell, host), constants_of(cell), placement)


def placement_of(cell: Cell, host: Host, shape: ModelShape) -> tuple[tuple[str, ...], ...] | None:
    """Return the layers of each stage: balanced, such that each fits its device where that is possible.

    One cut for what a pipeline needs and for what it takes; None without a pipeline.

    Raises:
        Impossible: there are too few layers, the named stages are not the model's layers in their order, or nobody
            knows how tensor parallelism divides the model.
    """
    layout = layout_of(cell, host)
    if layout.tensor > 1 and not shape.divisible:
        raise Impossible(
            "tensor parallelism cuts pairs of nn.Linear in an nn.Sequential, or what a module says in a class "
            "attribute tensor_plan; this model has other modules with linear layers in them"
        )
    if layout.stages == 1:
        return None
    stages = stages_of(shape, layout, _work(cell, host), constants_of(cell), limit_bytes=cell.dram_bytes)
    return tuple(tuple(shape.layers[k].name for k in stage) for stage in stages)


def counted_of(cell: Cell, host: Host, shape: ModelShape) -> CountedDram:
    """Return the tensors of the device that holds most, as every engine counts them; the data is not one of them."""
    work = replace(_work(cell, host), data_bytes=0, gradients_stay=True)
    return counted_dram(device_memory(shape, layout_of(cell, host), work, CPU, placement_of(cell, host, shape)))


def counted_dram(estimate: MemoryEstimate) -> CountedDram:
    """Return kinds and peak of the device that holds most."""
    most = max(estimate.devices, key=lambda device: sum(device.kinds.values()))
    return CountedDram(dict(most.kinds), most.allocated_bytes)


def constants_of(cell: Cell) -> DeviceConstants:
    """Return what a process needs on a device of the cell's kind."""
    usual = CUDA if cell.device == "cuda" else CPU
    return usual if cell.context_bytes is None else replace(usual, context_bytes=cell.context_bytes)


def memory_verdict(cell: Cell, host: Host, shape: ModelShape) -> str | None:
    """Say why a cell does not fit: what is missing, the largest layer, what would fit; None where it fits."""
    limit = cell.dram_bytes
    if limit is None:
        return None
    layout, work, constants = layout_of(cell, host), _work(cell, host), constants_of(cell)
    if not lacking(shape, layout, work, limit, constants):
        return None
    estimate = memory_of(cell, host, shape)
    needed = estimate.fullest.total_bytes
    layer = estimate.largest_layer
    where = f"stage {estimate.fullest.rank}" if layout.pipeline > 1 else "a device"
    return (
        f"{where} needs {memory_size(needed)} but has {memory_size(limit)} ({memory_size(needed - limit)} too little). "
        f"The largest layer is {layer.name} ({memory_size(layer.total)}). "
        f"{_what_fits(cell, layout, work, shape, constants, limit)}"
    )


def _what_fits(
    cell: Cell, layout: Layout, work: Work, shape: ModelShape, constants: DeviceConstants, limit: int
) -> str:
    """Name the largest batch that fits at once, and the largest micro-batch that divides the cell's batch."""
    free, even = (
        largest(shape, layout, work, limit, constants, batch_size=cell.batch_size, divides=divides)
        for divides in (False, True)
    )
    if not free:
        instead = "" if layout.recompute else ", or recompute activations"
        return f"Not even a single sample fits: spread the model over more devices{instead}"
    samples = counted(free, "sample fits", "samples fit")
    return f"At most {samples} at once: for the batch of {cell.batch_size}, set micro_batch_size = {even}"


def resolve_largest(cell: Cell, host: Host, shape: ModelShape) -> Cell:
    """Return a cell that asks for the largest micro-batch with that number; any other cell as it is.

    Its id stays: it names what was asked for. Where not a single sample fits, the number is 1, and the verdict says so.

    Raises:
        Impossible: nobody knows what the model keeps.
    """
    if cell.micro_batch_size != LARGEST:
        return cell
    if cell.dram_bytes is None:
        return replace(cell, micro_batch_size=cell.batch_size)
    if not shape.activations_known:
        raise Impossible(
            'micro_batch_size = "largest": activations are not known. Set activations, or hidden and sequence'
        )
    layout, work = layout_of(cell, host), _work(replace(cell, micro_batch_size=cell.batch_size), host)
    found = largest(shape, layout, work, cell.dram_bytes, constants_of(cell), batch_size=cell.batch_size)
    return replace(cell, micro_batch_size=max(1, found))


def _work(cell: Cell, host: Host) -> Work:
    layout = layout_of(cell, host)
    samples = cell.micro_batch_size
    return Work(
        optimizer=cell.workload.optimizer,
        samples=samples,
        microbatches=-(-cell.batch_size // samples),
        scalar=cell.scalar_bytes,
        data_bytes=_data_bytes(cell, host),
        gradients_stay=layout.data > 1 and not layout.gathers,
    )


_NUMBER_BYTES = {"float": 4, "int32": 4, "int16": 2, "uint8": 1, "int8": 1, "bool": 1}
"""Of one number of a tensor as it lies on the device; others have 8."""


def _data_bytes(cell: Cell, host: Host) -> int:
    """Return the bytes of the whole data set, which this machine keeps on its devices; 0 where only loading it tells.

    A cluster of the catalogue stands for any way of feeding it.
    """
    from harness.costs.cells.kept import seen_by, size_of

    seen = None if is_elsewhere(cell.cluster) else seen_by(cell, host)
    if seen is None:
        return 0
    _, sample = seen
    try:
        size = size_of(cell, host)
    except (HarnessError, OSError):
        return 0  # running the cell words it
    if size is None:
        return 0
    tensors = (*sample.inputs, sample.targets)
    return (size.num_train + size.num_test) * sum(
        math.prod(one.shape) * _NUMBER_BYTES.get(one.dtype, 8) for one in tensors
    )
