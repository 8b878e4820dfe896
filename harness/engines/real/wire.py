"""Values as bytes on the wire: what `gather` and messages with encoded values carry, of any types and shapes."""

from __future__ import annotations

import json
import sys

import torch

from harness.api.strategy import Codec, Value
from harness.core.errors import PluginError
from harness.core.records import Json
from harness.engines.shared.codec_checks import Carried, carried
from harness.engines.shared.encoded import EncodedFlat, Form, as_sent, sent_tensors
from harness.engines.shared.flat import Flat

ALIGNMENT = 16
"""Bytes that every tensor begins at a multiple of: the largest of torch's numbers has so many."""


def to_bytes(value: Value) -> torch.Tensor:
    """Return all of a value as bytes, shape (n,): the length of what is in it as JSON, that, and its tensors.

    What decodes an encoded value is described too where plain numbers say it, else left to the receiver.
    """
    sent = as_sent(value)
    tensors = sent_tensors(sent)
    loss = None if sent.loss is None else float(sent.loss)
    facts: Json = {"samples": sent.num_samples, "version": sent.version, "origin": list(sent.origin), "loss": loss}
    facts["tensors"] = [[_name_of(t.dtype), list(t.shape)] for t in tensors]
    facts["buffers"] = sent.buffers is not None
    if isinstance(sent, EncodedFlat):
        facts["parts"] = sent.lengths
        facts["codec"] = carried(sent.codec)
    head = json.dumps(facts).encode()
    device = tensors[0].device if tensors else torch.device("cpu")
    length = torch.tensor([len(head)], dtype=torch.int64).view(torch.uint8)
    described_by = [length.to(device), torch.frombuffer(bytearray(head), dtype=torch.uint8).to(device)]
    contents = [tensor.reshape(-1).view(torch.uint8) for tensor in tensors]
    return torch.cat([_aligned(block) for block in (*described_by, *contents)])


def from_bytes(raw: torch.Tensor, form: Form, codec: Codec | None = None) -> Value:
    """Return the value that `to_bytes` made into bytes.

    Args:
        form: of the model's values here.
        codec: that decodes it; None: the one that the bytes describe.
    """
    length = int(raw[:8].view(torch.int64).item())
    facts = json.loads(bytes(raw[ALIGNMENT : ALIGNMENT + length].cpu().numpy()))
    tensors, place = [], ALIGNMENT + _up(length)
    for dtype, shape in facts["tensors"]:
        kind, size = getattr(torch, dtype), torch.Size(shape)
        end = place + size.numel() * kind.itemsize
        tensors.append(raw[place:end].view(kind).view(size))
        place += _up(end - place)
    buffers = tensors.pop() if facts["buffers"] else None
    value: Flat | EncodedFlat
    if "parts" in facts:
        numbers = iter(tensors)
        parts = {
            name: tuple(next(numbers) for _ in range(count))
            for name, count in zip(form.shapes, facts["parts"], strict=True)
        }
        value = EncodedFlat(codec or _codec_from(Carried(*facts["codec"])), form, parts, buffers)
    else:
        value = Flat(tensors, buffers)
    value.num_samples, value.version, value.loss = facts["samples"], facts["version"], facts["loss"]
    worker, step = facts["origin"]
    value.origin = (worker, step)
    return value


def _up(num_bytes: int) -> int:
    return -(-num_bytes // ALIGNMENT) * ALIGNMENT


def _aligned(block: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.pad(block, (0, _up(len(block)) - len(block)))


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _codec_from(sent: Carried) -> Codec:
    """Make the codec anew: every process has loaded the file of its class.

    Raises:
        PluginError: its class is not at the top of that file.
    """
    kind = getattr(sys.modules.get(sent.module), sent.name, None)
    if not (isinstance(kind, type) and issubclass(kind, Codec)):
        raise PluginError(
            f"a value encoded by {sent.name} has come, and the receiver finds no such codec; define the class at the "
            "top of the strategy's file"
        )
    codec = kind.__new__(kind)
    vars(codec).update(sent.fields)
    return codec
