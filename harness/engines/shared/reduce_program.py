"""What a layout's `reduce` is given on either clock: a bucket of gradients, and what its replica remembers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from harness.api.strategy import Bucket, Codec, Encoded, Value
from harness.core.streams import python_stream
from harness.engines.shared.codec_checks import as_codec
from harness.engines.shared.started_words import as_value

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    import torch

    from harness.engines.shared.endpoint import Endpoint


class Holds(Protocol):
    """What a bucket holds.

    Attributes:
        number: in the order in which buckets are exchanged.
        places: numbers of its parameters among all that are trained.
        num_bytes: of its gradients.
    """

    number: int
    places: Sequence[int]
    num_bytes: int

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        """Return a value's layers by name."""

    def encode(self, value: Value, codec: Codec) -> Encoded:
        """Encode a value."""

    def same(self, one: Value, other: Value) -> bool:
        """Whether two values are the same."""


class ReduceProgram(Bucket):
    """The words of `Bucket` that need no clock.

    Attributes:
        sink: the worker that keeps what the program records and notes.
    """

    def __init__(self, form: Holds, gradient: Value, replica: ReplicaMemory, sink: Endpoint) -> None:
        self.form, self.gradient, self.number = form, gradient, form.number
        self.rank, self.replicas = replica.rank, replica.replicas
        self.kept = replica.kept_of(form)
        self._memory, self.sink, self.options = replica, sink, sink.options

    def random(self, name: str, shared: bool = False) -> random.Random:
        """Return this replica's stream of that name; asked for again, it goes on where it was."""
        return self._memory.random(name, shared)

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        """Return a value's layers by name."""
        return self.form.layers(as_value(value, "layers"))

    def encoded(self, value: Value, codec: Codec) -> Encoded:
        """Return a value in its smaller form, whatever that costs."""
        return self.form.encode(as_value(value, "encode"), as_codec(codec))

    def record(self, **numbers: float) -> None:
        """Keep numbers for columns x_<name>."""
        self.sink.record(**numbers)

    def note(self, text: str) -> None:
        """Keep a line, once."""
        self.sink.note(text)


class ReplicaMemory:
    """What a replica's programs keep from step to step.

    Args:
        worker: that the replica belongs to.
        rank: of the replica in it.
        replicas: how many there are.
    """

    def __init__(self, seed: int, worker: int, rank: int, replicas: int) -> None:
        self._seed, self._worker, self.rank, self.replicas = seed, worker, rank, replicas
        self.forget()

    def forget(self) -> None:
        """Begin anew: nothing kept, every stream at its start."""
        self._kept: dict[tuple[int, ...], dict[str, Any]] = {}
        self._streams: dict[tuple[str, bool], random.Random] = {}

    def kept_of(self, form: Holds) -> dict[str, Any]:
        """Return what is kept of a bucket; DDP puts its buckets together anew after its first step."""
        return self._kept.setdefault(tuple(form.places), {})

    def random(self, name: str, shared: bool) -> random.Random:
        """Return a stream; a shared one is the same on all replicas of all workers."""
        if (name, shared) not in self._streams:
            whose = ("all",) if shared else (self._worker, "replica", self.rank)
            self._streams[name, shared] = python_stream(self._seed, "strategy", *whose, name)
        return self._streams[name, shared]
