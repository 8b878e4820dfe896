"""What a virtual cluster computes in a timing-only cell: nothing, but everything has its size.

Programs run as they are: values know their bytes, samples and versions, so messages take their time, staleness is
counted and budgets are spent. No number is trained, so nothing is evaluated. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from harness.api.strategy import Batch, Codec, Encoded, Table, Value
from harness.core.budget import Marks
from harness.core.errors import PluginError
from harness.core.not_known import NotKnown
from harness.core.outcome import CountedDram
from harness.costs.memory import Placement
from harness.costs.steps import in_buckets
from harness.engines.shared.codec_checks import parts_of
from harness.engines.shared.endpoint import Course
from harness.engines.shared.sample_order import Indices
from harness.engines.shared.started_words import as_value

if TYPE_CHECKING:
    import torch

    from harness.core.addresses import Address
    from harness.costs.profiles import ModelShape
    from harness.engines.shared.setup import Setup


class NeedsNumbers(PluginError):
    """A program reads a value's numbers in a timing-only cell."""


class Size(Value):
    """A value of which only the size is known.

    Attributes:
        origin: (worker, step) that a gradient came from; (None, None) for anything else.
        loss_box: what a computed gradient keeps its loss in; here it stays empty.
    """

    def __init__(
        self,
        num_bytes: int,
        num_samples: int = 0,
        version: int = 0,
        origin: tuple[int | None, int | None] = (None, None),
    ) -> None:
        self._num_bytes = num_bytes
        self.num_samples = num_samples
        self.version = version
        self.origin = origin
        self.loss_box: list[object] = [None]

    @property
    def num_bytes(self) -> int:
        return self._num_bytes

    def tensor(self) -> NoReturn:
        """Refuse: there are no numbers.

        Raises:
            NeedsNumbers: always.
        """
        raise _needs_numbers("tensor()")

    def averaged_with(self, others: Sequence[Value]) -> Size:
        values = [self, *others]
        return Size(self._num_bytes, sum(v.num_samples for v in values), min(v.version for v in values))

    def with_tensor(self, parameters: torch.Tensor | Value) -> Size:
        """Return the same size: what another value's numbers would take.

        Raises:
            NeedsNumbers: the numbers are given as a tensor.
        """
        if not isinstance(parameters, Value):
            raise _needs_numbers("with_tensor(tensor)")
        return Size(self._num_bytes, self.num_samples, self.version, self.origin)

    def zeros(self) -> Size:
        """Return the same size, with no samples behind it."""
        return Size(self._num_bytes, 0, self.version)

    def __add__(self, other: Value) -> Size:
        as_value(other, "+")
        return self * 1.0

    def __sub__(self, other: Value) -> Size:
        as_value(other, "-")
        return self * 1.0

    def __mul__(self, factor: float) -> Size:
        return Size(self._num_bytes, self.num_samples, self.version)

    __rmul__ = __mul__


class EncodedSize(Size, Encoded):
    """An encoded value of which only sizes are known: its parts have shapes and types, and no numbers.

    Args:
        num_bytes: of what it decodes to.
        buffer_bytes: that travel beside the parts.
    """

    def __init__(self, num_bytes: int, codec: Codec, parts: Mapping[str, Sequence[torch.Tensor]], buffer_bytes: int):
        super().__init__(num_bytes)
        self.codec, self._parts, self._buffer_bytes = codec, parts, buffer_bytes

    @property
    def num_bytes(self) -> int:
        sizes = [part.numel() * part.element_size() for own in self._parts.values() for part in own]
        return int(self._buffer_bytes + sum(sizes))

    @property
    def parts(self) -> Mapping[str, Sequence[torch.Tensor]]:
        """Return each layer's tensors, which have no numbers."""
        return self._parts

    def counted_as(self, values: Sequence[Value]) -> EncodedSize:
        """Return the same form with the samples behind other values, and their oldest version."""
        made = EncodedSize(self._num_bytes, self.codec, self._parts, self._buffer_bytes)
        made.num_samples, made.version = sum(v.num_samples for v in values), min(v.version for v in values)
        made.origin = getattr(values[0], "origin", made.origin) if len(values) == 1 else made.origin
        return made


def _needs_numbers(word: str) -> NeedsNumbers:
    return NeedsNumbers(
        f"{word} in a timing-only cell: values have sizes but no numbers; set a target or evaluate_every in [goal] to "
        "have this cell computed"
    )


