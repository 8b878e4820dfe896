"""Time `single` in this process, step by step and layer by layer."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from typing import Any

import torch

from harness.api.strategy import Batch
from harness.core.budget import Goal
from harness.core.cell import Cell
from harness.core.errors import Impossible
from harness.core.faults import NO_FAULTS
from harness.core.not_known import NotKnown
from harness.core.outcome import StepRow
from harness.core.step_parts import Part
from harness.costs.cells import MeasuredStep
from harness.costs.profiles import LayerShape, Linear, ModelShape
from harness.engines.processes.status import StatusBoard, StatusLine
from harness.engines.real.clock import Ledger, Queued, Stamp
from harness.engines.real.endpoints import RealWorker
from harness.engines.real.layouts.captured import allow_tf32
from harness.engines.real.layouts.choose import make_runner
from harness.engines.real.messages import Post
from harness.engines.shared.layer_timing import LayerCost, measure_layers, now_s
from harness.engines.shared.pieces import make_pieces
from harness.engines.shared.replica import Replica
from harness.engines.shared.sample_order import first_rows
from harness.engines.shared.setup import Setup, make_setup
from harness.engines.shared.trace_or_find import shape_of as traced_shape
from harness.workloads.accelerator import has_queue
from harness.workloads.batches import call, outputs_of, tensors_of

ROUNDS = 6
"""Times that all sizes are measured in turn, so that a drifting machine favours none of them; chosen."""

BLOCK_S = 0.12
"""Least time that a size is measured in one round; chosen: 100 steps of a small network, one step of a large one."""

STANDING = 1e-12
"""Learning rate that moves no parameter, so that what is measured does not depend on whether training would diverge;
chosen: below the precision of numbers near 1, and far above where arithmetic slows down (2**-126)."""

PROBE_BYTES = 2**26
"""Copied to find the bandwidth of a host's memory; chosen: larger than the last level of most caches."""

DEVICE_PROBE_BYTES = 2**29
"""Copied to find the bandwidth of a GPU's memory; chosen: eight times the 50 MiB of an H100's L2 cache (NVIDIA's H100
whitepaper), and 0.2 ms of copying, beside which waiting for it is nothing."""


