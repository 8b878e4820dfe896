"""Steps that combine a pipeline with data and tensor parallelism."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from harness.api.schedules import one_forward_one_backward
from harness.api.strategy import Layout, Table
from harness.costs.memory.cuts import Placement, balance_joined
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.constants import Constants
from harness.costs.profiles.device_profile import Profile
from harness.costs.profiles.shape import LayerShape, ModelShape
from harness.costs.steps.collectives import all_reduce_s
from harness.costs.steps.data_parallel import waiting_s
from harness.costs.steps.layer_times import LayerSeconds, layer_seconds, total
from harness.costs.steps.replicated_step import bucket_s
from harness.costs.steps.result import StepCost
from harness.costs.steps.steady_step import steady_step
from harness.costs.steps.table_time import PipelineTimes, Recompute, StageTimes, pipeline_cost

READERS = 2
"""Stages of a pipeline that read: the first one inputs, the last one targets."""


def pipelined_step(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    samples: float,
    pieces: int,
    placement: Placement | None,
    recompute: Recompute,
    tasks: bool = False,
) -> StepCost:
    """Return the cost of a step of pipelines that each pass so many micro-batches.

    Devices of a tensor-parallel group are neighbours, then come replicas, then stages; the exchange of gradients
    follows the pipeline.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", section 3.

    Args:
        samples: of one micro-batch.
        placement: names of the layers of each stage; None: cut so that stages take equal time.
    """
    runtime = cluster.runtime
    table = (layout.schedule or one_forward_one_backward)(layout.pipeline, pieces)
    layers = layer_seconds(profile, cluster, layout.tensor, samples)
    cuts = _cuts(profile.shape, layers, placement, layout.replicas or (1,) * _stages_of(table))
    if any(action.kind == "backward_weight" for action in table[0]):
        layers = _without_weights(profile.shape, layers, cluster.constants)
    stages = [_stage(profile, layers, range(*cut), cluster.constants) for cut in cuts]
    if not profile.shape.layers_known:
        stages = _cut_by_hand(stages, cluster.constants.imbalance_fraction)
    held = [sum(layer.parameters for layer in profile.shape.layers[a:b]) for a, b in cuts]
    num_bytes = [float(size * profile.shape.element_bytes / layout.tensor) for size in held]
    # Every micro-batch but the first adds its gradients to those before it.
    added = [runtime.add.at(size) * (pieces - 1) / pieces for size in num_bytes]
    stages = [
        stage._replace(backward_input_s=stage.backward_input_s + s) for stage, s in zip(stages, added, strict=True)
    ]
    if not layout.drains:
        each = [pieces * sum(stage) for stage in stages]
        return steady_step(cluster, each, num_bytes, layout.replicas or (1,) * len(cuts))
    # A stage that waits for another one meets it, after both have computed for about as long.
    apart_s = sum(map(sum, stages)) / (2 * len(stages))
    hops = [
        _hop_s(profile, cluster, layout, samples, k, last) + runtime.stall.at(apart_s)
        for k, (_, last) in enumerate(cuts[:-1])
    ]
    times = pipeline_cost(
        *(table, stages, hops.__getitem__),
        recompute=recompute,
        latency_s=_hop_latency_s(cluster, layout),
        overhead_s=runtime.action_s + _cutting_s(table, pieces, cluster.constants.action_s),
        tasks=tasks,
    )
    shared = _shared(profile, layout, cuts)
    exchanged = _exchange_s(profile, cluster, layout, cuts)
    exchanged += sum(all_reduce_s(cluster, holders, num_bytes) for holders, num_bytes in shared)
    # What a stage hands on goes there as an activation and comes back as its gradient.
    handed_on = 2 * pieces * sum(profile.shape.layers[last - 1].output_bytes.at(samples) for _, last in cuts[:-1])
    handed_on += sum(2 * (holders - 1) * num_bytes for holders, num_bytes in shared)
    input_s = profile.exposed_input_s(samples, pieces, profile.step_s + times.period_s)
    return _cost(profile, cluster, layout, times, exchanged, total(layers), pieces, handed_on, input_s)


def _cost(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    times: PipelineTimes,
    exchanged_s: float,
    whole: LayerSeconds,
    pieces: int,
    handed_on_bytes: float,
    input_s: float,
) -> StepCost:
    ranks = len(times.busy_s)
    # Tensor-parallel exchanges are part of the busy time of a stage; here they are told apart from computing.
    within = 2 * pieces * whole.exchange_s / ranks
    computing = sum(times.busy_s) / ranks - within
    exposed = sum(times.exposed_s) / ranks
    waiting = max(0.0, times.period_s - sum(times.busy_s) / ranks - exposed)
    spread = waiting_s(cluster.constants.spread_fraction, times.period_s, layout.data)
    # The first stage reads inputs and the last one targets, both at the start; the others wait meanwhile.
    readers = min(READERS, ranks) / ranks
    exchange_bytes = 2 * (layout.data - 1) / layout.data * profile.shape.parameter_bytes
    return StepCost(
        computing,
        within + exposed + exchanged_s,
        waiting + spread + input_s * (1 - readers),
        (2 * pieces * whole.exchange_bytes + handed_on_bytes + exchange_bytes / layout.tensor) / ranks,
        sum(times.link_s) / ranks + within + exchanged_s,
        times.bubble_fraction,
        times.tasks,
        input_s * readers,
        profile.step_s,
    )


def _cutting_s(table: Table, pieces: int, action_s: float) -> float:
    """Return what every action costs where a schedule cuts a micro-batch's two passes through a device finer.

    Two passes are in every profile; further ones send and launch on their own.
    """
    finer = max(len(actions) for actions in table) / pieces
    return action_s * (1 - 2 / finer)


def _stages_of(table: Table) -> int:
    return 1 + max(action.stage for actions in table for action in actions)


def _cuts(
    shape: ModelShape, layers: Sequence[LayerSeconds], placement: Placement | None, replicas: Sequence[int]
) -> list[tuple[int, int]]:
    if placement is None:
        seconds = [one.forward_s + one.backward_s + 2 * one.exchange_s for one in layers]
        sizes = balance_joined(seconds, [layer.joined for layer in shape.layers], len(replicas), ways=replicas)
    else:
        sizes = [len(stage) for stage in placement]
    ends = list(accumulate(sizes))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _without_weights(shape: ModelShape, layers: Sequence[LayerSeconds], constants: Constants) -> list[LayerSeconds]:
    """Return layers whose passes for inputs, back and forth, take equally long, and those for weights less.

    What has no weights (attention, normalisation) has no gradients of weights: in a transformer's block of width h the
    pass for weights takes h / (h + `weightless_hidden`) of a forward pass. The sum of all three stays what it was.

    Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 3.2, for what their planner is given.
    """
    if not constants.weightless_hidden:
        return list(layers)
    found = []
    for layer, one in zip(shape.layers, layers, strict=True):
        forward_s = (one.forward_s + one.backward_s) / (2 + _weight_time(layer, constants))
        divided = one._replace(forward_s=forward_s, backward_s=one.forward_s + one.backward_s - forward_s)
        found.append(divided if layer.width else one)
    return found


def _weight_time(layer: LayerShape, constants: Constants) -> float:
    """Return how long gradients of a block's weights take, in forward passes."""
    return layer.width / (layer.width + constants.weightless_hidden)


