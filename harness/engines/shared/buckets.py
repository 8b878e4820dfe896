"""Buckets of gradients: which parameters are exchanged together, and in which order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

import torch

from harness.api.strategy import Codec, Value
from harness.core.errors import Impossible, PluginError
from harness.costs.steps import in_buckets
from harness.engines.shared.buffer_values import as_real
from harness.engines.shared.encoded import EncodedFlat, encode
from harness.engines.shared.flat import Flat, force
from harness.engines.shared.read_only import read_only
from harness.engines.shared.started_words import awaited, type_name

if TYPE_CHECKING:
    from harness.engines.shared.replica import Replica
    from harness.engines.shared.setup import Setup


class BucketForm:
    """What a bucket holds.

    Attributes:
        number: in the order in which buckets are exchanged.
        places: numbers of its parameters among all that are trained, ascending: values hold them in this order.
        shapes: of its layers, by name; complex numbers as pairs.
    """

    def __init__(self, replica: Replica, number: int, places: Sequence[int]) -> None:
        self.number = number
        self.places: Sequence[int] = sorted(places)
        shapes = list(replica.shapes.items())
        self.shapes = dict(shapes[place] for place in self.places)
        self._sizes = [shape.numel() for shape in self.shapes.values()]
        self.num_bytes = sum(self._sizes) * replica.dtype.itemsize

    def gradient(self, gradients: Mapping[int, torch.Tensor]) -> Flat:
        """Return the value of gradients by their place; a copy."""
        with torch.no_grad():
            return Flat([torch.cat([as_real(gradients[place].detach()).reshape(-1) for place in self.places])])

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        """Return a value's layers by name, for a program to read."""
        parts = zip(self.shapes.items(), force(value).vector().split(self._sizes), strict=True)
        return {name: read_only(part.view(shape)) for (name, shape), part in parts}

    def encode(self, value: Value, codec: Codec) -> EncodedFlat:
        """Encode a value."""
        return encode(value, self.layers(value), codec)

    def same(self, one: Value, other: Value) -> bool:
        """Whether two values are the same, bit for bit."""
        bits, others = (force(value).vector().view(torch.uint8) for value in (one, other))
        return bool(torch.equal(bits, others))

    def parts(self, value: object) -> dict[int, torch.Tensor]:
        """Return what a program returned, by the places of its parameters.

        Raises:
            PluginError: it is no value of this bucket's size.
        """
        awaited(value)
        got = type_name(value)
        if isinstance(value, Value):
            vector = force(value).vector()
            if vector.numel() == sum(self._sizes):
                split = zip(self.places, self.shapes.values(), vector.split(self._sizes), strict=True)
                return {place: part.view(shape) for place, shape, part in split}
            got = f"one of {vector.numel()} numbers"
        raise PluginError(f"reduce must return a value of its bucket, which has {sum(self._sizes)} numbers; got {got}")


def bucket_forms(setup: Setup, replica: Replica, ready: Sequence[int]) -> list[BucketForm]:
    """Return a model's buckets, as torch's DDP makes them once it has seen a backward pass.

    Source: torch 2.13, reducer.cpp, rebuild_buckets: in the order in which gradients become ready; where DDP searches
    for unused parameters it keeps the buckets that it was built with, in the order of registration from the last on.

    Args:
        ready: places of parameters in the order in which their gradients became ready.

    Raises:
        Impossible: the model's gradients are of two types.
    """
    refuse_two_types(replica)
    sizes = [shape.numel() * replica.dtype.itemsize for shape in replica.shapes.values()]
    rest = [place for place in range(len(sizes)) if place not in set(ready)]
    order = [*ready, *rest]
    if searches_unused(setup, replica):
        groups = list(reversed(in_buckets(sizes, setup.layout.bucket_bytes)))
    else:
        found = in_buckets([sizes[place] for place in order], setup.layout.bucket_bytes)
        groups = [[order[number] for number in group] for group in found]
    return [BucketForm(replica, number, group) for number, group in enumerate(groups)]


def refuse_two_types(replica: Replica) -> None:
    """Refuse a model with complex parameters beside real ones: they do not go into one bucket.

    Raises:
        Impossible: it has both.
    """
    if len({parameter.is_complex() for parameter in replica.parameters}) > 1:
        raise Impossible(
            "the model has complex parameters beside real ones, and a strategy's own exchange of gradients takes one "
            "type; choose sync-ddp"
        )


def searches_unused(setup: Setup, replica: Replica) -> bool:
    """Whether DDP looks in every step for parameters without a gradient."""
    trial = replica.trial
    unused = setup.cell.workload.find_unused_parameters or (trial is not None and trial.unused)
    return unused and not (setup.layout.static_graph or records_graph(setup, replica))


def records_graph(setup: Setup, replica: Replica) -> bool:
    """Whether DDP must be told that the graph never changes.

    Raises:
        Impossible: it must, and the graph changes.
    """
    trial, asked = replica.trial, setup.cell.workload.find_unused_parameters
    if trial is None or not trial.reentrant or not (asked or trial.unused):
        return False
    if trial.looks or trial.keeps or asked:
        raise Impossible(
            "some parameters have no gradient in some steps, and the model calls checkpoint with use_reentrant=True, "
            "which DDP's search for such parameters cannot follow; call it with use_reentrant=False"
        )
    return True


@contextmanager
def noting_ready(replica: Replica) -> Iterator[list[int]]:
    """Yield a list that the places of parameters go into as their gradients become ready, the last time for each."""
    order: dict[int, None] = {}
    ready: list[int] = []

    def note(place: int, _: torch.Tensor) -> None:
        order.pop(place, None)
        order[place] = None

    hooks = [
        parameter.register_post_accumulate_grad_hook(partial(note, place))
        for place, parameter in enumerate(replica.parameters)
    ]
    try:
        yield ready
    finally:
        for hook in hooks:
            hook.remove()
        ready.extend(order)
