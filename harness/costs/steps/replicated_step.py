"""Steps of devices that each hold the whole model, or its tensor-parallel part of every layer."""

from __future__ import annotations

from harness.api.strategy import Layout
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import Profile
from harness.costs.steps.data_parallel import buckets_of, exchange, neighbours_s, waiting_s
from harness.costs.steps.layer_times import LayerSeconds, layer_seconds, total
from harness.costs.steps.result import StepCost, StreamTask
from harness.costs.steps.table_time import Recompute


def replicated_step(
    profile: Profile,
    cluster: Cluster,
    layout: Layout,
    samples: float,
    pieces: int,
    recompute: Recompute,
    tasks: bool = False,
) -> StepCost:
    """Return the cost of a step in which every data-parallel replica computes so many pieces and gradients are meant.

    Args:
        samples: of one piece.
        recompute: which pieces are computed again in the backward pass.
    """
    constants, runtime = cluster.constants, cluster.runtime
    layers = layer_seconds(profile, cluster, layout.tensor, samples)
    plain = total(layers)
    again = recomputed_pieces(recompute, pieces) * plain.forward_s
    compute = pieces * (plain.forward_s + plain.backward_s) + again
    # Every piece but the first adds its gradients to those before it.
    compute += (pieces - 1) * runtime.add.at(profile.shape.parameter_bytes / layout.tensor)
    if layout.wrapped or (layout.data > 1 and layout.overlap):
        # What is exchanged at once, afterwards, needs neither hooks nor buckets.
        compute *= 1 + constants.step_fraction
    compute *= 1 + cluster.crowded_fraction(layout.data)
    if layout.data > 1:
        compute += runtime.wrapper_s
    # Tensor-parallel exchanges: forward, backward, and forward again where it is recomputed.
    passes = 2 * pieces + recomputed_pieces(recompute, pieces)
    communication, sent = passes * plain.exchange_s, passes * plain.exchange_bytes
    input_s = profile.exposed_input_s(samples, pieces, profile.step_s + compute + communication)
    busy, recorded = communication, _compute_tasks(layers, input_s, compute) if tasks else ()
    if layout.data > 1:
        overlap = layout.overlap and cluster.hides_exchange(layout.devices)
        again_last = recompute == "all" or (pieces == 1 and recompute != "none")
        backward = [layer.backward_s + layer.exchange_s + again_last * layer.forward_s for layer in layers]
        mean = exchange(
            backward,
            buckets_of(profile.shape, layout.bucket_bytes),
            lambda num_bytes: bucket_s(cluster, layout, num_bytes / layout.tensor),
            overlap=overlap,
            slowdown_fraction=constants.slowdown_fraction,
            start_s=input_s + compute - sum(backward),
            record=tasks,
        )
        compute += mean.slowed_s
        communication, busy, recorded = communication + mean.exposed_s, busy + mean.busy_s, (*recorded, *mean.tasks)
        sent += 2 * (layout.data - 1) / layout.data * profile.shape.parameter_bytes / layout.tensor
    apart_s = input_s + compute + profile.step_s
    lost = runtime.stall.at(apart_s) + runtime.exchanged.at(profile.shape.parameter_bytes) if layout.data > 1 else 0.0
    idle = lost + waiting_s(constants.spread_fraction, compute, layout.data)
    return StepCost(compute, communication, idle, sent, busy, None, recorded, input_s, profile.step_s)


def bucket_s(cluster: Cluster, layout: Layout, num_bytes: float) -> float:
    """Return the seconds of one data-parallel exchange, where tensor-parallel groups are neighbours.

    Replicas that share the optimizer's state out scatter gradients and gather parameters: two messages, which move
    together what an all-reduce moves.

    Source: Rajbhandari et al. 2020, "ZeRO", section 7.1.
    """
    reduced = neighbours_s(cluster, layout.data, layout.tensor, num_bytes)
    messages = 2 if layout.shard == "states" else 1
    own = messages * cluster.runtime.bucket_s + num_bytes * cluster.runtime.bucket_s_per_byte
    return reduced + messages * cluster.constants.bucket_s + own


def recomputed_pieces(recompute: Recompute, pieces: int) -> int:
    """Return how many micro-batches run their forward pass a second time."""
    return {"none": 0, "all": pieces, "all-but-last": max(1, pieces - 1)}[recompute]


def _compute_tasks(layers: list[LayerSeconds], input_s: float, compute_s: float) -> tuple[StreamTask, ...]:
    backward = input_s + sum(layer.forward_s + layer.exchange_s for layer in layers)
    passes = (
        StreamTask(0, "compute", "forward", input_s, backward),
        StreamTask(0, "compute", "backward", backward, input_s + compute_s),
    )
    return (StreamTask(0, "compute", "input", 0.0, input_s), *passes) if input_s else passes
