"""Where a published pipeline is cut: its layers with their times, and how many of them each stage holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from harness.commands.validate.case_layers import FULL_BYTES, published_parts
from harness.commands.validate.case_models import BACKWARD_SHARE
from harness.commands.validate.case_systems import first_match
from harness.commands.validate.published import TableRow, Tables, TomlTable, stated, words_of

VOCABULARY = 51200
"""Of GPT-2, padded. Source: Shoeybi et al. 2019, "Megatron-LM", section 5.1: a multiple of 128 on each of 8 devices."""


@dataclass(frozen=True)
class CutLayer:
    """A layer as stages see it.

    Attributes:
        forward, backward: shares of a pass forward and back through all layers.
        output_bytes: of one sample in single precision.
        parameters: share of all.
    """

    name: str
    forward: float
    backward: float
    output_bytes: float
    parameters: float


@dataclass(frozen=True)
class StageCut:
    """A model's layers in their order.

    Attributes:
        sizes: layers of each stage; empty where they are balanced by time.
        width: hidden size of a transformer; 0 of other models.
    """

    layers: tuple[CutLayer, ...]
    sizes: tuple[int, ...] = ()
    width: int = 0

    @property
    def placement(self) -> list[list[str]] | str:
        """The option of strategies that says so, with the names that a file of these layers gets."""
        if not self.sizes:
            return "time"
        ends = accumulate(self.sizes)
        names = [f"{number} {layer.name}" for number, layer in enumerate(self.layers, start=1)]
        return [names[end - size : end] for size, end in zip(self.sizes, ends, strict=True)]


def even_sizes(layers: int, stages: int) -> list[int]:
    """Return sizes of stages that differ by one layer at most, larger ones first."""
    base, more = divmod(layers, stages)
    return [base + (k < more) for k in range(stages)]


def cut_of(published: Tables, row: TableRow, block: TomlTable) -> StageCut | None:
    """Return the model's layers and how many of them each stage holds; None where nobody knows its layers."""
    entry = first_match(block.get("stages", ()), row) or {}
    stages = len(entry.get("replicas", ())) or row.gpus or 1
    sizes = tuple(int(size) for size in entry.get("sizes", ()))
    layers = stated(str(published.models.get(row.model, {}).get("name", "")), r"(\d+) layers")
    if layers and len(sizes) in (0, stages) and (not sizes or sum(sizes) == layers):
        return _transformer(published, row, sizes or even_sizes(layers, stages))
    found = published_parts(published, row.model)
    if not found.known:
        return None
    parts = tuple(
        CutLayer(
            f"layer {number}",
            *((1 - BACKWARD_SHARE) * part.forward, BACKWARD_SHARE * part.backward),
            *(part.output_bytes, part.parameters),
        )
        for number, part in enumerate(found.parts)
    )
    held = _unit_sizes(sizes, len(parts), found.stage_ends) if len(sizes) == stages else None
    return StageCut(parts, tuple(held or ()))


def _transformer(published: Tables, row: TableRow, sizes: Sequence[int]) -> StageCut:
    """Return blocks between an embedding and a head; these take what a cut by hand leaves room for."""
    text = words_of(published, row.model)
    width, tokens = stated(text, r"hidden (\d+)") or 1024, stated(text, r"(\d+) tokens") or 1024
    room = max(sizes) - sizes[-1]
    head = float(room) if room else VOCABULARY / (12 * width)
    weights = [float(max(sizes) - sizes[0]), *[1.0] * sum(sizes), head]
    names = ("embedding", *(f"block {k}" for k in range(sum(sizes))), "head")
    parts = tuple(
        CutLayer(
            name,
            *((1 - BACKWARD_SHARE) * weight / sum(weights), BACKWARD_SHARE * weight / sum(weights)),
            *(tokens * width * FULL_BYTES, 1 / len(names)),
        )
        for name, weight in zip(names, weights, strict=True)
    )
    held = [*sizes]
    held[0] += 1
    held[-1] += 1
    return StageCut(parts, tuple(held), width)


def _unit_sizes(sizes: Sequence[int], lines: int, stage_ends: Sequence[int]) -> list[int] | None:
    """Return the lines of a profile in each stage, from sizes in another unit; None where a stage would be empty.

    A network of residual stages has as many top-level modules as its stem has layers, its stages, and two more; any
    other unit is taken to be spread evenly.
    """
    units = sum(sizes)
    bounds = [round(sum(sizes[: k + 1]) * lines / units) for k in range(len(sizes))]
    if stage_ends and units == stage_ends[0] + len(stage_ends) - 2 + 2:
        tops = [*range(1, stage_ends[0] + 1), *stage_ends[1:-1], lines - 1, lines]
        bounds = [tops[sum(sizes[: k + 1]) - 1] for k in range(len(sizes))]
    found = [end - start for start, end in zip([0, *bounds[:-1]], bounds, strict=True)]
    return found if min(found) > 0 else None
