"""From a model's figures in cases.toml to profiles."""

from __future__ import annotations

import re
from functools import lru_cache

from harness.commands.validate.case_layers import FULL_BYTES, ModelPart
from harness.commands.validate.published import TableRow, Tables, TomlTable, input_of, stated
from harness.core.number_formats import scalar_bytes
from harness.costs.profiles import LayerShape, LayerTime, Linear, ModelShape, Profile

HALF_BYTES = scalar_bytes("mixed").sent
SCENARIO_PRECISIONS = {"fp16": "mixed", "mixed": "mixed", "amp": "fp16"}
"""What scenarios call the precisions of the tables: published half precision is that of Micikevicius et al. 2018, with
half gradients; automatic mixed precision keeps them in fp32."""

BACKWARD_SHARE = 2 / 3
"""Of a step without its optimizer: gradients of inputs and of weights each cost what the forward pass costs."""

UNKNOWN_BYTES = 100e6
"""Of a model whose size nobody states; chosen, as ResNet-50. The prediction then rests on the fixed costs."""

WORDS_PER_SENTENCE = 30
"""Tokens of a sentence of unstated length; chosen: WMT English-German averages 25 to 30 word pieces."""


def parameter_bytes(published: Tables, row: TableRow, block: TomlTable) -> float:
    """Return the fp32 bytes of a model's gradients."""
    model = published.models.get(row.model, {})
    size = block.get("gradient_bytes") or model.get("parameter_bytes") or model.get("parameters", 0) * FULL_BYTES
    return float(size or UNKNOWN_BYTES)


def element_bytes(precision: str) -> int:
    """Return the bytes of one gradient element."""
    return scalar_bytes(SCENARIO_PRECISIONS.get(precision, "fp32")).sent


@lru_cache(maxsize=64)
def _shape_of(parts: tuple[ModelPart, ...], num_bytes: float, width: int) -> ModelShape:
    scalars = num_bytes / FULL_BYTES
    sizes = [round(part.parameters * scalars) for part in parts]
    layers = tuple(
        LayerShape(
            f"{number}", (size,) if size else (), output_bytes=Linear(0.0, part.output_bytes * width / FULL_BYTES)
        )
        for number, (part, size) in enumerate(zip(parts, sizes, strict=True))
    )
    return ModelShape(layers, element_bytes=width)


def profile_of_parts(
    parts: tuple[ModelPart, ...], num_bytes: float, width: int, gradient_s: float, samples: float
) -> Profile:
    """Return the profile of a model whose forward and backward pass over so many samples take `gradient_s`.

    Args:
        num_bytes: of its gradients in fp32.
        width: bytes of one gradient element.
    """
    forward_s, backward_s = gradient_s * (1 - BACKWARD_SHARE), gradient_s * BACKWARD_SHARE
    times = tuple(LayerTime.at(samples, part.forward * forward_s, part.backward * backward_s) for part in parts)
    return Profile(_shape_of(parts, num_bytes, width), times)


def items_per_sample(published: Tables, row: TableRow) -> float | None:
    """Return how many of the items that a rate counts one sample holds: tokens of a sequence, points of a waveform."""
    counted = row.unit.split("/")[0]
    if counted in ("samples", "images", "sequences"):
        return 1.0
    found = stated(input_of(published, row.model), rf"(\d+) (?:target )?{re.escape(counted)}")
    return found or (WORDS_PER_SENTENCE if counted == "tokens" else None)