class SizedCourse(Course):
    """A worker's way through batches that are all full: in a timing-only cell samples are only counted."""

    def __init__(self, setup: Setup, rank: Address) -> None:
        cell = setup.cell
        self.setup, self.rank = setup, rank
        self.own = setup.strategy.batches == "own"
        self.marks = Marks(setup.budget.evaluate_every)
        self.position = 0
        self.size = cell.global_batch_size
        self.part = _no_numbers(self.size if self.own else _part(self.size, rank, cell.workers))

    def batches(self) -> Iterator[Batch]:
        shares = 1 if self.own else self.setup.cell.workers
        step = 0
        while not self.spent(step * self.size, step):
            self.position = step * self.size
            yield Batch(step, self.part, self.size, shares, self.position, self.size)
            step += 1

    def total(self, samples: int, steps: int) -> int:
        return samples * self.setup.cell.workers if self.own else samples


def _part(size: int, rank: int, workers: int) -> int:
    even, larger = divmod(size, workers)
    return even + (rank < larger)


def _no_numbers(samples: int) -> Indices:
    # One zero seen `samples` times: as long as a batch of a million, and eight bytes in memory.
    indices: Indices = np.broadcast_to(np.zeros(1, dtype=np.int64), samples)
    return indices


class Sizes:
    """The executor of a timing-only cell.

    Args:
        parameter_bytes: of weights and of a gradient.
        buffer_bytes: that travel with both.
        dram: counts the tensors of the fullest device.
        shape: the model's layers, for codecs; None where only its size is known.
    """

    def __init__(
        self,
        setup: Setup,
        parameter_bytes: int,
        buffer_bytes: int,
        dram: Callable[[], CountedDram | NotKnown],
        shape: ModelShape | None = None,
    ) -> None:
        self.setup = setup
        self.num_bytes = parameter_bytes + buffer_bytes
        self._buffer_bytes, self._dram, self._shape = buffer_bytes, dram, shape
        self._notes: list[str] = []
        self._encoded: dict[tuple[Hashable, ...], Mapping[str, Sequence[torch.Tensor]]] = {}

    def course(self, rank: Address) -> SizedCourse:
        """Return a worker's way through its batches."""
        return SizedCourse(self.setup, rank)

    def initial_weights(self) -> Size:
        """Return version 0."""
        return Size(self.num_bytes)

    def adopt(self, weights: Value, num_samples: int) -> Size:
        """Return the weights as an endpoint that loads them holds them."""
        return Size(self.num_bytes, num_samples, weights.version)

    def gradient_of(self, weights: Value, indices: Indices, weight: float, origin: tuple[int, int]) -> Size:
        """Return a gradient's size."""
        return Size(weights.num_bytes, len(indices), weights.version, origin)

    def reduced(
        self, weights: Value, indices: Indices, weight: float, origin: tuple[int, int], reduce: SizedReducer
    ) -> Size:
        """Return a gradient's size, after a layout's own `reduce` has run on one replica, which stands for all."""
        for form in self._forms:
            reduce(form, [Size(form.num_bytes)])
        return self.gradient_of(weights, indices, weight, origin)

    @cached_property
    def _forms(self) -> list[SizedForm]:
        """The buckets, as DDP makes them of tensors that become ready in reverse order."""
        parameter_bytes = self.num_bytes - self._buffer_bytes
        layers = self._shape.layers if self._shape is not None else ()
        counts = [size for layer in layers for size in layer.tensors]
        sizes = [parameter_bytes * count / sum(counts) for count in counts] or [parameter_bytes]
        groups = in_buckets(sizes[::-1], self.setup.layout.bucket_bytes)
        places = [[len(sizes) - 1 - number for number in reversed(group)] for group in groups]
        return [SizedForm(self, number, own, round(sum(sizes[k] for k in own))) for number, own in enumerate(places)]

    def average(self, values: Sequence[Value], shares: Sequence[float] | None = None) -> Value:
        """Return the size of the mean; of encoded values it is encoded."""
        first, *others = values
        if isinstance(first, EncodedSize):
            return first.counted_as(values)
        return first.averaged_with(others)

    def encode(self, value: Value, codec: Codec) -> EncodedSize:
        """Let a codec encode layers that have shapes and no numbers, torch's "meta" tensors.

        Raises:
            NeedsNumbers: nothing is known of the model's layers.
        """
        parts = self.encoded_parts(codec, range(len(self.layer_shapes)))
        return EncodedSize(self.num_bytes, codec, parts, self._buffer_bytes).counted_as([value])

    def encoded_parts(self, codec: Codec, places: Sequence[int]) -> Mapping[str, Sequence[torch.Tensor]]:
        """Return what a codec makes of some layers, by their names; what takes the same shapes is asked for once."""
        first_to_last = (places[0], len(places), places[-1]) if places else ()
        key = (type(codec), first_to_last, *(_shown(field) for field in vars(codec).values()))
        parts = self._encoded.get(key)
        if parts is None:
            layers = list(self.layer_shapes.items())
            parts = {name: parts_of(codec, layer, name) for name, layer in (layers[place] for place in places)}
            self._encoded[key] = parts
        return parts

    @cached_property
    def layer_shapes(self) -> dict[str, torch.Tensor]:
        """The parameters by name: tensors without numbers, in the format in which gradients are exchanged."""
        import torch

        layers = self._shape.layers if self._shape is not None and self._shape.layers_known else ()
        unknown = sum(layer.parameters for layer in layers if len(layer.rows) != len(layer.tensors))
        if self._shape is None or unknown == self._shape.parameters:
            raise NeedsNumbers(
                "encode() in a timing-only cell: the model is known by its size only, and a codec sees layers; set a "
                "target or evaluate_every in [goal] to have this cell computed"
            )
        if unknown:
            self._notes.append(
                f"codecs see {unknown / self._shape.parameters:.1%} of the parameters as vectors: the scenario does "
                "not say how they lie in matrices"
            )
        dtype = {2: torch.bfloat16, 8: torch.float64}.get(round(self._shape.element_bytes), torch.float32)
        return {
            f"{layer.name}.{number}": torch.empty(shape, dtype=dtype, device="meta")
            for layer in layers
            for number, shape in enumerate(layer.tensor_shapes)
        }

    def step(self, weights: Value, gradient: Value, state: Any, rate: float) -> tuple[Size, Any]:
        """Count one update."""
        return Size(weights.num_bytes, weights.num_samples + gradient.num_samples, weights.version + 1), state

    def layers(self, value: Value) -> NoReturn:
        """Refuse: there are no numbers.

        Raises:
            NeedsNumbers: always.
        """
        raise _needs_numbers("layers()")

    def mean_model(self, states: Sequence[Value], ensemble: bool = False) -> Value:
        """Return the size of the workers' mean."""
        return self.average(states)

    def evaluate(self, weights: Value, split: str) -> NoReturn:
        """Never called: a timing-only cell's budget evaluates nothing."""
        raise AssertionError("a timing-only cell was evaluated")

    def vector(self, weights: Value) -> None:
        """Return nothing: there are no numbers."""

    def notes(self, placement: Placement | None) -> list[str]:
        """Return what the record should say about the model's cut."""
        if placement is None:
            return list(self._notes)
        stages = "; ".join(f"stage {k}: {_span(names)}" for k, names in enumerate(placement))
        return [stages, *self._notes]

    def dram(self, placement: Placement | None, table: Table) -> CountedDram | NotKnown:
        """Return the tensors of the device that holds most."""
        return self._dram()


