"""Throughput as bars: measured filled, simulated hollow, in figures of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.core.uncertainty import STATED, stated_band
from harness.core.words import share_in_percent, times
from harness.report.marks import mark, name_cells
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    MOST_BARS,
    Panel,
    first_of,
    from_zero_or_log,
    kind_in_words,
    measured_and_simulated,
    ranked,
    rows_of,
    spans_decades,
)

TOO_WIDE = 100.0
"""Ratio above which bars give way to dots on a logarithmic axis; chosen: bars say how many times as fast, until the
shortest cannot be seen."""

FAR = 2.0
"""Factor from which on a stated error is given as one too: a percentage says little of the lower end; chosen."""


@measured_and_simulated
def throughput_panels(bars: pd.DataFrame, simulated: bool) -> Panel | None:
    """Draw the throughput of each point: median over its cells, smallest to largest as a whisker.

    Medians are bars, and dots on a logarithmic axis where they or their bands span decades.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS.
    """
    bars = bars.dropna(subset=["throughput"])
    bars = bars[bars["throughput"] > 0]
    if bars.empty:
        return None
    bars, labels, more = shown_bars(bars)
    clock = "simulated second" if simulated else "second"
    points = [_point(label, group) for label, group in bars.groupby("label", sort=False)]
    medians = pd.Series({point.label: point.median for point in points})
    rows = rows_of(f"{point.label}: {point.median:,.0f}" for point in points)
    ends = [end for point in points for end in point.ends]
    wide = spans_decades(ends, TOO_WIDE)
    compared = medians[list(ranked(bars)["label"].unique())]

    def draw(axes: Axes, palette: Palette) -> None:
        for place, point in zip(rows.places, points, strict=True):
            _row(axes, place, point, palette.shade(point.strategy, point.gpus), simulated, wide)
        rows.name(axes)
        axes.set(xlabel=f"samples per {clock}")
        from_zero_or_log(axes, ends, TOO_WIDE)

    return Panel(
        title=f"Throughput, {kind_in_words(simulated)}",
        height_inch=0.75 + rows.height_inch,
        draw=draw,
        caption=f"{_fastest(compared, clock)}{_spread(points)}{_stated(points)}{more}",
        details=f"{'; '.join(f'{point.label}: {point.median:,.0f}' for point in points)}.",
        table=bars.groupby("label")["throughput"].agg(["median", "min", "max", "count"]).loc[labels].reset_index(),
    )


@dataclass(frozen=True)
class _Point:
    """One bar.

    Attributes:
        least, most: of its cells.
        stated: relative error of the prediction, one standard deviation; NaN where none is.
        name: which cells it stands for.
    """

    label: str
    name: str
    strategy: str
    gpus: int
    median: float
    least: float
    most: float
    count: int
    stated: float

    @property
    def band(self) -> tuple[float, float] | None:
        """The least and the most that the prediction says it may be."""
        return None if math.isnan(self.stated) else stated_band(self.median, self.stated)

    @property
    def ends(self) -> tuple[float, ...]:
        """All that is drawn of it."""
        return (self.least, self.median, self.most, *(self.band or ()))


def _point(label: object, cells: pd.DataFrame) -> _Point:
    found, first = cells["throughput"], cells.iloc[0]
    return _Point(
        label=str(label),
        name=name_cells(str(label), cells),
        strategy=str(first["strategy"]),
        gpus=int(first["gpus"]),
        median=float(found.median()),
        least=float(found.min()),
        most=float(found.max()),
        count=len(found),
        stated=float(pd.to_numeric(cells["stated"]).max()),
    )


def _row(axes: Axes, place: float, point: _Point, colour: str, simulated: bool, wide: bool) -> None:
    hollow: dict[str, Any] = {"facecolor": "none", "edgecolor": colour}
    if wide:
        (drawn,) = axes.plot([point.median], [place], "o", color=colour, markersize=7, markeredgewidth=1.5,
                             markerfacecolor="none" if simulated else colour)  # fmt: skip
    else:
        how = hollow | {"hatch": "///", "linewidth": 1.2, "linestyle": "--"} if simulated else {"color": colour}
        (drawn,) = axes.barh(place, point.median, 0.45, **how)
    (whisker,) = axes.plot([point.least, point.most], [place, place], color=INK, linewidth=1)
    said = f"{point.name}: {point.median:,.0f} samples/s"
    many = f"{said}, median of {point.count} cells, {point.least:,.0f} to {point.most:,.0f}"
    mark(drawn, name=many if point.count > 1 else said)
    mark(whisker, name=many)
    if point.band is not None:
        (band,) = axes.plot(point.band, [place, place], "--|", color=INK, linewidth=1, markersize=9)
        mark(band, name=f"{said}, stated to lie between {point.band[0]:,.0f} and {point.band[1]:,.0f}")


def _fastest(medians: pd.Series, clock: str) -> str:
    best, worst = medians.idxmax(), medians.idxmin()
    if best == worst:
        return f"{best} trains {medians[best]:,.0f} samples per {clock}."
    ahead = f"{medians[best] / medians[worst]:.3g} times as many as {worst} ({medians[worst]:,.0f})"
    return f"{best} is fastest: {medians[best]:,.0f} samples per {clock}, {ahead}."


def _spread(points: Sequence[_Point]) -> str:
    least, most = min(point.count for point in points), max(point.count for point in points)
    if most == 1:
        return ""
    cells = f"{least} to {most}" if least < most else f"{most}"
    return f" They are medians of {cells} cells; solid lines span minimum to maximum."


def _stated(points: Sequence[_Point]) -> str:
    known = [point.stated for point in points if not math.isnan(point.stated)]
    if not known:
        return ""
    factor = 1 + STATED * max(known)
    far = f", a factor of {times(factor)} either way" if factor >= FAR else ""
    return f" Dashed lines show the stated error, at most \N{PLUS-MINUS SIGN}{share_in_percent(factor - 1)}{far}."


def shown_bars(bars: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
    """Return the bars that are drawn, their labels in order, and a sentence on those that are not."""
    labels = list(dict.fromkeys(bars["label"]))
    drawn = labels[:MOST_BARS]
    return bars[bars["label"].isin(drawn)], drawn, first_of(len(drawn), len(labels))
