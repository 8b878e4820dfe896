"""Closed-form oracles of exchanges, overlap and memory, and what must hold of every step whatever it costs."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.api.schedules import gpipe, one_forward_one_backward, zb_1p
from harness.api.strategy import Layout
from harness.core.cell import Named
from harness.core.number_formats import SINGLE, Formats, ScalarBytes, scalar_bytes
from harness.costs.memory.device import CPU, Work, device_memory
from harness.costs.profiles.cluster_figures import Bus, Cluster, LinkFigures, Servers
from harness.costs.profiles.constants import PLAIN
from harness.costs.profiles.device_profile import LayerTime, Profile, TimeCurve
from harness.costs.profiles.shape import LayerShape, Linear, ModelShape
from harness.costs.steps.collectives import (
    all_gather_s,
    all_reduce_s,
    halving_doubling_s,
    ring_s,
    tree_s,
)
from harness.costs.steps.data_parallel import waiting_s
from harness.costs.steps.server import server_times
from harness.costs.steps.step import StepCost, step_cost

FAST = LinkFigures(5e-6, 10e9)
MEGABYTES_100 = 100e6

LINKS = st.builds(LinkFigures, st.floats(0.0, 1e-3), st.floats(1e8, 1e11))
BYTES = st.floats(1.0, 1e10)


def one_node(link: LinkFigures, ranks: int = 8, **more: Any) -> Cluster:
    return Cluster("a device", ranks, Bus(link), **more)


# -- 4. collectives ----------------------------------------------------------------------------------------------------


def test_examples_of_four_ranks():
    assert ring_s(4, MEGABYTES_100, FAST) == pytest.approx(15.030e-3, rel=1e-9)
    assert halving_doubling_s(4, MEGABYTES_100, FAST) == pytest.approx(15.020e-3, rel=1e-9)
    cost = step_cost(profile_of((1.0,), (1.0,), (25_000_000,)), one_node(FAST), Layout(data=4), 4, 1)
    assert cost.bytes_sent == pytest.approx(150e6)


def run_ring(vectors: Any) -> tuple[Any, int, float]:
    """Do a ring all-reduce on numbers; return what every rank holds, rounds, and bytes that each rank sent."""
    ranks = len(vectors)
    chunks = [list(np.array_split(vector, ranks)) for vector in vectors]
    rounds, sent = 0, [0.0] * ranks
    for phase in ("reduce", "gather"):
        for turn in range(ranks - 1):
            first = 0 if phase == "reduce" else 1
            moving = [(rank, (rank + first - turn) % ranks) for rank in range(ranks)]
            messages = [(rank, k, chunks[rank][k].copy()) for rank, k in moving]
            for rank, k, content in messages:
                target = chunks[(rank + 1) % ranks]
                target[k] = target[k] + content if phase == "reduce" else content
                sent[rank] += content.nbytes
            rounds += 1
    return [np.concatenate(parts) for parts in chunks], rounds, max(sent)


def run_halving_doubling(vectors: Any) -> tuple[Any, int, float]:
    """Do recursive halving and doubling on numbers; ranks are a power of two, and so many elements divide."""
    ranks, size = len(vectors), len(vectors[0])
    held = [vector.copy() for vector in vectors]
    spans, rounds, sent = [(0, size)] * ranks, 0, [0.0] * ranks
    steps = int(math.log2(ranks))
    for distance in (ranks >> (k + 1) for k in range(steps)):
        before, contents = list(spans), [vector.copy() for vector in held]
        for rank in range(ranks):
            low, high = before[rank]
            middle = (low + high) // 2
            keeps = (low, middle) if rank & distance == 0 else (middle, high)
            spans[rank] = keeps
            partner = contents[rank ^ distance][keeps[0] : keeps[1]]
            held[rank][keeps[0] : keeps[1]] = contents[rank][keeps[0] : keeps[1]] + partner
            sent[rank] += partner.nbytes
        rounds += 1
    for distance in (1 << k for k in range(steps)):
        before, contents = list(spans), [vector.copy() for vector in held]
        for rank in range(ranks):
            low, high = before[rank ^ distance]
            held[rank][low:high] = contents[rank ^ distance][low:high]
            sent[rank] += contents[rank][slice(*before[rank])].nbytes
            spans[rank] = (min(low, before[rank][0]), max(high, before[rank][1]))
        rounds += 1
    return held, rounds, max(sent)


@pytest.mark.parametrize("ranks", [2, 3, 4, 5, 8])
def test_a_rings_time_is_that_of_the_messages_it_sends(ranks):
    vectors = [np.random.default_rng(rank).integers(0, 99, 120 * ranks).astype(float) for rank in range(ranks)]
    held, rounds, sent = run_ring(vectors)
    assert all(np.array_equal(vector, sum(vectors)) for vector in held)
    num_bytes = vectors[0].nbytes
    assert ring_s(ranks, num_bytes, FAST) == pytest.approx(rounds * FAST.latency_s + FAST.seconds(sent))
    assert step_cost(
        profile_of((1.0,), (1.0,), (num_bytes // 4,)), one_node(FAST), Layout(data=ranks), ranks, 1
    ).bytes_sent == pytest.approx(sent)


@pytest.mark.parametrize("ranks", [2, 4, 8, 16])
def test_halving_and_doubling_takes_as_long_as_the_messages_it_sends(ranks):
    vectors = [np.random.default_rng(rank).integers(0, 99, 64 * ranks).astype(float) for rank in range(ranks)]
    held, rounds, sent = run_halving_doubling(vectors)
    assert all(np.array_equal(vector, sum(vectors)) for vector in held)
    expected = rounds * FAST.latency_s + FAST.seconds(sent)
    assert halving_doubling_s(ranks, vectors[0].nbytes, FAST) == pytest.approx(expected)


@settings(max_examples=100, derandomize=True)
@given(ranks=st.integers(2, 512), num_bytes=BYTES, link=LINKS)
def test_a_ring_reaches_the_bus_bandwidth_and_pays_two_messages_a_rank(ranks, num_bytes, link):
    latency = 2 * (ranks - 1) * link.latency_s
    seconds = ring_s(ranks, num_bytes, link)
    assert seconds == pytest.approx(latency + 2 * (ranks - 1) / ranks * num_bytes / link.bandwidth_bytes_per_s)
    bus = 2 * (ranks - 1) / ranks * num_bytes / ring_s(ranks, num_bytes, replace(link, latency_s=0.0))
    assert bus == pytest.approx(link.bandwidth_bytes_per_s)


@settings(max_examples=60, derandomize=True)
@given(power=st.integers(1, 9), num_bytes=BYTES, link=LINKS)
def test_halving_and_doubling_sends_a_rings_bytes_in_fewer_messages(power, num_bytes, link):
    saved = 2 * (2**power - 1 - power) * link.latency_s
    assert halving_doubling_s(2**power, num_bytes, link) == pytest.approx(ring_s(2**power, num_bytes, link) - saved)


@settings(max_examples=60, derandomize=True)
@given(local=st.integers(1, 16), nodes=st.integers(1, 64), num_bytes=BYTES, inside=LINKS, between=LINKS)
def test_hierarchical_all_reduce_is_one_ring_inside_and_one_between(local, nodes, num_bytes, inside, between):
    expected = 2 * (local - 1) * inside.latency_s + 2 * (local - 1) / local * inside.seconds(num_bytes)
    expected += 2 * (nodes - 1) * between.latency_s + 2 * (nodes - 1) / nodes * between.seconds(num_bytes)
    cluster = Cluster("a device", local, Bus(inside), node_link=between, algorithm="hierarchical")
    assert all_reduce_s(cluster, local * nodes, num_bytes) == pytest.approx(expected)


@settings(max_examples=60, derandomize=True)
@given(nodes=st.integers(2, 16), num_bytes=BYTES, inside=LINKS, between=LINKS)
def test_the_algorithm_that_is_asked_for_is_the_one_that_is_counted(nodes, num_bytes, inside, between):
    cluster = Cluster("a device", 4, Bus(inside), node_link=between)
    slowest = replace(between, bandwidth_bytes_per_s=min(inside.bandwidth_bytes_per_s, between.bandwidth_bytes_per_s))
    ranks = 4 * nodes
    expected = {
        "ring": ring_s(ranks, num_bytes, slowest),
        "tree": tree_s(ranks, num_bytes, slowest),
        "halving-doubling": halving_doubling_s(ranks, num_bytes, slowest),
        "hierarchical": ring_s(4, num_bytes, inside) + ring_s(nodes, num_bytes, between),
    }
    for algorithm, seconds in expected.items():
        asked = all_reduce_s(replace(cluster, algorithm=algorithm), ranks, num_bytes)
        assert asked == pytest.approx(seconds), algorithm
    assert all_reduce_s(cluster, ranks, num_bytes) == pytest.approx(min(expected.values()))
    assert all_gather_s(cluster, ranks, num_bytes) == pytest.approx(min(expected.values()) / 2)


# -- 4. servers --------------------------------------------------------------------------------------------------------


def servers(placement: str, workers: int, count: int, link: LinkFigures) -> Any:
    """Return a step's push and pull where workers have a node each, and a way to its memory that costs nothing."""
    at_once = LinkFigures(0.0, 1e30)
    cluster = Cluster("a device", 1, Bus(link), node_link=link, host_link=at_once, servers=Servers(placement, count))
    return server_times(cluster, workers, MEGABYTES_100)


