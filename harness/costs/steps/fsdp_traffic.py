"""What fully sharded data parallelism sends: which collective, over how many bytes, in which pass.

A unit is a top-level layer with parameters: it is gathered whole just before it computes. The real runner and the
virtual one both count with these functions; tests hold them against what torch sends.

Source: Rajbhandari, Rasley, Ruwase and He 2020, "ZeRO", sections 5 and 7; Zhao et al. 2023, "PyTorch FSDP", section 3,
whose section 3.2.2 is hybrid sharding.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from harness.api.strategy import Layout
from harness.costs.profiles.shape import ModelShape


class Collective(NamedTuple):
    """One collective of a step.

    Attributes:
        num_bytes: of the whole vector, padding included; a ring of n ranks sends (n - 1) / n of it from every rank, of
            an all-reduce twice that.
        ranks: of its ring.
        phase: pass during which it is needed.
        layer: number of the layer that it is for.
    """

    kind: Literal["all-gather", "reduce-scatter", "all-reduce"]
    num_bytes: int
    phase: Literal["forward", "backward"]
    layer: int
    ranks: int


def fsdp_messages(shape: ModelShape, ranks: int, reshard: bool, groups: int = 1) -> list[Collective]:
    """Return the collectives of one pass forward and back, in the order in which they are needed.

    The last unit is never given back between its two passes: it would be gathered again at once.

    Args:
        ranks: that share the parameters; a single one sends nothing.
        reshard: whether units give their parameters back after the forward pass and gather them again.
        groups: of so many ranks, each of which holds all parameters: shards of gradients are averaged over them.
    """
    if ranks == 1:
        return []
    units = [(k, size) for k, layer in enumerate(shape.layers) if (size := layer.padded_parameters(ranks))]
    gathered = shape.gathered_bytes or shape.element_bytes
    messages = [Collective("all-gather", round(size * gathered), "forward", k, ranks) for k, size in units]
    for k, size in reversed(units):
        if reshard and k != units[-1][0]:
            messages.append(Collective("all-gather", round(size * gathered), "backward", k, ranks))
        num_bytes = round(size * shape.element_bytes)
        messages.append(Collective("reduce-scatter", num_bytes, "backward", k, ranks))
        if groups > 1:
            messages.append(Collective("all-reduce", num_bytes // ranks, "backward", k, groups))
    return messages


def fsdp_step_messages(shape: ModelShape, layout: Layout, pieces: int) -> list[Collective]:
    """Return the collectives of one gradient that is computed in so many pieces.

    Sharded parameters are gathered and gradients scattered for every piece: that is what keeps memory at 1 / ranks.
    Where only the optimizer is sharded, parameters stay whole from the first piece to the last and gradients are
    scattered once, as DDP exchanges once. Groups that each hold all parameters average their shards once, too.
    """
    reshard = layout.shard == "parameters"
    once = fsdp_messages(shape, layout.sharers, reshard, layout.groups)
    among = [message for message in once if message.kind != "all-reduce"]
    return among * (pieces - 1) + once if reshard else once


def bytes_sent(messages: list[Collective]) -> float:
    """Return the bytes that one rank of each ring sends for all these messages.

    Source: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms", section 3: both halves of a ring
    all-reduce send (ranks - 1) / ranks of the vector.
    """
    return sum((2 if m.kind == "all-reduce" else 1) * (m.ranks - 1) / m.ranks * m.num_bytes for m in messages)