class SizedForm:
    """A bucket of gradients of which only sizes are known.

    Attributes:
        number: in the order in which buckets are exchanged.
        places: numbers of its tensors among all, ascending.
    """

    def __init__(self, sizes: Sizes, number: int, places: Sequence[int], num_bytes: int) -> None:
        self._sizes, self.number, self.places, self.num_bytes = sizes, number, places, num_bytes

    def layers(self, value: Value) -> NoReturn:
        """Refuse: there are no numbers.

        Raises:
            NeedsNumbers: always.
        """
        raise _needs_numbers("layers()")

    def encode(self, value: Value, codec: Codec) -> EncodedSize:
        """Let a codec encode this bucket's layers, which have shapes and no numbers."""
        return EncodedSize(self.num_bytes, codec, self._sizes.encoded_parts(codec, self.places), 0)

    def same(self, one: Value, other: Value) -> bool:
        """Whether two sizes are the same."""
        return one.num_bytes == other.num_bytes


SizedReducer = Callable[[SizedForm, Sequence[Value]], object]


def _shown(field: object) -> Hashable:
    """Return what a codec's field lets the shapes of what it encodes depend on: equal for codecs that encode alike.

    Tensors have no numbers here, so their shapes are all there is. What is neither number, word, tensor nor made of
    these stands for itself.
    """
    if isinstance(field, (bool, int, float, str, bytes, type(None))):
        return field
    if isinstance(field, Mapping):
        return tuple((key, _shown(value)) for key, value in field.items())
    if isinstance(field, (tuple, list)):
        return tuple(_shown(value) for value in field)
    if getattr(field, "is_meta", False):
        return (str(field.dtype), *field.shape)  # type: ignore[attr-defined]
    return _Itself(field)


class _Itself:
    """An object by its identity, kept alive, so that no other one takes its place."""

    def __init__(self, thing: object) -> None:
        self.thing = thing

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Itself) and other.thing is self.thing

    def __hash__(self) -> int:
        return id(self.thing)


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} to {names[-1]} ({len(names)} layers)"