def _stage(
    profile: Profile, layers: Sequence[LayerSeconds], numbers: Sequence[int], constants: Constants
) -> StageTimes:
    whole, weights_s = total([layers[k] for k in numbers]), 0.0
    for k in numbers:
        share, layer = profile.weight_fraction, profile.shape.layers[k]
        if layer.width and constants.weightless_hidden:
            weight = _weight_time(layer, constants)
            share = weight / (1 + weight)
        weights_s += share * layers[k].backward_s
    return StageTimes(whole.forward_s + whole.exchange_s, whole.backward_s - weights_s + whole.exchange_s, weights_s)


def _cut_by_hand(stages: Sequence[StageTimes], imbalance_fraction: float) -> list[StageTimes]:
    """Return stages of equal time where nobody knows what layers take: they were cut by hand, and one takes longest.

    `imbalance_fraction` says how much longer than the mean, for each doubling of the stages; the middle one is as bad
    as any.
    """
    count = len(stages)
    if not imbalance_fraction:
        return list(stages)
    slowest = min(0.9, (1 + imbalance_fraction * (count.bit_length() - 1)) / count)
    shares = [(1 - slowest) / (count - 1)] * count
    shares[count // 2] = slowest
    whole = [sum(times) for times in zip(*stages, strict=True)]
    return [StageTimes(*(share * seconds for seconds in whole)) for share in shares]


def _crosses(cluster: Cluster, layout: Layout, stage: int) -> bool:
    """Say whether a stage and the next are on different nodes; replicas and tensor-parallel parts are neighbours."""
    ranks, width = layout.pipeline, layout.data * layout.tensor
    nodes = [(k % ranks) * width // cluster.gpus_per_node for k in (stage, stage + 1)]
    return cluster.node_link is not None and nodes[0] != nodes[1]


def _hop_s(profile: Profile, cluster: Cluster, layout: Layout, samples: float, stage: int, end: int) -> float:
    """Return how long one stage's output holds the link to the next."""
    num_bytes = profile.shape.layers[end - 1].output_bytes.at(samples)
    if cluster.runtime.hop.points:
        return cluster.runtime.hop.at(num_bytes)
    if cluster.node_link is None or not _crosses(cluster, layout, stage):
        return cluster.bus.link.seconds(num_bytes)
    # All devices of a node hand on at once where stages fill whole nodes.
    sharing = min(cluster.gpus_per_node, layout.data * layout.tensor)
    return cluster.node_link.seconds(num_bytes * sharing)


def _hop_latency_s(cluster: Cluster, layout: Layout) -> float:
    across = cluster.node_link is not None and cluster.nodes(layout.devices) > 1
    link = cluster.node_link if across and cluster.node_link else cluster.bus.link
    return link.latency_s


def _devices(layout: Layout, cuts: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Return the numbers of the layers of each device of a pipeline."""
    ranks = layout.pipeline
    return [[k for stage in cuts[rank::ranks] for k in range(*stage)] for rank in range(ranks)]


def _shared(profile: Profile, layout: Layout, cuts: Sequence[tuple[int, int]]) -> list[tuple[int, float]]:
    """Return how many devices sum the gradient of a parameter that they hold together, and its bytes."""
    shape = profile.shape
    return [(len(at), float(size * shape.element_bytes)) for at, size in shape.shared_by(_devices(layout, cuts))]


def _exchange_s(profile: Profile, cluster: Cluster, layout: Layout, cuts: Sequence[tuple[int, int]]) -> float:
    """Return the seconds of the data-parallel exchange of the device that has most parameters."""
    if layout.data == 1:
        return 0.0
    shape = profile.shape
    held = [sum(layer.parameters for layer in shape.held_by(numbers)) for numbers in _devices(layout, cuts)]
    # The reduce-scatter and the all-gather of a sharded optimizer move what an all-reduce moves.
    return bucket_s(cluster, layout, max(held) * shape.element_bytes / layout.tensor)