def test_example_of_eight_workers_and_two_servers():
    """S = 100 MB, all links 1.25 GB/s: push 320 ms, and pull alike."""
    times = servers("dedicated", workers=8, count=2, link=LinkFigures(0.0, 1.25e9))
    assert times.push_s == pytest.approx(0.320)
    assert times.pull_s == pytest.approx(0.320)
    cap = 8 / times.push_s
    assert cap == pytest.approx(25.0)  # K B / S gradients a second


@settings(max_examples=60, derandomize=True)
@given(workers=st.integers(2, 64), count=st.integers(1, 64), link=LINKS)
def test_a_push_waits_for_the_worker_or_for_the_servers(workers, count, link):
    per_direction = servers("dedicated", workers, count, replace(link, latency_s=0.0)).push_s
    one = link.seconds(MEGABYTES_100)
    assert per_direction == pytest.approx(max(one, workers * one / count))


@settings(max_examples=60, derandomize=True)
@given(workers=st.integers(2, 64), link=LINKS)
def test_servers_beside_every_worker_carry_what_a_ring_carries(workers, link):
    link = replace(link, latency_s=0.0)
    both = servers("co-located", workers, workers, link)
    assert both.push_s + both.pull_s == pytest.approx(ring_s(workers, MEGABYTES_100, link))


