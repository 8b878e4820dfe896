"""A cell's layers: traced, measured in this process where nothing better is known, and cut into stages."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from harness.core.errors import Impossible
from harness.costs.memory import Placement
from harness.costs.profiles import LayerTime, ModelShape, Profile, TimeCurve
from harness.engines.shared.dram_count import stage_limits
from harness.engines.shared.layer_timing import LayerCost, measure_layers, place
from harness.engines.shared.pieces import make_pieces
from harness.engines.shared.setup import Setup
from harness.engines.shared.trace_or_find import counted_whole, shape_of
from harness.engines.virtual.executor import Executor
from harness.workloads.batches import tensors_of

REPEATS = 5
"""Of each measurement in this process; chosen: the least of five, a second for a small network."""

ALONE_ERROR = 0.1
"""Relative uncertainty of a profile measured alone in this process, one standard deviation; chosen above the 3 to 12 %
that a busy neighbour adds (measured, 2 EPYC cores, 2026-11-20, lenet5, mlp and resnet18)."""


def placed(setup: Setup, profile: Profile) -> Placement | None:
    """Return the layers of each stage of a cell's layout; None without a pipeline.

    Raises:
        Impossible: the layers cannot be cut into so many stages.
    """
    layout, samples = setup.layout, setup.cell.micro_batch_size
    if layout.pipeline == 1:
        return None
    layers = zip(profile.shape.layers, profile.times, strict=True)
    return place(
        layout,
        [
            LayerCost(layer.name, times.forward.at(samples), times.backward.at(samples), 0, layer.parameters)
            for layer, times in layers
        ],
        stage_limits(setup),
    )


def measured_alone(executor: Executor) -> Profile:
    """Measure a cell's workload in this process, at its batch and at half of it, with nobody busy beside it."""
    setup = executor.setup
    shape, whole = _shape(executor), max(1, min(setup.cell.micro_batch_size, setup.num_train))
    sizes = sorted({max(1, whole // 2), whole})
    inputs = [_input_s(executor, size) for size in sizes]
    seconds = [max(0.0, _gradient_s(executor, size) - read) for size, read in zip(sizes, inputs, strict=True)]
    shares = _shares(executor, shape, whole)

    def curve(part: float) -> TimeCurve:
        return TimeCurve(tuple((float(n), s * part) for n, s in zip(sizes, seconds, strict=True)))

    times = tuple(LayerTime(curve(forward), curve(backward)) for forward, backward in shares)
    text = f"in this process over {' and '.join(map(str, sizes))} samples, alone"
    apply_s = _apply_s(executor)
    reading = TimeCurve(tuple(zip(map(float, sizes), inputs, strict=True)))
    return Profile(shape, times, apply_s, input=reading, origin="measured", text=text, error=ALONE_ERROR)


def _shape(executor: Executor) -> ModelShape:
    found, replica = shape_of(executor.setup), executor.replica
    if isinstance(found, ModelShape):
        return found
    return counted_whole(replica.module, tensors_of(replica.data.train.inputs), replica.dtype)


def _gradient_s(executor: Executor, size: int) -> float:
    pieces = make_pieces(torch.arange(size).numpy(), 1 / size, size, pad=False)
    return _least(lambda: executor.replica.gradient(pieces))


def _input_s(executor: Executor, size: int) -> float:
    pieces = make_pieces(torch.arange(size).numpy(), 1 / size, size, pad=False)
    return _least(lambda: executor.replica.gather(pieces[0]))


def _shares(executor: Executor, shape: ModelShape, size: int) -> Sequence[tuple[float, float]]:
    """Return each layer's (forward, backward) share of a gradient."""
    piece = make_pieces(torch.arange(size).numpy(), 1.0, size, pad=False)[0]
    try:
        layers = measure_layers(executor.replica, piece) if len(shape.layers) > 1 else []
    except Impossible:
        layers = []
    if [layer.name for layer in layers] != [layer.name for layer in shape.layers]:
        return [(share / 3, 2 * share / 3) for share in shape.work_shares(size)]  # backward is two products for one
    total = sum(layer.forward_s + layer.backward_s for layer in layers)
    return [(layer.forward_s / total, layer.backward_s / total) for layer in layers]


def _apply_s(executor: Executor) -> float:
    weights, zeros = executor.replica.snapshot(), executor.replica.snapshot()
    zeros.pieces = [torch.zeros_like(zeros.vector())]
    seconds = _least(lambda: executor.replica.step(zeros, 0.0))
    executor.replica.load(weights)
    if executor.replica.optimizer is not None:
        executor.replica.optimizer.state.clear()
    executor.loaded = None
    return seconds


def _least(function: Callable[[], object]) -> float:
    function()
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)
