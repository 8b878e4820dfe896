"""What cases.toml says of models, in bytes and items."""

from __future__ import annotations

import re

from harness.commands.validate.case_layers import FULL_BYTES
from harness.commands.validate.published import TableRow, Tables, TomlTable, input_of, stated
from harness.core.number_formats import scalar_bytes

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


def items_per_sample(published: Tables, row: TableRow) -> float | None:
    """Return how many of the items that a rate counts one sample holds: tokens of a sequence, points of a waveform."""
    counted = row.unit.split("/")[0]
    if counted in ("samples", "images", "sequences"):
        return 1.0
    found = stated(input_of(published, row.model), rf"(\d+) (?:target )?{re.escape(counted)}")
    return found or (WORDS_PER_SENTENCE if counted == "tokens" else None)
