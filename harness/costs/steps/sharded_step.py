"""Steps of fully sharded data parallelism: parameters are gathered just before a layer computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.api.strategy import Layout
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps import collectives
from harness.costs.steps.data_parallel import neighbours_s, waiting_s
from harness.costs.steps.fsdp_traffic import bytes_sent, fsdp_messages, fsdp_step_messages
from harness.costs.steps.layer_times import layer_seconds, total
from harness.costs.steps.result import StepCost, StreamTask


class _Pass(NamedTuple):
    """One layer's pass of one piece: what it gathers before, and scatters after."""

    name: str
    seconds: float
    gathered_bytes: float
    scattered_bytes: float
    averaged_bytes: float


def sharded_step(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    samples: float,
    pieces: int,
    recompute: bool,
    tasks: bool = False,
) -> StepCost:
    """Return the cost of a step in which every replica computes so many pieces of so many samples."""
    constants, runtime = cluster.constants, cluster.runtime
    overlap = layout.overlap and cluster.hides_exchange(layout.devices)
    passes = list(_passes(profile, cluster, layout, samples, pieces, recompute))

    def whole_s(num_bytes: float, seconds: float) -> float:
        own_s = constants.bucket_s + runtime.bucket_s + runtime.sharded.at(num_bytes)
        return seconds + own_s if num_bytes else 0.0

    def gathered_s(num_bytes: float) -> float:
        return whole_s(num_bytes, collectives.all_gather_s(cluster, layout.sharers, num_bytes))

    def scattered_s(num_bytes: float) -> float:
        return whole_s(num_bytes, collectives.reduce_scatter_s(cluster, layout.sharers, num_bytes))

    def averaged_s(num_bytes: float) -> float:
        return whole_s(num_bytes, neighbours_s(cluster, layout.groups, layout.sharers, num_bytes))

    seconds = [_Exchanges(gathered_s(p.gathered_bytes), scattered_s(p.scattered_bytes), averaged_s(p.averaged_bytes))
               for p in passes]  # fmt: skip
    line = _timeline(passes, seconds, overlap)
    computing = sum(one.seconds for one in passes)
    compute = computing * (1 + constants.step_fraction)
    compute = compute * (1 + cluster.crowded_fraction(layout.data)) + runtime.wrapper_s
    input_s = profile.exposed_input_s(samples, pieces, profile.step_s + compute + line.exposed_s)
    slowed = constants.slowdown_fraction * max(0.0, line.busy_s - line.exposed_s)
    sent = bytes_sent(fsdp_step_messages(profile.shape, layout, pieces)) / layout.tensor
    tensor = total(layer_seconds(profile, cluster, layout.tensor, samples))
    communication = max(0.0, line.exposed_s - slowed)
    idle = waiting_s(constants.spread_fraction, compute, layout.data)
    return StepCost(
        *(compute + slowed, communication, idle, sent + 2 * pieces * tensor.exchange_bytes, line.busy_s),
        tasks=_behind_input(line.tasks, input_s) if tasks else (),
        input_s=input_s,
        host_s=profile.step_s,
    )


def _behind_input(tasks: Sequence[StreamTask], input_s: float) -> tuple[StreamTask, ...]:
    if not input_s:
        return tuple(tasks)
    later = (replace(task, start_s=task.start_s + input_s, end_s=task.end_s + input_s) for task in tasks)
    return (StreamTask(0, "compute", "input", 0.0, input_s), *later)


def _passes(
    profile: Profile, cluster: Cluster, layout: Layout, samples: float, pieces: int, recompute: bool
) -> Iterator[_Pass]:
    layers = layer_seconds(profile, cluster, layout.tensor, samples)
    messages = fsdp_messages(profile.shape, layout.sharers, layout.shard == "parameters", layout.groups)
    sizes = {(m.kind, m.phase, m.layer): m.num_bytes / layout.tensor for m in messages}
    whole = layout.shard == "optimizer"
    for piece in range(pieces):
        # Parameters that stay whole are gathered for the first piece, and gradients scattered after the last one.
        last = piece == pieces - 1
        gathers, scatters = not whole or piece == 0, not whole or last
        for number, layer in enumerate(layers):
            gathered = sizes.get(("all-gather", "forward", number), 0.0) * gathers
            yield _Pass(f"forward {number}", layer.forward_s + layer.exchange_s, gathered, 0.0, 0.0)
        for number, layer in reversed(list(enumerate(layers))):
            again = layer.forward_s + layer.exchange_s if recompute else 0.0
            gathered = sizes.get(("all-gather", "backward", number), 0.0) * gathers
            scattered = sizes.get(("reduce-scatter", "backward", number), 0.0) * scatters
            averaged = sizes.get(("all-reduce", "backward", number), 0.0) * last
            seconds = layer.backward_s + layer.exchange_s + again
            yield _Pass(f"backward {number}", seconds, gathered, scattered, averaged)


class _Exchanges(NamedTuple):
    """Seconds of what a pass gathers before, scatters after, and averages with other groups after that."""

    gather_s: float
    scatter_s: float
    average_s: float


class _Timeline(NamedTuple):
    exposed_s: float
    busy_s: float
    tasks: tuple[StreamTask, ...]


def _timeline(passes: Sequence[_Pass], seconds: Sequence[_Exchanges], overlap: bool) -> _Timeline:
    """Run the passes: one gather is under way while the pass before it computes; scatters follow their pass.

    What groups average has a stream of its own, as it has links of its own: a scatter need not wait for the average
    before it.

    Source: Zhao et al. 2023, "PyTorch FSDP", sections 3.3.1 and 3.3.2; torch 2.13, FSDPParamGroup's all_reduce_stream.
    """
    tasks: list[StreamTask] = []
    computing = between = 0.0
    ready = free = seconds[0].gather_s
    for number, (one, (_, scatter_s, average_s)) in enumerate(zip(passes, seconds, strict=True)):
        begins = max(computing, ready)
        computing = begins + one.seconds
        tasks.append(StreamTask(0, "compute", one.name, begins, computing))
        gather_s = seconds[number + 1].gather_s if number + 1 < len(seconds) else 0.0
        leaves = max(free, begins if overlap else computing)
        ready = free = leaves + gather_s if gather_s else free
        if gather_s:
            tasks.append(StreamTask(0, "communication", f"gather for {passes[number + 1].name}", leaves, ready))
        else:
            ready = 0.0
        if scatter_s:
            leaves = max(free, computing)
            free = leaves + scatter_s
            tasks.append(StreamTask(0, "communication", f"scatter after {one.name}", leaves, free))
            averaged_from = max(between, free)
            between = averaged_from + average_s if average_s else between
            if average_s:
                tasks.append(StreamTask(0, "communication", f"average after {one.name}", averaged_from, between))
            if not overlap:
                computing = free = max(free, between)
    busy = sum(sum(each) for each in seconds)
    return _Timeline(max(computing, free, between) - sum(one.seconds for one in passes), busy, tuple(tasks))
