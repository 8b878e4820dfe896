"""Where a pipeline is cut: contiguous stages whose slowest is fastest, each within its device's memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from harness.core.errors import Impossible
from harness.core.words import counted, exact_size, memory_size

Placement = tuple[tuple[str, ...], ...]
"""Names of the layers of each stage of a pipeline."""

Needs = Callable[[int, int, int], float]
"""Bytes that stage k needs for the layers start..end-1."""


class StageMemory(NamedTuple):
    """What stages need, and what there is.

    Attributes:
        needs: bytes of a stage; may not shrink as layers are added.
        limits: bytes of the device of each stage; devices may differ.
    """

    needs: Needs
    limits: Sequence[int]


def balance(weights: Sequence[float], parts: int) -> list[int]:
    """Return sizes of contiguous non-empty parts whose largest sum is least, exactly.

    Raises:
        Impossible: more parts than weights.
    """
    return balance_within(weights, parts, lambda stage, start, end: True)


def balance_within(
    weights: Sequence[float], parts: int, fits: Callable[[int, int, int], bool], ways: Sequence[int] = ()
) -> list[int]:
    """Return sizes as `balance` does, among the cuts whose every part fits.

    By dynamic programming over (parts, end): the least possible largest sum, from later starts to earlier ones, which
    ends as soon as the last part alone is heavier than what was found. Of equal cuts the one with early short parts.

    Args:
        fits: of part number, first and one past the last element. A part of one that fits, fits.
        ways: how many share the work of each part; empty: one each.

    Raises:
        Impossible: more parts than weights, or no cut whose parts all fit.
    """
    total = len(weights)
    if parts > total:
        raise Impossible(f"{parts} stages need at least {parts} layers; there are {total}")
    before = [0.0, *accumulate(weights)]
    best = [0.0, *[math.inf] * total]
    starts: list[list[int]] = []
    for part in range(parts):
        found, chosen = [math.inf] * (total + 1), [0] * (total + 1)
        for end in range(part + 1, total - (parts - part - 1) + 1):
            for start in range(end - 1, part - 1, -1):
                alone = (before[end] - before[start]) / (ways[part] if ways else 1)
                if alone > found[end] or not fits(part, start, end):
                    break
                largest = max(best[start], alone)
                if largest <= found[end]:
                    found[end], chosen[end] = largest, start
        best = found
        starts.append(chosen)
    if math.isinf(best[total]):
        raise Impossible(f"no split into {parts} stages fits")
    ends = [total]
    for chosen in reversed(starts):
        ends.append(chosen[ends[-1]])
    ends.reverse()
    return [end - start for start, end in pairwise(ends)]


def balance_under(
    weights: Sequence[float], parts: int, memory: StageMemory | None, ways: Sequence[int] = ()
) -> list[int]:
    """Return sizes as `balance` does, among the cuts whose stages fit into their devices.

    Args:
        ways: devices that share the work of each stage; empty: one each.

    Raises:
        Impossible: no cut fits; the message says what is missing at the stage that misses most.
    """
    if memory is None:
        return balance_within(weights, parts, lambda stage, start, end: True, ways)
    needs, limits = memory
    try:
        return balance_within(weights, parts, lambda stage, start, end: needs(stage, start, end) <= limits[stage], ways)
    except Impossible as error:
        sizes = balance(weights, parts)
        raise Impossible(f"{error} into {_in_words(limits)}; {_missing(sizes, needs, limits)}") from None


def balance_joined(
    weights: Sequence[float],
    joined: Sequence[bool],
    parts: int,
    memory: StageMemory | None = None,
    ways: Sequence[int] = (),
) -> list[int]:
    """Return sizes as `balance_under` does, where no cut may come before a joined element.

    Raises:
        Impossible: as `balance_under`.
    """
    starts = [k for k, with_last in enumerate(joined) if k == 0 or not with_last]
    bounds = [*starts, len(weights)]
    units = [sum(weights[a:b]) for a, b in pairwise(bounds)]
    if memory is not None:
        needs, limits = memory
        memory = StageMemory(lambda stage, a, b: needs(stage, bounds[a], bounds[b]), limits)
    ends = [0, *accumulate(balance_under(units, parts, memory, ways))]
    return [bounds[b] - bounds[a] for a, b in pairwise(ends)]


def _in_words(limits: Sequence[int]) -> str:
    different = dict.fromkeys(map(exact_size, limits))
    return "devices of " + ", ".join(different)


def _missing(sizes: Sequence[int], needs: Needs, limits: Sequence[int]) -> str:
    """Say for the cut that is balanced by time which stage misses most."""
    ends = list(accumulate(sizes))
    rows = [
        (needs(k, end - size, end) - limits[k], k, size) for k, (end, size) in enumerate(zip(ends, sizes, strict=True))
    ]
    missing, stage, size = max(rows)
    layers = counted(size, "layer")
    return f"balanced by time, stage {stage} ({layers}) needs {memory_size(max(0, missing))} more"


def named_sizes(named: Sequence[Sequence[str]], layers: Sequence[str], stages: int) -> list[int]:
    """Return how many layers each stage has where each lists modules; a layer that none lists goes with those before.

    A name may stand above a layer, and then means all layers inside, or below one, and then means that layer.

    Args:
        layers: names in their order; one may stand several times.

    Raises:
        Impossible: a name is no module's, stages do not follow the order of the layers, or one is empty.
    """
    among = f"The layers are, in order: {', '.join(dict.fromkeys(layers))}"
    if len(named) != stages:
        raise Impossible(f"placement lists {counted(len(named), 'stage')}, and there are {stages}")
    wrong = [name for stage in named for name in stage if not any(related(name, layer) for layer in layers)]
    if wrong:
        raise Impossible(f"placement names {', '.join(wrong)}, which is no part of the model. {among}")
    sizes, current = [0] * stages, 0
    for layer in layers:
        stage = _stage_listing(named, layer)
        if stage is not None and stage < current:
            raise Impossible(f"placement puts {layer} on stage {stage}, behind layers of stage {current}. {among}")
        current = current if stage is None else stage
        sizes[current] += 1
    if not all(sizes):
        raise Impossible(f"placement leaves stage {sizes.index(0)} without a layer. {among}")
    return sizes


def related(name: str, other: str) -> bool:
    """Whether one of two modules is, or holds, the other one."""
    inner, outer = (name, other) if len(name) > len(other) else (other, name)
    return inner.startswith(outer) and inner[len(outer) :][:1] in ("", ".")


def _stage_listing(named: Sequence[Sequence[str]], layer: str) -> int | None:
    """Return the stage that lists a layer: by the deepest name that holds it, else by the first name inside of it."""
    found = [(name, number) for number, names in enumerate(named) for name in names if related(name, layer)]
    above = [(len(name), number) for name, number in found if len(name) <= len(layer)]
    if above:
        return max(above)[1]
    return found[0][1] if found else None
