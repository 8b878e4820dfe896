"""Steps of fully sharded data parallelism: parameters are gathered just before a layer computes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from harness.api.strategy import Layout
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps import collectives
from harness.costs.steps.data_parallel import waiting_s
from harness.costs.steps.fsdp_traffic import bytes_sent, fsdp_messages, fsdp_step_messages
from harness.costs.steps.layer_times import layer_seconds, total
from harness.costs.steps.result import StepCost, StreamTask


class _Pass(NamedTuple):
    """One layer's pass of one piece: what it gathers before, and scatters after."""

    name: str
    seconds: float
    gathered_bytes: float
    scattered_bytes: float


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

    def seconds(num_bytes: float) -> float:
        if not num_bytes:
            return 0.0
        return collectives.all_gather_s(cluster, layout.data, num_bytes) + constants.bucket_s + runtime.bucket_s

    line = _timeline(
        passes, seconds=[(seconds(p.gathered_bytes), seconds(p.scattered_bytes)) for p in passes], overlap=overlap
    )
    computing = sum(one.seconds for one in passes)
    compute = computing * (1 + constants.step_fraction)
    compute = compute * (1 + cluster.crowded_fraction(layout.data)) + runtime.wrapper_s
    input_s = profile.exposed_input_s(samples, pieces, profile.step_s + compute + line.exposed_s)
    slowed = constants.slowdown_fraction * max(0.0, line.busy_s - line.exposed_s)
    sent = bytes_sent(fsdp_step_messages(profile.shape, layout, pieces), layout.data) / layout.tensor
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
    messages = fsdp_messages(profile.shape, layout.data, layout.shard == "parameters")
    sizes = {(m.kind, m.phase, m.layer): m.num_bytes / layout.tensor for m in messages}
    whole = layout.shard == "optimizer"
    for piece in range(pieces):
        # Parameters that stay whole are gathered for the first piece, and gradients scattered after the last one.
        gathers, scatters = not whole or piece == 0, not whole or piece == pieces - 1
        for number, layer in enumerate(layers):
            gathered = sizes.get(("all-gather", "forward", number), 0.0) * gathers
            yield _Pass(f"forward {number}", layer.forward_s + layer.exchange_s, gathered, 0.0)
        for number, layer in reversed(list(enumerate(layers))):
            again = layer.forward_s + layer.exchange_s if recompute else 0.0
            gathered = sizes.get(("all-gather", "backward", number), 0.0) * gathers
            scattered = sizes.get(("reduce-scatter", "backward", number), 0.0) * scatters
            yield _Pass(f"backward {number}", layer.backward_s + layer.exchange_s + again, gathered, scattered)


class _Timeline(NamedTuple):
    exposed_s: float
    busy_s: float
    tasks: tuple[StreamTask, ...]


def _timeline(passes: Sequence[_Pass], seconds: Sequence[tuple[float, float]], overlap: bool) -> _Timeline:
    """Run the passes: one gather is under way while the pass before it computes; scatters follow their pass.

    Source: Zhao et al. 2023, "PyTorch FSDP", sections 3.3.1 and 3.3.2.
    """
    tasks: list[StreamTask] = []
    computing = free = 0.0
    ready = free = seconds[0][0]
    for number, (one, (_, scatter_s)) in enumerate(zip(passes, seconds, strict=True)):
        begins = max(computing, ready)
        computing = begins + one.seconds
        tasks.append(StreamTask(0, "compute", one.name, begins, computing))
        gather_s = seconds[number + 1][0] if number + 1 < len(seconds) else 0.0
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
            if not overlap:
                computing = free
    busy = sum(gather_s + scatter_s for gather_s, scatter_s in seconds)
    return _Timeline(max(computing, free) - sum(one.seconds for one in passes), busy, tuple(tasks))
