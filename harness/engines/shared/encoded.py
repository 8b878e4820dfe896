"""Values in the smaller form that a codec gives them: encoded once, decoded when arithmetic first needs the numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from harness.api.strategy import Codec, Encoded, Value
from harness.engines.shared.codec_checks import check_linear, parts_of, wrong
from harness.engines.shared.flat import Flat, force
from harness.engines.shared.read_only import plain, read_only

EncodedLayers = Mapping[str, tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Form:
    """What an encoded value decodes to, but for its numbers.

    Attributes:
        shapes: of the layers, by name, in the order of the flat tensor.
        like: whose type and device the decoded numbers have.
    """

    shapes: Mapping[str, torch.Size]
    like: torch.Tensor


class EncodedFlat(Encoded):
    """A computed value, encoded.

    Attributes:
        buffers, loss, origin: as a `Flat` has them.
    """

    origin: tuple[int, int] = (-1, -1)

    def __init__(
        self,
        codec: Codec,
        form: Form,
        parts: EncodedLayers,
        buffers: torch.Tensor | None = None,
        *,
        num_samples: int = 0,
        version: int = 0,
        loss: torch.Tensor | float | None = None,
    ) -> None:
        self.codec, self.form, self.buffers = codec, form, buffers
        self._parts = parts
        self.num_samples, self.version, self.loss = num_samples, version, loss
        self._decoded: Flat | None = None

    @property
    def parts(self) -> EncodedLayers:
        """Return each layer's tensors for a program to read."""
        return {name: tuple(read_only(part) for part in own) for name, own in self._parts.items()}

    @property
    def tensors(self) -> list[torch.Tensor]:
        """Return all parts one after another."""
        return list(chain.from_iterable(self._parts.values()))

    @property
    def lengths(self) -> list[int]:
        """Return how many parts each layer has."""
        return [len(own) for own in self._parts.values()]

    @property
    def num_bytes(self) -> int:
        """Bytes of all parts and of the buffers."""
        return sum(part.numel() * part.element_size() for part in sent_tensors(self))

    def force(self) -> Flat:
        """Decode; done once."""
        if self._decoded is None:
            made = Flat(
                [self._numbers()],
                self.buffers,
                num_samples=self.num_samples,
                version=self.version,
                loss=self.loss,
            )
            made.origin = self.origin
            self._decoded = made
        return self._decoded

    def _numbers(self) -> torch.Tensor:
        like, layers, parts = self.form.like, [], self.parts
        with torch.no_grad():
            for name, shape in self.form.shapes.items():
                layer = self.codec.decode(parts[name], shape, name)
                if not isinstance(layer, torch.Tensor) or layer.shape != shape:
                    raise wrong(self.codec, "decode", name, layer, f"a tensor of shape {tuple(shape)}")
                layers.append(plain(layer).to(like.device, like.dtype).reshape(-1))
            return torch.cat(layers) if layers else torch.empty_like(like)

    def averaged(
        self, tensors: Sequence[torch.Tensor], buffers: torch.Tensor | None, num_samples: int, version: int
    ) -> EncodedFlat:
        """Return the mean of this value and others in the same form, from the means of their parts."""
        numbers = iter(tensors)
        parts = {name: tuple(next(numbers).view(each.shape) for each in own) for name, own in self._parts.items()}
        return EncodedFlat(self.codec, self.form, parts, buffers, num_samples=num_samples, version=version)

    def move_to(self, device: torch.device) -> None:
        """Bring a value that has just arrived to the device that will use it."""
        self._parts = {name: tuple(part.to(device) for part in own) for name, own in self._parts.items()}
        self.buffers = None if self.buffers is None else self.buffers.to(device)

    # -- arithmetic: on what it decodes to -------------------------------------------------------------------------

    def tensor(self) -> torch.Tensor:
        """Return the decoded parameters' part."""
        return self.force().tensor()

    def with_tensor(self, parameters: torch.Tensor | Value) -> Flat:
        """Return a plain value with other numbers."""
        return self.force().with_tensor(parameters)

    def zeros(self) -> Flat:
        """Return zeros of the decoded form."""
        return self.force().zeros()

    def averaged_with(self, others: Sequence[Value]) -> Flat:
        """Return the plain mean."""
        return self.force().averaged_with(others)

    def __add__(self, other: Value) -> Flat:
        return self.force() + other

    def __sub__(self, other: Value) -> Flat:
        return self.force() - other

    def __mul__(self, factor: float) -> Flat:
        return self.force() * factor

    __rmul__ = __mul__


def as_sent(value: Value) -> Flat | EncodedFlat:
    """Return a value as it travels: encoded as it is, any other one computed."""
    return value if isinstance(value, EncodedFlat) else force(value)


def sent_tensors(value: Flat | EncodedFlat) -> list[torch.Tensor]:
    """Return all tensors that travel for a value, its buffers last."""
    tensors = value.tensors if isinstance(value, EncodedFlat) else [value.vector()]
    return tensors if value.buffers is None else [*tensors, value.buffers]


def encode(value: Value, layers: Mapping[str, torch.Tensor], codec: Codec) -> EncodedFlat:
    """Encode a computed value.

    Args:
        layers: its parameters' part by name, as a program may read it.

    Raises:
        PluginError: the codec returned something else than tensors.
    """
    flat = force(value)
    with torch.no_grad():
        parts = {name: parts_of(codec, layer, name) for name, layer in layers.items()}
    form = Form({name: layer.shape for name, layer in layers.items()}, flat.vector()[:0])
    made = EncodedFlat(
        codec, form, parts, flat.buffers, num_samples=flat.num_samples, version=flat.version, loss=flat.loss
    )
    made.origin = flat.origin
    return made


def encoded_mean(values: Sequence[EncodedFlat], weights: Sequence[float] | None) -> EncodedFlat:
    """Average encoded values part by part, operation for operation as the real engine's all-reduce does.

    Args:
        weights: of each value; None: all alike.
    """
    check_linear(values[0])
    factors = weights or [1.0] * len(values)
    samples, version = sum(value.num_samples for value in values), min(value.version for value in values)
    tensors = [_mean(same, factors) for same in zip(*(value.tensors for value in values), strict=True)]
    kept = [value.buffers for value in values if value.buffers is not None]
    return values[0].averaged(tensors, _mean(kept, factors) if kept else None, samples, version)


def _mean(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    weighted = [tensor * weight for tensor, weight in zip(tensors, weights, strict=True)]
    return sum(weighted[1:], weighted[0]) / sum(weights)
