"""What each layer takes on one device: cut by tensor parallelism, never below the launch of its kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import Profile
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
        forward, backward = time.forward.at(samples), time.backward.at(samples)
        if tensor == 1 or not layer.split:
            found.append(LayerSeconds(max(forward, profile.launch_s), max(backward, profile.launch_s)))
            continue
        share = layer.split / tensor + 1 - layer.split
        num_bytes = layer.output_bytes.at(samples)
        exchange = EXCHANGES_PER_PASS * collectives.all_reduce_s(cluster, tensor, num_bytes)
        found.append(
            LayerSeconds(
                max(forward * share, min(forward, time.launches.forward * profile.launch_s)),
                max(backward * share, min(backward, time.launches.backward * profile.launch_s)),
                exchange,
                EXCHANGES_PER_PASS * 2 * (tensor - 1) / tensor * num_bytes,
            )
        )
    return found


def total(layers: Sequence[LayerSeconds], recompute: bool = False) -> LayerSeconds:
    """Return the sum over layers; recomputation repeats the forward pass within the backward pass."""
    forward = sum(layer.forward_s for layer in layers)
    backward = sum(layer.backward_s for layer in layers) + (forward if recompute else 0.0)
    return LayerSeconds(
        *(forward, backward, sum(layer.exchange_s for layer in layers)),
        sum(layer.exchange_bytes for layer in layers),
    )
