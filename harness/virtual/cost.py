"""Constant costs of a virtual cluster: how long a gradient, an update and a message take.

Costs come from the scenario, or are measured on this machine just before the cell runs; nothing is guessed. Contention,
overlap, calibrated profiles and catalogue devices are not modelled here yet, and the record says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.strategy import Layout, Table
from harness.training.layers import LayerCost, Placement, measure_layers, place
from harness.training.replica import Piece, make_pieces
from harness.virtual.executor import Executor, full_batch_indices

LOOPBACK_LATENCY_S = 50e-6
"""One message through a pipe on one host: 40 to 90 us measured (2 shared EPYC cores); chosen inside that range, so that
cells without a link of their own do not differ from run to run."""


@dataclass(frozen=True)
class Link:
    """A link of constant latency and bandwidth, per direction."""

    latency_s: float
    bandwidth_bytes_per_s: float

    def seconds(self, num_bytes: float) -> float:
        """Return the time on the wire, latency left out."""
        return num_bytes / self.bandwidth_bytes_per_s


@dataclass(frozen=True)
class Part:
    """What one step of one worker consists of, in seconds: means over its devices that add up to the step."""

    compute_s: float
    communication_s: float = 0.0
    idle_s: float = 0.0
    bytes_sent: float = 0.0

    @property
    def total_s(self) -> float:
        """Length of the step."""
        return self.compute_s + self.communication_s + self.idle_s


@dataclass(frozen=True)
class Costs:
    """Constant costs of a workload on a device.

    Attributes:
        fixed_s, per_sample_s: a gradient over n samples takes fixed_s + n * per_sample_s.
        apply_s: one optimizer step.
        layer_shares: (forward, backward) share of each layer in a gradient's time; adds up to 1.
        boundary_bytes_per_sample: what each layer hands to the next.
        placement: layers of each pipeline stage; None without a pipeline.
        origin: where the figures are from, in words.
    """

    fixed_s: float
    per_sample_s: float
    apply_s: float
    link: Link
    parameter_bytes: int
    origin: str
    layer_shares: tuple[tuple[float, float], ...] = ()
    boundary_bytes_per_sample: tuple[float, ...] = ()
    placement: Placement | None = None

    def gradient_s(self, samples: int) -> float:
        """Return the time of one forward and backward pass."""
        return self.fixed_s + samples * self.per_sample_s

    def step(self, layout: Layout, samples: int, micro_batch_size: int) -> Part:
        """Return what a gradient over `samples` costs under a layout."""
        if layout.pipeline > 1:
            return self._pipeline(layout, -(-samples // micro_batch_size), micro_batch_size)
        part = -(-samples // layout.data)
        pieces = max(1, -(-part // micro_batch_size))
        compute = pieces * self.fixed_s + part * self.per_sample_s
        sent = 2 * (layout.data - 1) / layout.data * self.parameter_bytes
        return Part(compute, self.all_reduce_s(layout.data, self.parameter_bytes), bytes_sent=sent)

    def all_reduce_s(self, ranks: int, num_bytes: float) -> float:
        """Return the time of a ring all-reduce: 2 (n - 1) messages of 1/n of the bytes each.

        Source: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms", section 3.
        """
        if ranks == 1:
            return 0.0
        return 2 * (ranks - 1) * (self.link.latency_s + self.link.seconds(num_bytes / ranks))

    def _pipeline(self, layout: Layout, microbatches: int, size: int) -> Part:
        assert layout.schedule is not None
        assert self.placement is not None
        table = layout.schedule(layout.pipeline, microbatches)
        whole = self.gradient_s(size)
        ends = stage_ends(self.placement)
        times = [
            tuple(whole * sum(share[way] for share in self.layer_shares[start:end]) for way in (0, 1))
            for start, end in zip([0, *ends[:-1]], ends, strict=True)
        ]
        hop_bytes = [self.boundary_bytes_per_sample[end - 1] * size for end in ends[:-1]]
        hops = [self.link.latency_s + self.link.seconds(sent) for sent in hop_bytes]
        makespan = pipeline_makespan(table, lambda s, way: times[s][way == "backward"], lambda s: hops[s])
        busy = microbatches * sum(f + b for f, b in times) / layout.pipeline
        wire = 2 * microbatches * sum(hops) / layout.pipeline
        communication = min(wire, makespan - busy)
        sent = 2 * microbatches * sum(hop_bytes) / layout.pipeline
        return Part(busy, communication, makespan - busy - communication, sent)


def stage_ends(placement: Placement) -> list[int]:
    """Return the number of layers up to the end of each stage."""
    return [sum(len(stage) for stage in placement[: k + 1]) for k in range(len(placement))]


def pipeline_makespan(table: Table, cost: Callable[[int, str], float], hop: Callable[[int], float]) -> float:
    """Interpret a pipeline table: every action starts when its rank is free and its input is there.

    Args:
        cost: seconds of (stage, "forward" or "backward").
        hop: seconds from stage k to stage k + 1, or back.

    Returns:
        Seconds until the last action ends.

    Raises:
        ValueError: the table waits for itself, or for an action that it does not contain.
    """
    stages = 1 + max(action.stage for actions in table for action in actions)
    done: dict[Any, float] = {}
    free, positions = [0.0] * len(table), [0] * len(table)
    while any(position < len(actions) for position, actions in zip(positions, table, strict=True)):
        moved = False
        for rank, actions in enumerate(table):
            while positions[rank] < len(actions):
                action = actions[positions[rank]]
                ready = _input_ready(action, stages, done, hop)
                if ready is None:
                    break
                free[rank] = max(free[rank], ready) + cost(action.stage, action.kind)
                done[action] = free[rank]
                positions[rank] += 1
                moved = True
        if not moved:
            waiting = [actions[p] for p, actions in zip(positions, table, strict=True) if p < len(actions)]
            raise ValueError(f"the pipeline table deadlocks: {waiting[0]} waits for an input that nobody computes")
    return max(free)


def _input_ready(action: Any, stages: int, done: dict[Any, float], hop: Callable[[int], float]) -> float | None:
    if action.kind == "forward":
        if action.stage == 0:
            return 0.0
        source, delay = action._replace(stage=action.stage - 1), hop(action.stage - 1)
    elif action.stage == stages - 1:
        source, delay = action._replace(kind="forward"), 0.0
    else:
        source, delay = action._replace(stage=action.stage + 1), hop(action.stage)
    return done[source] + delay if source in done else None


# -- where costs come from ---------------------------------------------------------------------------------------------


def find_costs(executor: Executor) -> Costs:
    """Return the scenario's constants, completed by measurements of this machine."""
    setup = executor.setup
    cluster = dict(setup.cell.cluster)
    layers, samples = _layers(executor)
    shares, boundaries = _shares(layers, samples)
    fixed, per_sample, origin = _compute(executor, cluster)
    parameter_bytes = executor.replica.num_parameters * executor.replica.dtype.itemsize
    link, link_origin = _link(cluster, parameter_bytes)
    return Costs(
        fixed_s=fixed,
        per_sample_s=per_sample,
        apply_s=_measure_apply(executor),
        link=link,
        parameter_bytes=parameter_bytes,
        origin=f"constant costs: {origin}; {link_origin}",
        layer_shares=shares,
        boundary_bytes_per_sample=boundaries,
        placement=place(setup.layout, layers) if layers else None,
    )