# -- 6. overlap --------------------------------------------------------------------------------------------------------


def profile_of(
    forward: tuple[float, ...],
    backward: tuple[float, ...],
    parameters: tuple[int, ...],
    output_bytes: float = 0.0,
    split: float = 0.0,
) -> Profile:
    """Return a profile of layers of one tensor each; seconds are for one sample."""
    layers = tuple(
        LayerShape(f"layer {k}", (count,), output_bytes=Linear(0.0, output_bytes), split=split)
        for k, count in enumerate(parameters)
    )
    times = tuple(
        LayerTime(TimeCurve(((1.0, there),)), TimeCurve(((1.0, back),)))
        for there, back in zip(forward, backward, strict=True)
    )
    return Profile(ModelShape(layers), times)


def overlapped(
    forward: tuple[float, ...], backward: tuple[float, ...], exchange: tuple[float, ...], overlap: bool = True
) -> StepCost:
    """Return a step of two devices, a bucket for each layer; `exchange` in the order of the backward pass."""
    # A ring of two moves a bucket's bytes once: at 1 GB/s a parameter of four bytes takes 4 ns.
    parameters = tuple(round(seconds / 4e-9) for seconds in reversed(exchange))
    layout = Layout(data=2, bucket_bytes=1, overlap=overlap)
    return step_cost(profile_of(forward, backward, parameters), one_node(LinkFigures(0.0, 1e9)), layout, 2, 1)


