"""Memory of the devices of one layout: what is counted tensor by tensor, and what an allocator reserves for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

from harness.api.schedules import WEIGHT_MEMORY, most_kept
from harness.api.strategy import Action, Layout, Table
from harness.core.cell import Named
from harness.core.errors import Impossible
from harness.core.number_formats import SINGLE, ScalarBytes
from harness.core.records import Json
from harness.core.units import MIB
from harness.costs.memory.allocator import Allocator, CachingAllocator, OutOfMemory, PlainAllocator
from harness.costs.memory.cuts import StageMemory, balance_joined, named_sizes
from harness.costs.memory.gathered import passing_bytes
from harness.costs.memory.replay import DevicePart, replay
from harness.costs.memory.states import state_bytes
from harness.costs.profiles.shape import LayerShape, ModelShape


@dataclass(frozen=True)
class DeviceConstants:
    """What a process needs on a device before its first tensor, and how tensors are allocated.

    Attributes:
        context_bytes: of the driver's context and the kernels loaded; no allocator knows of it.
        library_bytes: that libraries take from the allocator and keep.
        caching: tensors come from CUDA's caching allocator; else exactly as large as they are.
        multi_tensor: the optimizer steps all tensors at once.
    """

    context_bytes: int
    library_bytes: int
    caching: bool
    multi_tensor: bool


CUDA = DeviceConstants(context_bytes=450 * MIB, library_bytes=8320 * 1024, caching=True, multi_tensor=True)
"""Context: 300 to 500 MiB are usual with kernels loaded as they are needed (CUDA 11.7 and later); chosen near the upper
end, since too little is an error and too much a batch that could have been larger. Library: cuBLAS' workspace (torch,
ATen/cuda/CublasHandlePool.cpp: 4096 KiB x 2 + 16 KiB x 8)."""
KEPT_FRACTION = 0.13
"""Of activations, what a caching allocator holds besides where they were not replayed on one: blocks that were split
and whose parts do not fit later. What an update makes is large and finds none of them: it comes on top.