def _compute(executor: Executor, cluster: dict[str, Any]) -> tuple[float, float, str]:
    device = cluster.get("device")
    if device:
        if "step_time_s" in device:
            per_sample = device["step_time_s"] / device["batch_size"]
        else:
            per_sample = 1 / device["samples_per_second"]
        return 0.0, per_sample, f"{1 / per_sample:.6g} samples/s given by the scenario"
    indices = full_batch_indices(executor.setup)
    whole = _least_gradient_s(executor, indices)
    if len(indices) < 2:
        return 0.0, whole, "gradient measured here at batch size 1"
    half = _least_gradient_s(executor, indices[: len(indices) // 2])
    per_sample = max(0.0, whole - half) / (len(indices) - len(indices) // 2)
    fixed = max(0.0, whole - per_sample * len(indices))
    return fixed, per_sample, f"gradient measured here at batch sizes {len(indices) // 2} and {len(indices)}"


def _least_gradient_s(executor: Executor, indices: Any, repeats: int = 5) -> float:
    size = executor.setup.cell.micro_batch_size
    return _least(lambda: executor.replica.gradient(make_pieces(indices, 1 / len(indices), size, pad=False)), repeats)


def _measure_apply(executor: Executor) -> float:
    weights = executor.replica.snapshot()
    zeros = executor.replica.snapshot()
    zeros.pieces = [torch.zeros_like(zeros.tensor())]
    seconds = _least(lambda: executor.replica.step(zeros, 0.0), 5)
    executor.replica.load(weights)
    assert executor.replica.optimizer is not None
    executor.replica.optimizer.state.clear()
    executor.loaded = None
    return seconds


def _link(cluster: dict[str, Any], num_bytes: int) -> tuple[Link, str]:
    given = cluster.get("inter_node") or cluster.get("intra_node")
    if given:
        link = Link(given.get("latency_s", 0.0), given["bandwidth_bytes_per_s"])
        return link, f"link of {link.bandwidth_bytes_per_s:.6g} B/s given by the scenario"
    source = torch.zeros(max(num_bytes, 2**16), dtype=torch.uint8)
    target = torch.empty_like(source)
    seconds = _least(lambda: target.copy_(source), 5)
    # A message through shared memory is copied in and copied out.
    bandwidth = source.numel() / (2 * seconds)
    return Link(LOOPBACK_LATENCY_S, bandwidth), f"memory copies of {bandwidth:.3g} B/s measured here"


def _layers(executor: Executor) -> tuple[Sequence[LayerCost], int]:
    if executor.setup.layout.pipeline == 1:
        return (), 0
    piece = probe_piece(executor)
    return measure_layers(executor.replica, piece), len(piece.indices)


def _shares(layers: Sequence[LayerCost], samples: int) -> tuple[tuple[tuple[float, float], ...], tuple[float, ...]]:
    total = sum(layer.forward_s + layer.backward_s for layer in layers)
    shares = tuple((layer.forward_s / total, layer.backward_s / total) for layer in layers)
    return shares, tuple(layer.output_bytes / samples for layer in layers)


def _least(function: Callable[[], Any], repeats: int) -> float:
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return min(times)


def probe_piece(executor: Executor) -> Piece:
    """Return one micro-batch of the cell: what activations are counted with."""
    indices = full_batch_indices(executor.setup)
    return make_pieces(indices[: executor.setup.cell.micro_batch_size], 1.0, 10**9, pad=False)[0]
