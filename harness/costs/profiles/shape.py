"""A model without its mathematics: layer by layer what it holds, keeps, hands on and computes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from harness.costs.profiles.allocations import Timeline


class Linear(NamedTuple):
    """A quantity that grows with the number of samples: fixed + samples * per_sample."""

    fixed: float = 0.0
    per_sample: float = 0.0

    def at(self, samples: float) -> float:
        """Return the quantity for so many samples."""
        return self.fixed + samples * self.per_sample


NOTHING = Linear()


@dataclass(frozen=True)
class LayerShape:
    """One layer: what a pipeline may not cut, and what FSDP gathers at once.

    Attributes:
        tensors: number of scalars in each trainable parameter tensor, in order of registration.
        buffers_bytes: of tensors that are not trained.
        activation_bytes: kept from the forward pass for the backward pass.
        output_bytes: what it hands to the next layer.
        workspace_bytes: live only while the layer computes, beyond what is kept.
        forward_flops: multiplications and additions of one forward pass, 2 per multiply-add; backward is twice that.
        split: share of the layer's compute and parameters that tensor parallelism divides, 0..1.
        rows: length of each tensor's first dimension, along which FSDP cuts; empty where unknown.
        activation_split: share of the activations that tensor parallelism divides, 0..1.
        copies_bytes: copies of weights in lower precision that autocast keeps as long as activations, once.
        width: hidden size of a transformer's block; 0 of other layers.
        shared: (layer, tensor) by number of each tensor that it holds too, but that an earlier layer counts. A pipeline
            that puts the two on different devices keeps it on both.
        joined: a pipeline never cuts before it: an embedding goes with the first block, a head with the last one.
        timed_s: seconds of both passes over one sample on some device, where a file says; only shares count.
    """

    name: str
    tensors: tuple[int, ...] = ()
    buffers_bytes: int = 0
    activation_bytes: Linear = NOTHING
    output_bytes: Linear = NOTHING
    workspace_bytes: Linear = NOTHING
    forward_flops: Linear = NOTHING
    split: float = 0.0
    rows: tuple[int, ...] = ()
    activation_split: float = 0.0
    copies_bytes: int = 0
    width: int = 0
    shared: tuple[tuple[int, int], ...] = ()
    joined: bool = False
    timed_s: float = 0.0

    @property
    def parameters(self) -> int:
        """Trainable scalars."""
        return sum(self.tensors)

    @property
    def tensor_shapes(self) -> list[tuple[int, ...]]:
        """Shapes of the parameter tensors as matrices of `rows`; vectors where these are not known."""
        if len(self.rows) != len(self.tensors):
            return [(size,) for size in self.tensors]
        cuts = zip(self.tensors, self.rows, strict=True)
        return [(rows, size // rows) if 0 < rows < size else (size,) for size, rows in cuts]

    def padded_parameters(self, ranks: int) -> int:
        """Return the trainable scalars with what fills the last shards up: tensors are cut along dimension 0.

        Source: torch 2.13, FSDPParam: every rank holds ceil(rows / ranks) rows of a tensor, the last ones zeros.
        """
        if len(self.rows) != len(self.tensors):
            return sum(-(-size // ranks) * ranks for size in self.tensors)
        cuts = zip(self.tensors, self.rows, strict=True)
        return sum(-(-rows // ranks) * ranks * (size // rows) for size, rows in cuts if rows)


@dataclass(frozen=True)
class ModelShape:
    """All layers in the order of the forward pass.

    Attributes:
        element_bytes: of one element of a gradient that is exchanged; of a shape that nobody has put into a cell's
            formats yet, of a parameter too.
        origin: where the figures are from, in words.
        activations_known: whether anybody said what the layers keep for the backward pass.
        timeline: what each pass allocates, where the model was traced.
        divisible: whether it is known what tensor parallelism may divide.
        gathered_bytes: of one parameter that is gathered, where replicas hold shards; 0: as of a gradient.
        layers_known: whether layers are those of the model, not equal parts of it for want of anything better.
    """

    layers: tuple[LayerShape, ...]
    input_bytes: Linear = NOTHING
    element_bytes: float = 4
    origin: str = ""
    activations_known: bool = True
    timeline: Timeline | None = None
    divisible: bool = True
    gathered_bytes: float = 0
    layers_known: bool = True

    @property
    def parameters(self) -> int:
        """Trainable scalars of the whole model."""
        return sum(layer.parameters for layer in self.layers)

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all gradients as they are exchanged; of a model as it was traced, of all parameters too."""
        return round(self.parameters * self.element_bytes)

    def held_by(self, numbers: Collection[int]) -> list[LayerShape]:
        """Return the layers of one device, each tensor once; with what it holds of layers that are elsewhere."""
        own = set(numbers)
        guests = {place for k in numbers for place in self.layers[k].shared if place[0] not in own}
        layers = [self.layers[k] for k in numbers]
        if guests:
            tensors = [self.layers[layer].tensors[tensor] for layer, tensor in sorted(guests)]
            rows = [size for layer, tensor in sorted(guests) for size in self.layers[layer].rows[tensor : tensor + 1]]
            last = layers[-1]
            layers[-1] = replace(last, tensors=(*last.tensors, *tensors), rows=(*last.rows, *rows))
        return layers

    def shared_by(self, devices: Sequence[Collection[int]]) -> list[tuple[tuple[int, ...], int]]:
        """Return which devices hold a tensor together, and its scalars, for each tensor that several of them hold.

        Args:
            devices: numbers of the layers of each.
        """
        places = dict.fromkeys(place for layer in self.layers for place in layer.shared)
        found = []
        for layer, tensor in places:
            users = [k for k, other in enumerate(self.layers) if k == layer or (layer, tensor) in other.shared]
            at = tuple(rank for rank, held in enumerate(devices) if any(k in held for k in users))
            if len(at) > 1:
                found.append((at, self.layers[layer].tensors[tensor]))
        return found

    def work_shares(self, samples: float) -> list[float]:
        """Return each layer's share of all operations; where they are not known of all time, or of all parameters."""
        flops = [layer.forward_flops.at(samples) for layer in self.layers]
        timed = [layer.timed_s for layer in self.layers]
        weights = next(
            (each for each in (flops, timed) if sum(each)), [float(layer.parameters) for layer in self.layers]
        )
        total = sum(weights)
        return [weight / total if total else 1 / len(weights) for weight in weights]
