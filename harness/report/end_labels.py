"""Numbers of devices at the ends of lines: what is told apart by its shade is named where a reader looks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from matplotlib.axes import Axes

from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import PAPER, DrawnLine

AT_THE_EDGE = 0.9
"""Share of the x-axis from which on a line ends at its edge: then its number stands beside the axes; chosen."""

AXES_POINTS = 125.0
"""Height of the axes of a figure of lines, about: it is not known before the figure is laid out."""

SIZE = 8.0

SPOT = 0.015
"""Share of an axis within which ends are one; chosen."""

COUNTS_AT_ENDS = " Numbers at the ends of lines are devices."
"""Added to a caption where they stand there."""


class LineEnd(NamedTuple):
    """Where a line ends, in the units of its axes.

    Attributes:
        series: label of the line in the legend; "" where the end is that of several.
        words: what is written there in place of `gpus`.
    """

    x: float
    y: float
    gpus: int
    strategy: str
    colour: str
    series: str
    words: str = ""


def ends_of(lines: Iterable[DrawnLine], x: str, y: str, palette: Palette, scale: float = 1.0) -> list[LineEnd]:
    """Return where lines end.

    Args:
        lines: with their rows in the order in which they are drawn.
        x: column of the x-axis.
        y: column of the y-axis.
        palette: colours.
        scale: how much of `x` one unit of the axis is.
    """
    return [end_of(line, (line.rows[x].iloc[-1] / scale, line.rows[y].iloc[-1]), palette) for line in lines]


def end_of(line: DrawnLine, at: tuple[float, float], palette: Palette) -> LineEnd:
    """Return the end of a line that ends there."""
    x, y = at
    return LineEnd(float(x), float(y), line.gpus, line.strategy, palette.shade(line.strategy, line.gpus), line.label)


def label_ends(axes: Axes, ends: Sequence[LineEnd]) -> None:
    """Write the number of devices at the end of each line, moved up or down where two would touch.

    Args:
        axes: with their limits as they stay.
        ends: of the lines; nothing is written where all have as many devices.
    """
    if not counts_differ(end.gpus for end in ends):
        return
    low, high = axes.get_ylim()
    placed = [(axes.transAxes.inverted().transform(axes.transData.transform((end.x, end.y))), end) for end in ends]
    seen = _joined([(float(x), float(y), end) for (x, y), end in placed if low <= end.y <= high])
    edge = [item for item in seen if item[0] >= AT_THE_EDGE]
    gap = min(SIZE, AXES_POINTS / max(1, len(edge))) / AXES_POINTS
    for (x, _, end), height in zip(edge, pushed_apart([item[1] for item in edge], gap), strict=True):
        _write(axes, end, (max(1.0, x) + 0.035, height), gap * AXES_POINTS)
    inside = [item for item in seen if item[0] < AT_THE_EDGE]
    for (x, _, end), height in zip(inside, _beside(inside), strict=True):
        _write(axes, end, (x + 0.02, height), SIZE)


_Placed = tuple[float, float, LineEnd]


def _joined(placed: Sequence[_Placed]) -> list[_Placed]:
    """Return ends by their height; ends of one strategy that lie on each other share one label."""
    groups: dict[tuple[str, int, int], list[_Placed]] = {}
    for x, y, end in placed:
        groups.setdefault((end.strategy, round(x / SPOT), round(y / SPOT)), []).append((x, y, end))
    found = []
    for group in groups.values():
        counts, (x, y, end) = sorted({item[2].gpus for item in group}), group[-1]
        if len(counts) > 1:
            words = f"{counts[0]} to {counts[-1]}" if len(counts) > 2 else f"{counts[0]}, {counts[1]}"
            end = end._replace(words=words, series="")
        found.append((x, y, end))
    return sorted(found, key=lambda item: item[1])


def counts_differ(gpus: Iterable[int]) -> bool:
    """Say whether lines differ in their numbers of devices: then they are written."""
    return len(set(gpus)) > 1


def pushed_apart(heights: Sequence[float], gap: float) -> list[float]:
    """Return heights, ascending, moved as little as it takes to be a gap apart, and to stay between 0 and 1.

    Neighbours that touch share what they have to move: pools of them stand about their mean.
    """
    pools: list[list[float]] = []
    for height in heights:
        pools.append([height])
        while len(pools) > 1 and _low(pools[-1], gap) < _high(pools[-2], gap) + gap:
            pools[-2:] = [pools[-2] + pools[-1]]
    return [_low(pool, gap) + gap * place for pool in pools for place in range(len(pool))]


def _low(pool: Sequence[float], gap: float) -> float:
    extent = gap * (len(pool) - 1)
    return min(max(sum(pool) / len(pool) - extent / 2, 0.0), max(0.0, 1.0 - extent))


def _high(pool: Sequence[float], gap: float) -> float:
    return _low(pool, gap) + gap * (len(pool) - 1)


def _beside(inside: Sequence[_Placed]) -> list[float]:
    """Return the heights of numbers within the axes: only such as stand over each other have to give way."""
    heights: dict[int, float] = {}
    left = set(range(len(inside)))
    while left:
        first = min(left)
        near = [k for k in sorted(left) if abs(inside[k][0] - inside[first][0]) < 0.06]
        heights |= dict(zip(near, pushed_apart([inside[k][1] for k in near], SIZE / AXES_POINTS), strict=True))
        left -= set(near)
    return [heights[k] for k in range(len(inside))]


def _write(axes: Axes, end: LineEnd, place: tuple[float, float], size: float) -> None:
    line = {"arrowstyle": "-", "color": end.colour, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 0}
    ground = {"facecolor": PAPER, "edgecolor": "none", "alpha": 0.75, "pad": 0.4}  # lines may pass behind it
    text = axes.annotate(end.words or str(end.gpus), (end.x, end.y), xytext=place, textcoords="axes fraction",
                         fontsize=size, va="center", annotation_clip=False, arrowprops=line, bbox=ground)  # fmt: skip
    mark(text, end.series)
    if text.arrow_patch is not None:
        mark(text.arrow_patch, end.series)