@pytest.mark.parametrize(
    ("each", "hidden", "apart"), [(0.0, 0.090, 0.090), (0.015, 0.105, 0.135), (0.030, 0.140, 0.180)]
)
def test_example_of_three_buckets(each, hidden, apart):
    """Forward 30 ms, backward 60 ms, buckets ready after 50, 70 and 90 ms."""
    parts = ((0.010,) * 3, (0.020,) * 3, (each,) * 3)
    assert overlapped(*parts).total_s == pytest.approx(hidden)
    assert overlapped(*parts, overlap=False).total_s == pytest.approx(apart)


SECONDS = st.integers(1, 1000).map(lambda count: count * 1e-4)
LAYERS = st.lists(st.tuples(SECONDS, SECONDS, SECONDS), min_size=1, max_size=7)


@settings(max_examples=200, derandomize=True)
@given(layers=LAYERS)
def test_buckets_leave_one_after_another_when_they_are_ready(layers):
    forward, backward, exchange = zip(*layers, strict=True)
    compute, end = sum(forward) + sum(backward), 0.0
    ready = sum(forward)
    for back, seconds in zip(reversed(backward), exchange, strict=True):
        ready += back
        end = max(ready, end) + seconds
    step = overlapped(forward, backward, exchange)
    assert step.total_s == pytest.approx(max(compute, end), rel=1e-6)
    assert step.compute_s == pytest.approx(compute)
    assert step.busy_s == pytest.approx(sum(exchange), rel=1e-6)
    assert compute * (1 - 1e-9) <= step.total_s <= (compute + sum(exchange)) * (1 + 1e-6)
    assert overlapped(forward, backward, exchange, overlap=False).total_s == pytest.approx(
        compute + sum(exchange), rel=1e-6
    )


# -- 8. memory --------------------------------------------------------------------------------------------------------


def memory_of(
    layout: Layout, optimizer: dict[str, Any], microbatches: int = 1, scalar: ScalarBytes = SINGLE, **shape: Any
) -> Any:
    layers = tuple(
        LayerShape(f"layer {k}", (4096 * (k + 1),), activation_bytes=Linear(0.0, 1000.0 * (k + 1))) for k in range(8)
    )
    work = Work(optimizer, samples=2, microbatches=microbatches, scalar=scalar)
    return device_memory(ModelShape(layers, **shape), layout, work, CPU)


PARAMETERS = 4096 * 36
MOMENTUM = Named("sgd", {"momentum": 0.9})


def static_bytes(device: Any) -> int:
    return sum(device.kinds[kind] for kind in ("parameters", "gradients", "optimizer"))


@pytest.mark.parametrize(
    ("optimizer", "each"),
    [
        (Named("sgd"), 8),
        (MOMENTUM, 12),
        (Named("rmsprop"), 12),
        (Named("adam"), 16),
        (Named("adamw"), 16),
    ],
    ids=["sgd", "momentum", "rmsprop", "adam", "adamw"],
)
def test_static_bytes_of_a_parameter(optimizer, each):
    (device,) = memory_of(Layout(), optimizer).devices
    assert static_bytes(device) == each * PARAMETERS


@pytest.mark.parametrize(
    ("precision", "formats", "each"),
    [
        ("bf16", {}, 16),
        ("bf16", {"framework": "deepspeed"}, 16),
        ("mixed", {}, 16),
        ("bf16", {"framework": "megatron"}, 18),
        ("mixed", {"framework": "megatron"}, 18),
        ("fp32", {"framework": "megatron"}, 16),
        ("bf16", {"framework": "megatron", "master": "none"}, 2 + 4 + 2 * 2),
        ("bf16", {"framework": "deepspeed", "gradients": "fp32"}, 18),
        ("fp64", {}, 32),
    ],
)
def test_bytes_of_a_parameter_under_adam_are_those_that_frameworks_publish(precision, formats, each):
    """Source: Rajbhandari et al. 2020, "ZeRO", section 3.1 (16); Megatron-LM, docs, dist_optimizer.md (18, 16)."""
    (device,) = memory_of(Layout(), Named("adam"), scalar=scalar_bytes(precision, Formats(**formats))).devices
    assert static_bytes(device) == each * PARAMETERS


