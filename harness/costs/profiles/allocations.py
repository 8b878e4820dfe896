"""When each pass of each layer allocates what, and when that is free again: what an allocator is replayed with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

EventKind = Literal["tensor", "gradient", "copy", "free"]
"""Of an event: a tensor, a parameter's gradient, a half-precision copy of a weight, or the end of one of them."""


class Event(NamedTuple):
    """An allocation, or the end of one.

    Attributes:
        owner: the layer that allocated it, counted from this one: 0 for itself, -1 for the layer before.
        slot: which of the owner's allocations.
        fixed, per_sample: bytes are fixed + samples * per_sample; 0 where it ends.
    """

    kind: EventKind
    owner: int
    slot: int
    fixed: float = 0.0
    per_sample: float = 0.0


@dataclass(frozen=True)
class Passes:
    """The events of one layer's two passes.

    Attributes:
        output: owner and slot of what it hands on; None where that is the batch itself.
    """

    forward: tuple[Event, ...]
    backward: tuple[Event, ...]
    output: tuple[int, int] | None = None


@dataclass(frozen=True)
class Timeline:
    """The events of a whole model; equal layers share theirs.

    Attributes:
        passes: without repetition.
        layers: for each layer the index of its passes.
    """

    passes: tuple[Passes, ...]
    layers: tuple[int, ...]

    def of(self, layer: int) -> Passes:
        """Return the passes of a layer."""
        return self.passes[self.layers[layer]]
