"""A model's layers, from a profile in the directory or from what its figures say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from harness.commands.validate.published import LayerLine, Tables, stated, words_of

FULL_BYTES = 4

GENERIC_LAYERS = 48
"""Layers of a model of which only the size is known; chosen, enough that single layers do not show."""

GROWTH = 20.0
"""How many times more parameters the last convolution has than the first, where a model is known by its input only.

Chosen: ResNet-50 has 19 times as many in its last quarter as in its first (profiles/resnet50.csv).
"""

GENERIC_OUTPUT_BYTES = 1.6e6
"""Of one sample between the layers of a convolutional network; chosen, 28 x 28 x 512 numbers."""

_SAME_SIZE = 0.03
"""Two models of one family whose sizes differ by less are the same but for details; chosen."""

EXTENDED_SIZE = 0.005
"""How well a deeper network of a family must agree in size with a profiled one that is given more blocks; chosen."""


@dataclass(frozen=True)
class ModelPart:
    """One layer's share of a model: of its parameters, of its forward and of its backward time.

    Attributes:
        output_bytes: of one sample.
    """

    parameters: float
    forward: float
    backward: float
    output_bytes: float = GENERIC_OUTPUT_BYTES


@dataclass(frozen=True)
class ModelParts:
    """All parts of a model.

    Attributes:
        known: from a profile of this model; otherwise shares of the time are assumed equal.
        stage_ends: how many parts come before the end of each block of layers that a network of residual stages
            consists of: stem, stages, tail; empty for other networks.
    """

    parts: tuple[ModelPart, ...]
    known: bool = False
    stage_ends: tuple[int, ...] = ()


@lru_cache(maxsize=64)
def published_parts(published: Tables, model: str) -> ModelParts:
    """Return a model's layers: from a profile of a model of the same size or family, else from its figures."""
    found = computing_lines(published, model)
    if found:
        return _profiled(*found)
    text = words_of(published, model)
    if re.search(r"\d+x\d+x\d+", text):
        return _convolutions()
    return _blocks(text, float(published.models.get(model, {}).get("parameter_bytes", 0)) / FULL_BYTES)


def computing_lines(published: Tables, model: str) -> tuple[Sequence[LayerLine], float] | None:
    """Return the lines of a profile that a model computes, and their batch; None where no profile is of its family."""
    size = float(published.models.get(model, {}).get("parameter_bytes", 0))
    for name, lines in sorted(published.profiles.items()):
        if not size or _family(name) != _family(model):
            continue
        computing = [line for line in lines if line.kind != "Input"]
        batch = published.profile_batches.get(name, 1)
        if abs(_held(computing) / size - 1) < _SAME_SIZE:
            return computing, batch
        if deeper := _deepened(computing, size):
            return deeper, batch
    return None


def _held(lines: Sequence[LayerLine]) -> int:
    return sum(line.parameter_bytes for line in lines)


def _family(name: str) -> str:
    letters = re.match(r"[a-z]*", name.lower())
    return letters[0] if letters else ""


def _profiled(lines: Sequence[LayerLine], batch: float) -> ModelParts:
    forward, backward = sum(line.forward_s for line in lines), sum(line.backward_s for line in lines)
    held = _held(lines)
    parts = tuple(
        ModelPart(
            *(line.parameter_bytes / held, line.forward_s / forward, line.backward_s / backward),
            line.activation_bytes / batch,
        )
        for line in lines
    )
    blocks, stages = _residual_blocks(lines)
    return ModelParts(parts, True, (_stem_end(lines, blocks), *stages, len(lines)) if stages else ())


def _residual_blocks(lines: Sequence[LayerLine]) -> tuple[list[int], list[int]]:
    """Return the ends of residual blocks, an addition and the activation behind it, and of stages of equal blocks."""
    ends = []
    for number, line in enumerate(lines):
        if line.kind == "Add":
            followed = number + 1 < len(lines) and lines[number + 1].kind == "ReLU"
            ends.append(number + 1 + followed)
    return ends, [end for k, end in enumerate(ends) if k + 1 == len(ends) or _narrower(lines, end, ends[k + 1])]


def _narrower(lines: Sequence[LayerLine], end: int, following: int) -> bool:
    return lines[following - 1].activation_bytes < lines[end - 1].activation_bytes


def _stem_end(lines: Sequence[LayerLine], blocks: Sequence[int]) -> int:
    """Return where the first residual block begins: behind the last pooling before its addition."""
    pools = [k for k, line in enumerate(lines[: blocks[0]]) if "Pool" in line.kind]
    return pools[-1] + 1 if pools else 0


def _deepened(lines: Sequence[LayerLine], size: float) -> list[LayerLine] | None:
    """Return the lines with the second block of inner stages repeated until parameters add up to `size`.

    Deeper networks of the family have more blocks in the second and third of four stages.

    Source: He et al. 2016, "Deep Residual Learning for Image Recognition", table 1.
    """
    blocks, stages = _residual_blocks(lines)
    if len(stages) != 4 or not size:
        return None
    # The block before the end of a stage is one of the equal ones.
    inner = [list(lines[blocks[blocks.index(end) - 1] : end]) for end in stages[1:3]]
    base, second, third = _held(lines), _held(inner[0]), _held(inner[1])
    counts = ((more, round((size - base - more * second) / third)) for more in range(0, 25))
    best = min(counts, key=lambda pair: (abs(base + pair[0] * second + pair[1] * third - size), pair))
    total = base + best[0] * second + best[1] * third
    if min(best) < 0 or abs(total / size - 1) > EXTENDED_SIZE:
        return None
    middle, end = stages[1], stages[2]
    return [*lines[:middle], *inner[0] * best[0], *lines[middle:end], *inner[1] * best[1], *lines[end:]]


def _convolutions() -> ModelParts:
    sizes = [GROWTH ** (k / (GENERIC_LAYERS - 1)) for k in range(GENERIC_LAYERS)]
    return ModelParts(tuple(ModelPart(size / sum(sizes), 1 / GENERIC_LAYERS, 1 / GENERIC_LAYERS) for size in sizes))


def _blocks(text: str, parameters: float) -> ModelParts:
    """Return an embedding, whose gradients are ready last, and equal blocks."""
    vocabulary, hidden = stated(text, r"vocabulary (?:about )?(\d+)"), stated(text, r"(?:hidden|d_model) (\d+)")
    table = (vocabulary or 0) * (hidden or 0)
    # A table of more than this is kept in cut or factored form: the blocks need the rest.
    share = min(table / parameters, 0.8) if parameters else 0.0
    block = ModelPart((1 - share) / GENERIC_LAYERS, 1 / GENERIC_LAYERS, 1 / GENERIC_LAYERS)
    return ModelParts((ModelPart(share, 0.0, 0.0), *[block] * GENERIC_LAYERS))