@pytest.mark.parametrize(
    ("precision", "formats", "lasting", "shared"),
    [("bf16", "megatron", 6, 12), ("fp32", "megatron", 8, 8), ("mixed", "deepspeed", 4, 12)],
)
@pytest.mark.parametrize("ranks", [1, 4, 64])
def test_sharing_states_out_leaves_weights_and_gradients_whole(precision, formats, lasting, shared, ranks):
    """Source: Megatron-LM, docs, dist_optimizer.md: 6 + 12/d and 8 + 8/d; ZeRO, section 5.1: 4 + 12/d."""
    scalar = scalar_bytes(precision, Formats(formats))
    (device,) = memory_of(Layout(data=ranks, shard="states"), Named("adam"), scalar=scalar).devices
    assert static_bytes(device) == (lasting + shared / ranks) * PARAMETERS


@pytest.mark.parametrize("ranks", [2, 4, 8])
def test_sharding_leaves_one_part_in_so_many(ranks):
    (device,) = memory_of(Layout(data=ranks, shard="parameters"), MOMENTUM).devices
    assert static_bytes(device) == 12 * PARAMETERS / ranks


@pytest.mark.parametrize(("schedule", "stash"), [(gpipe, [8, 8, 8, 8]), (one_forward_one_backward, [4, 3, 2, 1])])
def test_a_stage_holds_its_own_parameters_and_its_schedules_stash(schedule, stash):
    """Eight micro-batches over four stages of two layers each; a sample of layer k keeps 1,000 (k + 1) bytes."""
    placement = tuple((f"layer {k}", f"layer {k + 1}") for k in (0, 2, 4, 6))
    layout = Layout(pipeline=4, schedule=schedule, placement=placement)
    devices = memory_of(layout, MOMENTUM, microbatches=8).devices
    assert [static_bytes(device) for device in devices] == [12 * 4096 * (2 * k + 3) for k in (0, 2, 4, 6)]
    kept = [2 * 1000 * (2 * k + 3) for k in (0, 2, 4, 6)]
    assert [device.kinds["activations"] for device in devices] == [n * one for n, one in zip(stash, kept, strict=True)]


def test_groups_cost_what_one_of_them_costs_and_then_what_they_average():
    """Source: Zhao et al. 2023, "PyTorch FSDP", section 3.2.2: gathers and scatters stay inside a group."""
    profile = profile_of((1e-3,) * 4, (2e-3,) * 4, (10**6,) * 4)
    free = Cluster("a device", 4, Bus(FAST), node_link=LinkFigures(0.0, 1e30))
    slow = replace(free, node_link=LinkFigures(0.0, 1e8))
    grouped = Layout(data=8, shard="parameters", shard_group=4)
    alone = step_cost(profile, free, Layout(data=4, shard="parameters"), 32, 8)
    assert step_cost(profile, free, grouped, 64, 8).communication_s == pytest.approx(alone.communication_s, rel=1e-9)
    # Every device averages a quarter of each layer with one other: 2 (2 - 1) / 2 of a million bytes, over a quarter of
    # its node's link; four layers one behind another, from the end of the first backward pass on.
    averages_s, backward_s = 4 * 1e6 / (1e8 / 4), 3 * 8 * 2e-3
    added = step_cost(profile, slow, grouped, 64, 8).communication_s - alone.communication_s
    assert averages_s - backward_s - alone.communication_s <= added <= averages_s


# -- 9. invariants of a step -------------------------------------------------------------------------------------------

LAYOUTS = [
    Layout(data=4, bucket_bytes=2**16),
    Layout(data=8, bucket_bytes=2**16, overlap=False),
    Layout(data=4, bucket_bytes=2**16, accumulate=2),
    Layout(data=4, bucket_bytes=2**16, recompute=True),
    Layout(data=4, shard="parameters"),
    Layout(data=4, shard="parameters", overlap=False),
    Layout(data=4, shard="optimizer"),
    Layout(data=8, shard="parameters", shard_group=2),
    Layout(data=8, shard="states", overlap=False, bucket_bytes=2**16),
    Layout(tensor=2),
    Layout(tensor=2, data=2, bucket_bytes=2**16),
    Layout(pipeline=2, schedule=one_forward_one_backward),
    Layout(pipeline=2, schedule=gpipe),
    Layout(pipeline=2, schedule=zb_1p),
    Layout(pipeline=2, data=2, tensor=2, schedule=one_forward_one_backward),
]
STAGES = (("layer 0", "layer 1"), ("layer 2", "layer 3"))