Source: 53 runs of BLOOM's search for a layout on A100s (bigscience, tr11-176B-ml/chronicles-prequel.md, nvidia-smi);
least absolute differences; 0.131 to 0.157 with one width left out."""
CPU = DeviceConstants(context_bytes=0, library_bytes=0, caching=False, multi_tensor=False)


@dataclass(frozen=True)
class Work:
    """What memory depends on besides the model.

    Attributes:
        optimizer: name and options, as a cell has them.
        samples: of one micro-batch.
        microbatches: that one worker's device or pipeline passes in a step.
        scalar: bytes of a parameter, of its gradient, and of what the optimizer keeps for it.
        data_bytes: of the data set, where it lies on the device.
        gradients_stay: gradients keep their memory from step to step, as DDP's buckets do.
    """

    optimizer: Named
    samples: int
    microbatches: int = 1
    scalar: ScalarBytes = SINGLE
    data_bytes: int = 0
    gradients_stay: bool = True


@dataclass(frozen=True)
class LayerMemory:
    """What one layer takes on its device, in bytes; its activations are those of one micro-batch."""

    name: str
    parameters: int
    gradients: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.parameters + self.gradients + self.optimizer + self.activations


@dataclass(frozen=True)
class DeviceMemory:
    """What one device needs.

    Attributes:
        rank: in the pipeline.
        layers: that it holds.
        kinds: counted bytes; kinds that are at their most at different times are not there all at once.
        allocated_bytes: most that tensors take at once.
        reserved_bytes: most that the allocator holds for them.
        kept_bytes: of these, what `KEPT_FRACTION` adds to tensors.
        context_bytes: outside of the allocator.
    """

    rank: int
    layers: tuple[str, ...]
    kinds: Mapping[str, int]
    allocated_bytes: int
    reserved_bytes: int
    context_bytes: int
    kept_bytes: int = 0

    @property
    def total_bytes(self) -> int:
        """What the device must have."""
        return self.reserved_bytes + self.context_bytes


@dataclass(frozen=True)
class MemoryEstimate:
    """Memory of one copy of a layout.

    Attributes:
        devices: of each rank of the pipeline; replicas and tensor-parallel neighbours are alike.
        layers: of the whole model, as cut by tensor parallelism and sharding.
    """

    devices: tuple[DeviceMemory, ...]
    layers: tuple[LayerMemory, ...]

    @property
    def fullest(self) -> DeviceMemory:
        """The device that needs most."""
        return max(self.devices, key=lambda device: device.total_bytes)

    @property
    def largest_layer(self) -> LayerMemory:
        """The layer that takes most."""
        return max(self.layers, key=lambda layer: layer.total)

    def to_dict(self) -> Json:
        """Return it as records hold it."""
        fullest = self.fullest
        return {
            "total_bytes": fullest.total_bytes,
            "allocated_bytes": fullest.allocated_bytes,
            "reserved_bytes": fullest.reserved_bytes,
            "context_bytes": fullest.context_bytes,
            "kinds": dict(fullest.kinds),
            "rank": fullest.rank,
            "devices": [{"rank": d.rank, "layers": len(d.layers), "total_bytes": d.total_bytes} for d in self.devices],
            "layers": [
                {"name": a.name, "parameters": a.parameters, "gradients": a.gradients}
                | {"optimizer": a.optimizer, "activations": a.activations}
                for a in self.layers
            ],
        }


def device_memory(
    shape: ModelShape,
    layout: Layout,
    work: Work,
    constants: DeviceConstants = CUDA,
    placement: Sequence[Sequence[str]] | None = None,
    limit_bytes: int | None = None,
) -> MemoryEstimate:
    """Return what every device of a layout needs.

    The device that counts most is replayed on an allocator. Where that is not possible (the model was given, not
    traced; or parameters are gathered as they are needed) its workspace is added instead, and no rounding.

    Args:
        shape: traced, or given.
        placement: names of the layers of each stage; None: cut as `stages_of` does.
        limit_bytes: memory of a device, where it has an end.

    Raises:
        OutOfMemory: the fullest device needs more than the limit.
    """
    stages = stages_of(shape, layout, work, constants, placement, limit_bytes)
    table = _table(layout, work.microbatches)
    rows = [_row(shape, layout, work, stages, rank, actions) for rank, actions in enumerate(table)]
    heaviest = max(rows, key=lambda row: sum(row.kinds.values()))
    devices = []
    for row in rows:
        allocated, reserved, kept = _unplayed(shape, layout, work, constants, row)
        timeline = shape.timeline
        if row is heaviest and timeline and not layout.gathers:
            room = None if limit_bytes is None else limit_bytes - constants.context_bytes
            allocator: Allocator = CachingAllocator(room) if constants.caching else PlainAllocator(room)
            replay(shape, timeline, _part(shape, layout, work, constants, row), allocator)
            allocated, reserved, kept = allocator.peak_allocated, allocator.peak_reserved, 0
        elif limit_bytes is not None and reserved + constants.context_bytes > limit_bytes:
            raise OutOfMemory(reserved + constants.context_bytes - limit_bytes)
        names = tuple(shape.layers[k].name for stage in row.stages.values() for k in stage)
        devices.append(DeviceMemory(row.rank, names, row.kinds, allocated, reserved, constants.context_bytes, kept))
    layers = tuple(_layer_memory(layer, shape, layout, work) for layer in shape.layers)
    return MemoryEstimate(tuple(devices), layers)


@dataclass(frozen=True)
class _Row:
    """One device's part: its stages by number, what it does, and what that counts."""

    rank: int
    stages: Mapping[int, range]
    actions: Sequence[Action]
    kinds: Mapping[str, int]


def stages_of(
    shape: ModelShape,
    layout: Layout,
    work: Work,
    constants: DeviceConstants,
    placement: Sequence[Sequence[str]] | None = None,
    limit_bytes: int | None = None,
) -> tuple[range, ...]:
    """Return the numbers of the layers of each stage.

    Without a placement stages are balanced by operations, where they are known, by a file's times, or by parameters;
    such that all fit below the limit, where that is possible.

    Raises:
        Impossible: there are too few layers, or named stages are not the layers in their order.
    """
    named = placement if placement is not None else None if isinstance(layout.placement, str) else layout.placement
    if named is not None:
        sizes = named_sizes(named, [layer.name for layer in shape.layers], layout.stages)
    else:
        weights = [float(layer.parameters) for layer in shape.layers]
        weights = shape.work_shares(1) if layout.placement == "time" else weights
        memory = None
        if limit_bytes is not None and layout.stages > 1:
            memory = stage_memory(shape, layout, work, constants, [limit_bytes] * layout.pipeline)
        sizes = _sizes(weights, [layer.joined for layer in shape.layers], layout, memory)
    ends = list(accumulate(sizes))
    return tuple(range(end - size, end) for size, end in zip(sizes, ends, strict=True))