@dataclass
class Stepper:
    """A worker of `single` that is taken through its program step by step.

    Attributes:
        size: samples of its batches.
        inputs, gradients, applies, rests: seconds of each step: until its samples are there, of its forward and
            backward passes, of its update, and of all else from one update's end to the next one's.
    """

    worker: RealWorker
    size: int
    inputs: list[float] = field(default_factory=list)
    gradients: list[float] = field(default_factory=list)
    applies: list[float] = field(default_factory=list)
    rests: list[float] = field(default_factory=list)
    layers: list[list[LayerCost]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.batches = self.worker.batches()

    def warm_up(self) -> None:
        """Let torch do what it does only once."""
        self.worker.runner.warm_up(self._next_full())
        self.worker.runner.settle()

    def block(self) -> None:
        """Take steps for a while and keep their times; the first one only warms up."""
        ledger, stamps = self.worker.ledger, list[tuple[StepRow, float, Stamp, Stamp]]()
        until = time.monotonic() + BLOCK_S
        while len(stamps) < 2 or time.monotonic() < until:
            batch = self._next_full()
            value = answer_of(self.worker.gradient(batch))
            passed_s, middle = ledger.row[Part.COMPUTE.column], ledger.stamp()
            answer_of(self.worker.apply(value))
            stamps.append((ledger.row, passed_s, middle, ledger.stamp()))
        self._keep(stamps)

    def _next_full(self) -> Batch:
        """Return the next batch that has all its samples; the last one of a pass may have fewer."""
        while True:
            batch = next(self.batches, None)
            if batch is None:  # the loss is no number any more; a step takes its time all the same
                self.worker.stopped, self.worker.decision = False, None
                self.batches = self.worker.batches()
            elif len(batch.indices) == self.size:
                return batch

    def _keep(self, stamps: Sequence[tuple[StepRow, float, Stamp, Stamp]]) -> None:
        self.worker.ledger.resolve()
        for (*_, before), (row, passed_s, middle, end) in itertools.pairwise(stamps):
            input_s, computed_s = row[Part.INPUT.column], row[Part.COMPUTE.column]
            # Passes and update are both accounted to computing; a queue tells them apart by its own moments only.
            passed_s = passed_s or computed_s - seconds_between(middle, end)
            self.inputs.append(input_s)
            self.gradients.append(passed_s)
            self.applies.append(computed_s - passed_s)
            self.rests.append(seconds_between(before, end) - input_s - computed_s)
        self.worker.ledger.start(time.monotonic())  # forget the rows


def answer_of(word: Any) -> Any:
    """Return what a word of the real engine answers; it never yields."""
    try:
        next(word.__await__())
    except StopIteration as end:
        return end.value
    raise AssertionError("a real word blocks inside and never yields")


def seconds_between(start: Any, end: Any) -> float:
    """Return the seconds between two stamps of a ledger: numbers, or moments in a device's queue."""
    return float(start.seconds_to(end) if isinstance(start, Queued) else end - start)


def typical(values: Sequence[float]) -> float:
    """Return the lower quartile: what other processes take from the machine meanwhile only ever adds."""
    return statistics.quantiles(values, n=4)[0] if len(values) > 1 else values[0]


def single_of(cell: Cell, size: int) -> Cell:
    """Return `single` over batches of so many samples of the same workload, without end and without evaluation."""
    return replace(
        cell,
        goal=Goal(max_steps=10**9, validation_fraction=cell.goal.validation_fraction),
        learning_rate=STANDING,
        batch_size=size,
        micro_batch_size=size,
        global_batch_size=size,
        strategy="single",
        options={},
        gpus=1,
        workers=1,
        servers=0,
        synchrony="synchronous",
        model_at="worker",
        engine="real",
        faults=NO_FAULTS,
    )


def make_stepper(setup: Setup, size: int) -> Stepper:
    """Return a stepper over the data of a setup."""
    setup = replace(setup, cell=single_of(setup.cell, size))
    device = setup.data.train.device
    status = StatusLine(StatusBoard(1).descriptor, 0, 1)
    ledger = Ledger(device, 0, 0, status)
    runner = make_runner(setup, ledger, 0, 0)
    post = Post({}, runner.shape, runner.replica.dtype)
    worker = RealWorker(setup, 0, runner, ledger, post, status, group_size=1)
    return Stepper(worker, size)


def prepare(cell: Cell, plugins: Sequence[str], sizes: Sequence[int]) -> list[Stepper]:
    """Return a stepper for each size, warmed up."""
    device = "cpu" if cell.device == "cpu" else f"{cell.device}:0"
    allow_tf32(cell.workload.tf32)
    setup = make_setup(single_of(cell, max(sizes)), plugins, device)
    steppers = [make_stepper(setup, size) for size in sizes]
    for stepper in steppers:
        stepper.warm_up()
    for stepper in steppers:
        stepper.worker.runner.execution.settle()
        stepper.block()
        for times in (stepper.inputs, stepper.gradients, stepper.applies, stepper.rests):
            times.clear()
    return steppers


# -- processes ---------------------------------------------------------------------------------------------------------


def keep_busy(cell: Cell, plugins: Sequence[str], size: int, control: Connection) -> None:
    """Train beside a measurement until the connection is closed."""
    (stepper,) = prepare(cell, plugins, [size])
    control.send(("ready", None))
    while not control.poll(0):
        stepper.block()


def measure(
    cell: Cell, plugins: Sequence[str], sizes: Sequence[int], neighbours: int, where: str, _: Connection
) -> dict[int, MeasuredStep]:
    """Return what is kept for each size; a process's whole work.

    Args:
        neighbours: busy processes beside this one.
        where: what is measured on, in words.
    """
    steppers = prepare(cell, plugins, sizes)
    for _round in range(ROUNDS):
        for stepper in steppers:
            stepper.block()
            stepper.layers.append(layers_of(stepper.worker.replica, stepper.size, traced_shape(stepper.worker.setup)))
    device = steppers[0].worker.replica.device
    launch, bandwidth = launch_s(device), memory_bandwidth(device)
    return {stepper.size: measured_step(stepper, launch, bandwidth, neighbours, where) for stepper in steppers}


def measured_step(stepper: Stepper, launch: float, bandwidth: float, neighbours: int, where: str) -> MeasuredStep:
    """Return one size's figures: layers add up to the passes, and the host's share is what is left of the step."""
    gradient = typical(stepper.gradients)
    rounds = list(zip(*stepper.layers, strict=True))
    forward = [typical([layer.forward_s for layer in runs]) for runs in rounds]
    backward = [typical([layer.backward_s for layer in runs]) for runs in rounds]
    scale = gradient / (sum(forward) + sum(backward))
    return MeasuredStep(
        shape=shape_of(stepper),
        forward_s=tuple(seconds * scale for seconds in forward),
        backward_s=tuple(seconds * scale for seconds in backward),
        input_s=typical(stepper.inputs),
        optimizer_s=typical(stepper.applies),
        step_s=max(0.0, typical(stepper.rests)),
        spread=spread(stepper.gradients),
        steps=len(stepper.gradients),
        launch_s=launch,
        memory_bandwidth_bytes_per_s=bandwidth,
        neighbours=neighbours,
        device=where,
    )


def spread(values: Sequence[float]) -> float:
    """Return the distance of the lower quartile from the median, relative: how much the machine was disturbed."""
    return statistics.median(values) / typical(values) - 1


def layers_of(replica: Replica, size: int, shape: ModelShape | NotKnown) -> list[LayerCost]:
    """Return the times of all layers; of the whole, divided by operations, where they cannot be timed one by one."""
    piece = make_pieces(first_rows(size, replica.data.num_train), 1.0 / size, size, pad=False)[0]
    try:
        return measure_layers(replica, piece, repeats=1)
    except Impossible:
        return _spread(_whole_model(replica, piece), shape, size)


def _spread(whole: LayerCost, shape: ModelShape | NotKnown, size: int) -> list[LayerCost]:
    if isinstance(shape, NotKnown):
        return [whole]
    return [
        LayerCost(
            layer.name,
            whole.forward_s * share,
            whole.backward_s * share,
            round(layer.output_bytes.at(size)),
            layer.parameters,
        )
        for layer, share in zip(shape.layers, shape.work_shares(size), strict=True)
    ]


def _whole_model(replica: Replica, piece: Any) -> LayerCost:
    inputs, targets, weight = replica.gather(piece)
    start = now_s(replica.device)
    with replica.autocast():
        outputs = outputs_of(call(replica.forward, inputs))
    middle = now_s(replica.device)
    replica.loss(outputs, targets, weight).backward()
    end = now_s(replica.device)
    replica.take_gradients()
    size = outputs.numel() * outputs.element_size()
    return LayerCost("model", middle - start, end - middle, size, replica.num_parameters)


def shape_of(stepper: Stepper) -> ModelShape:
    """Return the model's layers as traced; of one whose layers cannot be told apart that way, what a profile needs."""
    replica, size = stepper.worker.replica, stepper.size
    costs, found = stepper.layers[0], traced_shape(stepper.worker.setup)
    if isinstance(found, ModelShape) and [layer.name for layer in found.layers] == [cost.name for cost in costs]:
        return found
    children = dict(replica.module.named_children())
    modules = [children.get(cost.name, replica.module) for cost in costs]
    layers = [
        LayerShape(
            cost.name,
            tensors=tuple(p.numel() for p in module.parameters()),
            buffers_bytes=sum(b.numel() * b.element_size() for b in module.buffers()),
            output_bytes=Linear(0.0, cost.output_bytes / size),
        )
        for cost, module in zip(costs, modules, strict=True)
    ]
    tensors = tensors_of(replica.data.train.inputs)
    per_sample = Linear(0.0, float(sum(t[0].numel() * t.element_size() for t in tensors)))
    return ModelShape(tuple(layers), per_sample, replica.dtype.itemsize, "counted here", activations_known=False)


# -- the device itself -------------------------------------------------------------------------------------------------


def launch_s(device: torch.device) -> float:
    """Return the seconds of an operation on a single number."""
    number = torch.zeros(1, device=device)
    return least(lambda: number.add_(1.0), device, repeats=1000)


def memory_bandwidth(device: torch.device) -> float:
    """Return the bytes that are read and written in a second by a copy."""
    size = DEVICE_PROBE_BYTES if has_queue(device) else PROBE_BYTES
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / least(lambda: target.copy_(source), device, repeats=4)


def least(function: Callable[[], object], device: torch.device, repeats: int, blocks: int = 5) -> float:
    """Return the least mean time of one call over several blocks of calls."""
    function()
    times = []
    for _ in range(blocks):
        start = now_s(device)
        for _ in range(repeats):
            function()
        times.append((now_s(device) - start) / repeats)
    return min(times)