PROFILES = st.builds(
    profile_of,
    forward=st.tuples(*[st.floats(1e-5, 1e-2)] * 4),
    backward=st.tuples(*[st.floats(1e-5, 1e-2)] * 4),
    parameters=st.tuples(*[st.integers(1, 10**5).map(lambda count: 64 * count)] * 4),
    output_bytes=st.floats(0.0, 1e6),
    split=st.floats(0.0, 1.0),
)
CLUSTERS = st.builds(
    lambda size, inside, between: Cluster("a device", size, Bus(inside), node_link=between),
    size=st.sampled_from([1, 2, 4, 8]),
    inside=LINKS,
    between=LINKS,
)
SAMPLES = 32


def cost_of(profile: Profile, cluster: Cluster, layout: Layout, **more: Any) -> StepCost:
    placement = STAGES if layout.pipeline > 1 else None
    return step_cost(profile, cluster, layout, SAMPLES, 2, placement, **more)


def with_links(cluster: Cluster, latency: float = 1.0, bandwidth: float = 1.0) -> Cluster:
    def changed(link: LinkFigures) -> LinkFigures:
        return LinkFigures(link.latency_s * latency, link.bandwidth_bytes_per_s * bandwidth)

    assert cluster.node_link is not None
    return replace(cluster, bus=Bus(changed(cluster.bus.link)), node_link=changed(cluster.node_link))


def with_bytes(profile: Profile, factor: int) -> Profile:
    layers = tuple(
        replace(
            layer,
            tensors=tuple(count * factor for count in layer.tensors),
            output_bytes=Linear(0.0, layer.output_bytes.per_sample * factor),
        )
        for layer in profile.shape.layers
    )
    return replace(profile, shape=replace(profile.shape, layers=layers))


EVERY_STEP = {"profile": PROFILES, "cluster": CLUSTERS, "layout": st.sampled_from(LAYOUTS)}


@settings(max_examples=150, derandomize=True)
@given(**EVERY_STEP, factor=st.floats(1e-3, 1e3))
def test_all_times_scale_together(profile, cluster, layout, factor):
    one = cost_of(profile, cluster, layout)
    other = cost_of(profile.slowed(factor), with_links(cluster, factor, 1 / factor), layout)
    for part in ("total_s", "compute_s", "communication_s", "idle_s", "busy_s"):
        expected = factor * getattr(one, part)
        # What is left after hiding is a difference: rounding is that of the whole.
        assert getattr(other, part) == pytest.approx(expected, rel=1e-9, abs=1e-9 * factor * one.total_s), part
    assert other.bytes_sent == one.bytes_sent
    assert other.bubble_fraction == pytest.approx(one.bubble_fraction)


@settings(max_examples=150, derandomize=True)
@given(**EVERY_STEP, factor=st.sampled_from([2, 4, 8]))
def test_bytes_and_bandwidths_scaled_alike_change_no_time(profile, cluster, layout, factor):
    """Buckets too: 8 times 64 KiB are still less than the first bucket's fixed 1 MiB."""
    one = cost_of(profile, cluster, layout)
    larger = replace(layout, bucket_bytes=layout.bucket_bytes * factor)
    other = cost_of(with_bytes(profile, factor), with_links(cluster, bandwidth=factor), larger)
    assert other.total_s == pytest.approx(one.total_s, rel=1e-9)
    assert other.bytes_sent == pytest.approx(factor * one.bytes_sent, rel=1e-9)


