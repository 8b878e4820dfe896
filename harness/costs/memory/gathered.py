"""What sharding still holds whole for a while: units that are gathered, and gradients on their way out."""

from __future__ import annotations

from harness.api.strategy import Layout
from harness.core.number_formats import ScalarBytes
from harness.costs.profiles.shape import ModelShape


def passing_bytes(shape: ModelShape, layout: Layout, scalar: ScalarBytes, pieces: int = 1) -> int:
    """Return the most bytes that a device holds beyond its shards of all parameters and gradients.

    While a unit's backward pass runs, its parameters and gradients are whole, the next unit is being gathered, and the
    gradients of the one before are being scattered; after it, its gradients are copied out to be scattered. Shards of
    gradients that come later in the first piece leave room. Units are whole in the format that they are computed in,
    and their gradients are copied into the format that they are sent in; all of it goes with the unit.

    Source: Zhao et al. 2023, section 3.3 (prefetching, one gather ahead); torch 2.13's FSDPMemTracker counts the same.
    """
    ranks, reshards = layout.sharers, layout.shard == "parameters"
    units = [size for layer in shape.layers if (size := layer.padded_parameters(ranks))]
    held, sent = scalar.computed, scalar.sent
    most = 0
    for k, unit in enumerate(units):
        ahead, behind, before = sum(units[max(0, k - 1) : k]), sum(units[k + 1 : k + 2]), sum(units[:k])
        kept, gathering = (0, ahead) if reshards else (before, 0)
        # Gathering copies out of one buffer; a gradient has the format of its weights until it is sent.
        forward = held * (kept + 2 * unit + ahead) - _room(sum(units), ranks, pieces, scalar)
        whole = held * (kept + unit + gathering) - _room(before + unit, ranks, pieces, scalar)
        most = max(most, forward, whole + held * unit + sent * behind, whole + sent * (unit + unit // ranks))
    # Without a scatter after every piece, gradients add up whole.
    return most + (sent * sum(units) if pieces > 1 and not reshards else 0)


def _room(parameters: int, ranks: int, pieces: int, scalar: ScalarBytes) -> int:
    return scalar.gradients * parameters // ranks if pieces == 1 else 0
