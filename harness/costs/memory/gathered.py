"""What sharding still holds whole for a while: units that are gathered, and gradients on their way out."""

from __future__ import annotations

from harness.api.strategy import Layout
from harness.costs.profiles.shape import ModelShape


def passing_bytes(shape: ModelShape, layout: Layout, pieces: int = 1) -> int:
    """Return the most bytes that a device holds beyond its shards of all parameters and gradients.

    While a unit's backward pass runs, its parameters and gradients are whole, the next unit is being gathered, and the
    gradients of the one before are being scattered; after it, its gradients are copied out to be scattered. Shards of
    gradients that come later in the first piece leave room.

    Source: Zhao et al. 2023, section 3.3 (prefetching, one gather ahead); torch 2.13's FSDPMemTracker counts the same.
    """
    ranks, reshards = layout.data, layout.shard == "parameters"
    sizes = [layer.padded_parameters(ranks) * shape.element_bytes for layer in shape.layers]
    units = [size for size in sizes if size]
    most = 0
    for k, unit in enumerate(units):
        ahead, behind, before = sum(units[max(0, k - 1) : k]), sum(units[k + 1 : k + 2]), sum(units[:k])
        kept, gathering = (0, ahead) if reshards else (before, 0)
        forward = kept + 2 * unit + ahead - _room(sum(units), ranks, pieces)
        backward = kept + 2 * unit + gathering + behind - _room(before + unit, ranks, pieces)
        scatter = kept + 2 * unit + gathering + unit // ranks - _room(before + unit, ranks, pieces)
        most = max(most, forward, backward, scatter)
    # Without a scatter after every piece, gradients add up whole.
    return most + (sum(units) if pieces > 1 and not reshards else 0)


def _room(num_bytes: int, ranks: int, pieces: int) -> int:
    return num_bytes // ranks if pieces == 1 else 0