@settings(max_examples=300, derandomize=True)
@given(
    **EVERY_STEP,
    change=st.sampled_from(["bandwidth", "latency", "computing", "one layer"]),
    better=st.floats(1.0, 100.0),
    layer=st.integers(0, 3),
)
def test_what_gets_faster_never_makes_a_step_longer(profile, cluster, layout, change, better, layer):
    """With a fixed order of operations, which a cut into stages that is given has."""
    before = cost_of(profile, cluster, layout).total_s
    if change == "bandwidth":
        cluster = with_links(cluster, bandwidth=better)
    elif change == "latency":
        cluster = with_links(cluster, latency=1 / better)
    elif change == "computing":
        profile = profile.slowed(1 / better)
    else:
        times = list(profile.times)
        times[layer] = LayerTime(times[layer].forward.scaled(1 / better), times[layer].backward.scaled(1 / better))
        profile = replace(profile, times=tuple(times))
    assert cost_of(profile, cluster, layout).total_s <= before * (1 + 1e-9)


@settings(max_examples=100, derandomize=True)
@given(**EVERY_STEP)
def test_free_links_leave_computing_and_waiting(profile, cluster, layout):
    step = cost_of(profile, with_links(cluster, latency=0.0, bandwidth=1e30), layout)
    assert step.communication_s <= 1e-9 * step.total_s
    if layout.pipeline == 1:
        assert step.total_s == pytest.approx(step.compute_s)


@settings(max_examples=100, derandomize=True)
@given(**EVERY_STEP)
def test_free_computing_leaves_communication_alone(profile, cluster, layout):
    step = cost_of(profile.slowed(0.0), cluster, layout)
    assert step.compute_s <= 1e-12 * step.total_s
    # Gradients are exchanged while tensor-parallel groups exchange outputs, and sums of what is sharded while others
    # gather weights: two groups, two streams.
    copies = layout.gathers and 1 < layout.shard_group < layout.data
    streams = (layout.data > 1) + (layout.tensor > 1) + copies
    if layout.pipeline == 1 and streams == 1:
        assert step.total_s == pytest.approx(step.busy_s)
    elif layout.pipeline == 1:
        assert step.total_s <= step.busy_s * (1 + 1e-9)


@settings(max_examples=60, derandomize=True)
@given(profile=PROFILES, cluster=CLUSTERS)
def test_one_device_does_not_communicate(profile, cluster):
    step = cost_of(profile, cluster, Layout())
    assert (step.communication_s, step.idle_s, step.bytes_sent, step.busy_s) == (0.0, 0.0, 0.0, 0.0)
    assert step.total_s == pytest.approx(16 * profile.gradient_s(2))


@settings(max_examples=100, derandomize=True)
@given(**EVERY_STEP, read_s=st.floats(1e-6, 1e-2), host_s=st.floats(1e-6, 1e-2))
def test_reading_and_the_hosts_own_work_lengthen_a_step_and_are_parts_of_their_own(
    profile, cluster, layout, read_s, host_s
):
    bare = cost_of(profile, cluster, layout, tasks=True)
    step = cost_of(replace(profile, input=TimeCurve(((2.0, read_s),)), step_s=host_s), cluster, layout, tasks=True)
    pieces = SAMPLES // layout.data // 2
    assert step.host_s == host_s
    assert step.total_s == pytest.approx(bare.total_s + pieces * read_s + host_s)
    assert (step.compute_s, step.communication_s) == (bare.compute_s, bare.communication_s)
    assert step.input_s == pytest.approx(pieces * read_s)  # with two stages both read, at the same time
    if layout.pipeline == 1:
        assert max(t.end_s for t in step.tasks) == pytest.approx(max(t.end_s for t in bare.tasks) + step.input_s)


@pytest.mark.parametrize(("readers", "exposed"), [(0, 20.0), (1, 11.0), (2, 1.0), (3, 0.0)])
def test_a_step_waits_for_readers_only_where_together_they_are_slower_than_the_rest(readers, exposed):
    profile = replace(profile_of((1.0,), (3.0,), (10,)), input=TimeCurve(((2.0, 20.0),)), readers=readers, step_s=1.0)
    step = step_cost(profile, one_node(FAST), Layout(), 2, 2)
    assert (step.input_s, step.total_s) == (exposed, exposed + 9.0)


