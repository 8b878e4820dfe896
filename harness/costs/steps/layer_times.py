"""What each layer takes on one device: cut by tensor parallelism, never below the launch of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.constants import Constants
from harness.costs.profiles.device_profile import LayerTime, Profile
from harness.costs.profiles.shape import LayerShape
from harness.costs.steps import collectives

EXCHANGES_PER_PASS = 2
"""All-reduces of a layer's output in each pass of a tensor-parallel layer: after attention and after the two matrices.

Source: Shoeybi et al. 2019, "Megatron-LM", section 3 and figure 4.
"""


class LayerSeconds(NamedTuple):
    """One layer's passes over one micro-batch on one device.

    Attributes:
        forward_s: computing.
        backward_s: computing.
        exchange_s: of tensor parallelism, in each of the two passes; nothing hides it.
        exchange_bytes: sent by one device in each of the two passes.
    """

    forward_s: float
    backward_s: float
    exchange_s: float = 0.0
    exchange_bytes: float = 0.0


def layer_seconds(profile: Profile, cluster: Cluster, tensor: int, samples: float) -> list[LayerSeconds]:
    """Return the seconds of every layer for a micro-batch."""
    found = []
    for layer, time in zip(profile.shape.layers, profile.times, strict=True):
        forward, backward = time.forward.at(samples), _backward_s(profile, layer, time, samples, cluster.constants)
        if tensor == 1 or not layer.split:
            found.append(LayerSeconds(max(forward, profile.launch_s), max(backward, profile.launch_s)))
            continue
        share = _undivided(layer, cluster.constants) * (1 - 1 / tensor) + 1 / tensor
        launches = _launches_s(profile, layer, time, cluster.constants)
        num_bytes = layer.output_bytes.at(samples)
        exchange = EXCHANGES_PER_PASS * collectives.all_reduce_s(cluster, tensor, num_bytes)
        found.append(
            LayerSeconds(
                max(forward * share, min(forward, launches[0])),
                max(backward * share, min(backward, launches[1])),
                exchange,
                EXCHANGES_PER_PASS * 2 * (tensor - 1) / tensor * num_bytes,
            )
        )
    return found


def _backward_s(profile: Profile, layer: LayerShape, time: LayerTime, samples: float, constants: Constants) -> float:
    """Return the seconds of a backward pass, which adds to gradients and reads weights whatever its samples.

    Of a transformer's block, where a step of one size was given, that is told apart from what grows with the samples.

    Source: fitted on such blocks; gradients that are added to are read twice and written once, weights are read.
    """
    curve, bandwidth = time.backward, profile.memory_bandwidth_bytes_per_s
    if not layer.width or profile.origin != "given" or len(curve.points) != 1 or not bandwidth:
        return curve.at(samples)
    ((known, seconds),) = curve.points
    moving_s = min(seconds, constants.pass_bytes * layer.parameters / bandwidth)
    return moving_s + (seconds - moving_s) * samples / known


def _undivided(layer: LayerShape, constants: Constants) -> float:
    """Return the share of a layer that is whole on every device: what has no weights, such as residuals, is."""
    width = layer.width / (layer.width + constants.unsplit_hidden) if layer.width else 1.0
    return 1 - layer.split * width


def _launches_s(profile: Profile, layer: LayerShape, time: LayerTime, constants: Constants) -> tuple[float, float]:
    """Return the least seconds of a layer's passes; of a transformer's block also where nobody knows its kernels."""
    if layer.width and not profile.launch_s:
        return constants.layer_launch_s, 2 * constants.layer_launch_s
    return time.launches.forward * profile.launch_s, time.launches.backward * profile.launch_s


def total(layers: Sequence[LayerSeconds], recompute: bool = False) -> LayerSeconds:
    """Return the sum over layers; recomputation repeats the forward pass within the backward pass."""
    forward = sum(layer.forward_s for layer in layers)
    backward = sum(layer.backward_s for layer in layers) + (forward if recompute else 0.0)
    return LayerSeconds(
        *(forward, backward, sum(layer.exchange_s for layer in layers)),
        sum(layer.exchange_bytes for layer in layers),
    )
