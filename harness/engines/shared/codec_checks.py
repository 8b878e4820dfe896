"""What both engines ask of a codec, and how they refuse what is none. Imports no torch before something is encoded."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from harness.api.strategy import Codec, Encoded
from harness.core.errors import PluginError
from harness.core.words import listed
from harness.engines.shared.started_words import awaited, mistake, type_name

if TYPE_CHECKING:
    import torch


class Carried(NamedTuple):
    """A codec as a message carries it."""

    module: str
    name: str
    fields: dict[str, object]


def as_codec(given: object) -> Codec:
    """Pass what must be a codec through.

    Raises:
        PluginError: it is none.
    """
    given = awaited(given)
    if not isinstance(given, Codec):
        raise mistake(f"encode takes a value and a codec, an instance of a subclass of Codec; got {type_name(given)}")
    return given


def carried(codec: Codec) -> Carried | None:
    """Return a codec as its class and its plain fields; None where it holds anything else."""
    fields = vars(codec)
    plain = all(isinstance(field, (bool, int, float, str)) for field in fields.values())
    return Carried(type(codec).__module__, type(codec).__qualname__, dict(fields)) if plain else None


def check_sent(value: object, whole_bytes: int) -> None:
    """Refuse an encoded value that no message carries.

    Args:
        whole_bytes: of the same value without a codec, which a message has room for.

    Raises:
        PluginError: the receiver could not decode it, or it is no smaller than without a codec.
    """
    if not isinstance(value, Encoded):
        return
    name = type(value.codec).__name__
    if carried(value.codec) is None:
        raise mistake(
            "send takes values of codecs that hold only numbers, words and flags, so that the receiver can decode "
            f"them; {name} holds something else"
        )
    if value.num_bytes > whole_bytes:
        raise mistake(
            f"send of a value that takes {value.num_bytes} bytes encoded by {name} and {whole_bytes} without; send it "
            "as it is"
        )


def check_linear(value: Encoded) -> None:
    """Refuse to average what only means something once it is decoded.

    Raises:
        PluginError: the codec does not say that it is linear, or makes whole numbers.
    """
    name = type(value.codec).__name__
    if not value.codec.linear:
        raise mistake(
            f"mean takes encoded values of linear codecs, and {name} is not one. Exchange by average(await "
            "worker.gather(value)), or say linear = True where the mean of encoded tensors is the encoded mean"
        )
    whole = {part.dtype for own in value.parts.values() for part in own if not part.is_floating_point()}
    if whole:
        raise mistake(
            f"mean of values encoded by {name}: {listed(sorted(map(str, whole)))} has no mean of its own type"
        )


def parts_of(codec: Codec, layer: torch.Tensor, name: str) -> tuple[torch.Tensor, ...]:
    """Return what a codec makes of one layer, in memory of its own.

    Raises:
        PluginError: something else than tensors.
    """
    import torch

    from harness.engines.shared.read_only import plain

    parts = codec.encode(layer, name)
    if not isinstance(parts, (tuple, list)) or not all(isinstance(part, torch.Tensor) for part in parts):
        raise wrong(codec, "encode", name, parts, "a tuple of tensors")
    return tuple(plain(part).contiguous() for part in parts)


def wrong(codec: Codec, word: str, name: str, got: object, wanted: str) -> PluginError:
    """Word what a codec's function returned in place of what it must."""
    shape = getattr(got, "shape", None)
    shown = type_name(got) if shape is None else f"one of shape {tuple(shape)}"
    return mistake(f"{type(codec).__name__}.{word} of layer {name} must return {wanted}; got {shown}")