@settings(max_examples=100, derandomize=True)
@given(profile=PROFILES, cluster=CLUSTERS, layout=st.sampled_from(LAYOUTS))
def test_no_bytes_take_no_bandwidth(profile, cluster, layout):
    """Where there are no parameters and no outputs a slower link costs nothing but its latency."""
    empty = with_bytes(profile, 0)
    fast, slow = (cost_of(empty, with_links(cluster, bandwidth=factor), layout) for factor in (1.0, 1e-6))
    assert fast.bytes_sent == 0
    assert fast.total_s == pytest.approx(slow.total_s)


@settings(max_examples=100, derandomize=True)
@given(**EVERY_STEP)
def test_a_stream_is_never_busy_for_longer_than_the_step(profile, cluster, layout):
    step = cost_of(profile, cluster, layout)
    assert step.total_s == step.input_s + step.compute_s + step.communication_s + step.idle_s + step.host_s
    assert 0 <= step.compute_s <= step.total_s
    streams = (layout.data > 1) + (layout.tensor > 1) + (layout.pipeline > 1)
    assert 0 <= step.busy_s <= streams * step.total_s * (1 + 1e-9)
    if layout.pipeline == 1:  # a message between stages frees its link before it arrives, a latency later
        assert step.communication_s <= step.busy_s * (1 + 1e-9)


@settings(max_examples=100, derandomize=True)
@given(**EVERY_STEP)
def test_what_a_trace_shows_never_overlaps_itself_and_is_in_order(profile, cluster, layout):
    step = cost_of(profile, cluster, layout, tasks=True)
    streams: dict[tuple[int, str, bool], float] = {}
    for task in sorted(step.tasks, key=lambda task: (task.start_s, task.end_s)):
        assert task.end_s >= task.start_s >= -1e-12
        stream = task.device, task.stream, task.name.startswith("average")  # between groups, on links of their own
        assert task.start_s >= streams.get(stream, 0.0) - 1e-9 * step.total_s, task
        streams[stream] = task.end_s
    assert cost_of(profile, cluster, layout) == replace(step, tasks=())


@settings(max_examples=60, derandomize=True)
@given(**EVERY_STEP)
def test_the_same_step_costs_the_same_to_the_last_bit(profile, cluster, layout):
    assert repr(cost_of(profile, cluster, layout)) == repr(cost_of(profile, cluster, layout))


# -- waiting for the slowest, and devices that share something ---------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 16])
def test_waiting_is_that_for_the_slowest_of_ranks_whose_kernels_vary_independently(steps):
    """Every tenth of a second varies by 2 %; eight ranks of so many tenths wait for the slowest sum."""
    draws = np.random.default_rng(0).normal(0.1, 0.002, size=(20_000, 8, steps)).sum(axis=2)
    expected = draws.max(axis=1).mean() - 0.1 * steps
    assert waiting_s(0.02, 0.1 * steps, 8) == pytest.approx(expected, rel=0.02)


def test_waiting_of_short_steps_is_in_proportion_and_alone_nobody_waits():
    assert waiting_s(0.02, 0.01, 8) == pytest.approx(waiting_s(0.02, 0.1, 8) / 10)
    assert waiting_s(0.02, 0.1, 1) == 0.0


def test_devices_that_share_a_board_or_a_processor_compute_longer_together():
    profile = profile_of((1.0,), (1.0,), (1000,))
    some = replace(PLAIN, shared_board_fraction=0.05, shared_host_fraction=0.2)
    for changes, longer in (({}, 1.0), ({"dies_per_board": 2}, 1.05), ({"shared_host": True}, 1.2)):
        cluster = one_node(FAST, constants=some, **changes)
        alone, four = (step_cost(profile, cluster, Layout(data=n), n, 1).compute_s for n in (1, 4))
        assert four == pytest.approx(alone * longer)


def test_threads_that_send_do_not_compute_meanwhile():
    profile = profile_of((0.1, 0.1), (1.0, 1.0), (25_000_000, 25_000_000))
    layout = Layout(data=4, bucket_bytes=2**20, overlap=True)
    hidden, shown = (step_cost(profile, one_node(FAST, shared_host=shared), layout, 4, 1) for shared in (False, True))
    assert shown.communication_s == pytest.approx(2 * hidden.communication_s, rel=0.01)