def _sizes(weights: Sequence[float], joined: Sequence[bool], layout: Layout, memory: StageMemory | None) -> list[int]:
    try:
        return balance_joined(weights, joined, layout.stages, memory, layout.replicas)
    except Impossible:
        return balance_joined(weights, joined, layout.stages, ways=layout.replicas)


def stage_memory(
    shape: ModelShape, layout: Layout, work: Work, constants: DeviceConstants, limits: Sequence[int]
) -> StageMemory:
    """Return what stages of any cut need, as counted.

    Args:
        limits: bytes of each device of the pipeline; stages of one device share them evenly.
    """
    table = _table(layout, work.microbatches)
    per_layer = [_layer_memory(layer, shape, layout, work) for layer in shape.layers]
    others = [layer.buffers_bytes + _copies(layer, layout, work) for layer in shape.layers]
    fixed = [m.total - m.activations + other for m, other in zip(per_layer, others, strict=True)]
    inputs = [shape.layers[k - 1].output_bytes.at(work.samples) if k else 0.0 for k in range(len(per_layer))]
    kept = inputs if layout.recompute else [float(m.activations) for m in per_layer]
    sums = [[0.0, *accumulate(values)] for values in (fixed, kept)]
    own = constants.context_bytes + constants.library_bytes + work.data_bytes
    guests = _guests(shape, layout, work)

    passes = [[a for a in table[k % len(table)] if a.stage == k] for k in range(layout.stages)]
    stash = [most_kept(actions, weight_share=_weight_share(shape)) for actions in passes]

    def needs(stage: int, start: int, end: int) -> float:
        fixed_bytes, kept_bytes = (values[end] - values[start] for values in sums)
        fixed_bytes += sum(size for layer, owner, size in guests if owner < start <= layer < end)
        return own / layout.chunks + fixed_bytes + stash[stage] * kept_bytes

    return StageMemory(needs, [limits[k % len(limits)] // layout.chunks for k in range(layout.stages)])


def _guests(shape: ModelShape, layout: Layout, work: Work) -> list[tuple[int, int, int]]:
    """Return (layer, owner, bytes) of each tensor that a layer holds and an earlier one counts, with all it takes."""
    found = []
    for number, layer in enumerate(shape.layers):
        for owner, tensor in layer.shared:
            held = shape.layers[owner]
            guest = LayerShape("", held.tensors[tensor : tensor + 1], rows=held.rows[tensor : tensor + 1])
            found.append((number, owner, _layer_memory(guest, shape, layout, work).total))
    return found


def _table(layout: Layout, microbatches: int) -> Table:
    """Return what each device of a pipeline does, or a single device's passes one after another.

    Memory is that of the pipeline's steady state, which a few micro-batches more than there are stages reach.
    """
    if layout.pipeline == 1 or layout.schedule is None:
        # The second finds the gradients of the first; all others are like it.
        return [[Action(kind, 0, m) for m in range(min(microbatches, 2)) for kind in ("forward", "backward")]]
    table = layout.schedule(layout.pipeline, microbatches)
    fewer = min(microbatches, 2 * layout.stages + 2)
    short = layout.schedule(layout.pipeline, fewer)
    same = all(most_kept(a) == most_kept(b) for a, b in zip(table, short, strict=True))
    return short if same else table


def _row(
    shape: ModelShape, layout: Layout, work: Work, stages: Sequence[range], rank: int, actions: Sequence[Action]
) -> _Row:
    mine = {number: stage for number, stage in enumerate(stages) if number % layout.pipeline == rank}
    layers = shape.held_by([k for stage in mine.values() for k in stage])
    memory = [_layer_memory(layer, shape, layout, work) for layer in layers]
    kinds = {
        "parameters": sum(m.parameters for m in memory),
        "gradients": sum(m.gradients for m in memory),
        "optimizer": sum(m.optimizer for m in memory),
        "activations": _activations(shape, layout, work, mine, actions),
        "buffers": sum(layer.buffers_bytes for layer in layers),
    }
    extra = {
        "copies": sum(_copies(layer, layout, work) for layer in layers),
        "gathered": passing_bytes(shape, layout, work.scalar, work.microbatches) if layout.gathers else 0,
        "data": work.data_bytes,
    }
    return _Row(rank, mine, actions, kinds | {kind: size for kind, size in extra.items() if size})


def _layer_memory(layer: LayerShape, shape: ModelShape, layout: Layout, work: Work) -> LayerMemory:
    each, count = work.scalar, layer.parameters
    state = state_bytes(layer, work.optimizer, each.states) + each.master * count
    part = 1 / layout.sharers
    if layout.gathers and count:
        part = layer.padded_parameters(layout.sharers) / layout.sharers / count
    whole = part if layout.gathers else 1.0
    sizes = ((each.parameters * count, whole), (each.gradients * count, whole), (state, part))
    held, gradients, states = (round(share * _cut(size, layer.split, layout.tensor)) for size, share in sizes)
    kept = _cut(layer.activation_bytes.at(work.samples), _activation_share(layer, layout), layout.tensor)
    return LayerMemory(layer.name, held, gradients, states, kept)


def _activation_share(layer: LayerShape, layout: Layout) -> float:
    """Return the share of a layer's activations that tensor parallelism divides: all, where it divides sequences too.

    Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", equation 4.
    """
    return 1.0 if layout.sequence_parallel and layer.split else layer.activation_split


def _copies(layer: LayerShape, layout: Layout, work: Work) -> int:
    """Return what passes copy of weights and keep; where weights are gathered, the copy goes with its unit."""
    if layout.gathers or not work.scalar.copied:
        return 0
    return _cut(layer.copies_bytes, layer.split, layout.tensor)


def _cut(size: float, share: float, ways: int) -> int:
    """Return a device's part of something of which tensor parallelism divides a share."""
    return round(size * (1 - share * (1 - 1 / ways)))


def _activations(
    shape: ModelShape, layout: Layout, work: Work, mine: Mapping[int, range], actions: Sequence[Action]
) -> int:
    """Return the most that forward passes have left for backward passes."""

    def kept(number: int) -> float:
        layers = [_layer_memory(shape.layers[k], shape, layout, work).activations for k in mine[number]]
        inputs = [shape.layers[k - 1].output_bytes.at(work.samples) for k in mine[number] if k]
        return sum(inputs) if layout.recompute else sum(layers)

    sizes = {number: kept(number) for number in mine}
    again = 0
    if layout.recompute:
        every = (_layer_memory(shape.layers[k], shape, layout, work).activations for s in mine.values() for k in s)
        again = max(every, default=0)
    return round(most_kept(actions, sizes.__getitem__, _weight_share(shape))) + again


def _weight_share(shape: ModelShape) -> float:
    """Return the share of activations that only gradients of weights still need, where a schedule tells them apart.

    All of it in torch, whose graph stays until then; less in a transformer that lets go of the rest.

    Source: `WEIGHT_MEMORY`; Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.3, for when they let go.
    """
    given = shape.timeline is None and any(layer.width for layer in shape.layers)
    return WEIGHT_MEMORY if given else 1.0


def _unplayed(
    shape: ModelShape, layout: Layout, work: Work, constants: DeviceConstants, row: _Row
) -> tuple[int, int, int]:
    """Return what is allocated at most, what an allocator holds for it, and how much of that no tensor ever uses."""
    layers = shape.held_by([k for stage in row.stages.values() for k in stage])
    workspace = max(
        (_cut(e.workspace_bytes.at(work.samples), _activation_share(e, layout), layout.tensor) for e in layers),
        default=0,
    )
    passing = row.kinds["activations"] + workspace
    lasting = sum(row.kinds.values()) - row.kinds["activations"] + constants.library_bytes
    unscaled = _unscaled_bytes(layers, layout, work)
    allocated = lasting + max(passing, unscaled)
    if not constants.caching:
        return allocated, allocated, 0
    kept = round(KEPT_FRACTION * passing)
    return allocated, lasting + passing + kept + unscaled, kept


def _unscaled_bytes(layers: Sequence[LayerShape], layout: Layout, work: Work) -> int:
    """Return what an update makes of half gradients: they are copied in single precision before a master copy steps.

    Source: Micikevicius et al. 2018, section 3.2; DeepSpeed, stage_1_and_2.py, single_grad_partition.
    """
    if not work.scalar.master or work.scalar.gradients >= work.scalar.master:
        return 0
    return sum(
        _cut(work.scalar.master * layer.parameters / layout.sharers, layer.split, layout.tensor) for layer in layers
    )


def _part(shape: ModelShape, layout: Layout, work: Work, constants: DeviceConstants, row: _Row) -> DevicePart:
    layers = shape.held_by([k for stage in row.stages.values() for k in stage])
    tensors = [
        _cut(size * work.scalar.parameters, layer.split, layout.tensor) for layer in layers for size in layer.tensors
    ]
    buffers = [layer.buffers_bytes for layer in layers if layer.buffers_bytes]
    others = [size for size in (work.data_bytes, constants.library_bytes) if size]
    return DevicePart(
        layers=row.stages,
        actions=row.actions,
        samples=work.samples,
        fixed=[*others, *tensors, *buffers],
        states=_states(tensors, row.kinds["optimizer"], work.scalar),
        temporary_bytes=_temporary_bytes(work, tensors, constants),
        gradients_stay=work.gradients_stay,
        recompute=bool(layout.recompute),
        tensor=layout.tensor,
        gradient_share=work.scalar.gradients / work.scalar.parameters,
    )


def _states(tensors: Sequence[int], total: int, scalar: ScalarBytes) -> list[float]:
    """Return the optimizer's tensors: each parameter's share, in as many pieces as numbers of the state fit into it."""
    whole = sum(tensors)
    if not total or not whole:
        return []
    copies = max(1, round(total / whole * scalar.parameters / scalar.states))
    return [size * total / whole / copies for size in tensors for _ in range(copies)]


def _temporary_bytes(work: Work, tensors: Sequence[int], constants: DeviceConstants) -> int:
    """Return what a step of the optimizer makes on the way: the root of the second moment.

    Source: torch.optim.adam, _multi_tensor_adam (exp_avg_sq_sqrt) and _single_tensor_adam (denom).
    """
    if work.optimizer.name not in ("adam", "adamw") or not tensors or work.scalar.master:
        return 0  # frameworks with a master copy step by one fused kernel
    return sum(tensors) if constants.multi_tensor else max(tensors)


# -- does it fit -------------------------------------------------------------------------------------------------------


def missing_bytes(
    shape: ModelShape,
    layout: Layout,
    work: Work,
    limit_bytes: int,
    constants: DeviceConstants = CUDA,
    placement: Sequence[Sequence[str]] | None = None,
) -> int:
    """Return how much the fullest device lacks at least; 0 where everything fits."""
    try:
        device_memory(shape, layout, work, constants, placement, limit_bytes)
    except OutOfMemory as error:
        return error.missing_bytes
    return 0


def largest_micro_batch(
    shape: ModelShape,
    layout: Layout,
    work: Work,
    limit_bytes: int,
    constants: DeviceConstants = CUDA,
    placement: Sequence[Sequence[str]] | None = None,
    *,
    batch_size: int,
    divides: bool = True,
) -> int:
    """Return the most samples that can pass forward at once; 0 where not a single one can.

    Args:
        work: all but its numbers of samples and micro-batches.
        batch_size: of one data-parallel rank.
        divides: only numbers that divide the batch.
    """
    sizes = [n for n in range(1, batch_size + 1) if not divides or batch_size % n == 0]

    def fits(samples: int) -> bool:
        smaller = replace(work, samples=samples, microbatches=-(-batch_size // samples))
        return not missing_bytes(shape, layout, smaller, limit_bytes, constants, placement)

    # Bisection: what fits with more samples at once fits with fewer.
    low, high = 0, len(sizes)
    while low < high:
        middle = (low + high) // 2
        low, high = (middle + 1, high) if fits(sizes[middle]) else (low, middle)
    return sizes[low - 1] if low else 0
