"""Accuracy and loss as training goes on: a line for each seed, their median thick."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.collections import LineCollection

from harness.analysis.curves import MOST_POINTS, median_curve, thin
from harness.core.words import three, time_unit
from harness.report.svg import (
    INK,
    MARKERS,
    Drawing,
    clock_in_words,
    drawing,
    kind_in_words,
    new_figure,
    plain_numbers,
    ranked,
    shorten,
    style,
)

TWO_COLUMNS = 24
"""Characters of a name in the legend up to which two stand side by side in the width of a figure."""

MOST_PANELS = 6

MOST_IN_CSV = 40
"""Points of a seed's curve in the download: what a figure can show, and the page stays small."""


@dataclass(frozen=True)
class Axis:
    """What a curve is drawn of.

    Attributes:
        column: of the frame of curves.
        log: losses fall over decades.
    """

    column: str
    name: str
    log: bool = False


ACCURACY = Axis("accuracy", "validation accuracy")
LOSS = Axis("train_loss", "training loss", log=True)


def curve_drawings(
    curves: pd.DataFrame, axis: Axis, palette: Mapping[str, str], target: float | None, prefix: str
) -> list[Drawing]:
    """Draw a quantity against samples and against seconds, a panel for each batch and rate.

    Args:
        curves: columns as in harness.report.frames.CURVE_COLUMNS.
        axis: what is drawn.
        palette: colour by strategy.
        target: the accuracy that was asked for.
        prefix: starts the ids inside the SVG, which must be unique on a page.
    """
    panels = best_panels(curves)
    drawn = [
        curve_drawing(panel, axis, column, palette, target, f"{prefix}{axis.column}-{column}{number}")
        for number, panel in enumerate(panels)
        for column in ("samples", "time_s")
    ]
    return [item for item in drawn if item is not None]


def panels_left_out(curves: pd.DataFrame) -> int:
    """Return how many panels of batch and rate are not drawn, because a page of them would not be looked at."""
    return max(0, int(curves.groupby(["simulated", "panel"]).ngroups) - MOST_PANELS)


def best_panels(curves: pd.DataFrame, most: int = MOST_PANELS) -> list[pd.DataFrame]:
    """Return the panels, those that reached the highest accuracies first, no more than can be looked at."""
    groups = [group for _, group in curves.groupby(["simulated", "panel"], sort=False)]
    return sorted(groups, key=lambda group: -group.groupby("line")["accuracy"].max().median())[:most]


def curve_drawing(
    panel: pd.DataFrame, axis: Axis, column: str, palette: Mapping[str, str], target: float | None, prefix: str
) -> Drawing | None:
    """Draw one panel; None where it has nothing of this quantity."""
    panel = panel.dropna(subset=[column, axis.column])
    panel = panel[panel[axis.column] > 0] if axis.log else panel
    if panel.empty:
        return None
    simulated = bool(panel["simulated"].iloc[0])
    size, unit = (1.0, "") if column == "samples" else time_unit(float(panel[column].max()))
    panel = panel.assign(x=panel[column] / size, y=panel[axis.column])
    against = "samples seen" if column == "samples" else clock_in_words(unit, simulated) + " of training"
    title = f"{axis.name.capitalize()} against {against}, {kind_in_words(simulated)}, {panel['panel'].iloc[0]}"
    with style():
        columns = 2 if panel["line"].str.len().max() <= TWO_COLUMNS else 1
        figure, axes = new_figure(2.7 + 0.2 * -(-panel["line"].nunique() // columns))
        _seeds(axes, panel, palette, simulated)
        ends = [_median_line(axes, line, palette[line.strategy], simulated) for line in _lines(panel)]
        if target is not None and axis is ACCURACY:
            axes.axhline(target, color=INK, linestyle=":", linewidth=1)
        axes.set(xlabel=against, ylabel=axis.name, xlim=(0, None), **({"yscale": "log"} if axis.log else {}))
        if axis.log:
            plain_numbers(axes.yaxis)
        figure.legend(loc="outside lower center", ncols=columns)
        caption = _best_in_words(panel, axis, against, target)
        details = " ".join(f"{label}: {y:.3g} at {three(x)} {against}." for label, x, y in filter(None, ends))
        return drawing(figure, title, caption, details, _table(panel, against, axis), prefix)


def _best_in_words(panel: pd.DataFrame, axis: Axis, against: str, target: float | None) -> str:
    """Say which line ends best and which worst, and which is first to see the target."""
    ends = panel.groupby(["line", "seed"], sort=False).last().groupby("line", sort=False)["y"].median()
    ends = ends[ranked(ends.index)]
    best, worst = (ends.idxmax(), ends.idxmin()) if axis is ACCURACY else (ends.idxmin(), ends.idxmax())
    text = f"{best} ends at {axis.name} {ends[best]:.3g}"
    text += f", {worst} at {ends[worst]:.3g}" if best != worst and f"{ends[worst]:.3g}" != f"{ends[best]:.3g}" else ""
    if target is not None and axis is ACCURACY:
        above = (
            panel[(panel["y"] >= target) & panel["line"].isin(ends.index)]
            .groupby(["line", "seed"], sort=False)["x"]
            .min()
        )
        first = above.groupby("line", sort=False).median().sort_values()
        if len(first):
            text += f"; to {target:g} (dotted) {first.index[0]} is first, at {three(first.iloc[0])} {against}"
        else:
            text += f"; none gets to {target:g} (dotted)"
    seeds = panel["seed"].nunique()
    return f"{text}. " + (f"Thin: each of {seeds} seeds; thick: their median." if seeds > 1 else "One seed each.")


def _table(panel: pd.DataFrame, against: str, axis: Axis) -> pd.DataFrame:
    kept = [seed.iloc[_thinned(len(seed), MOST_IN_CSV)] for _, seed in panel.groupby(["line", "seed"], sort=False)]
    table = pd.concat(kept)[["line", "seed", "x", "y"]]
    return table.rename(columns={"x": against, "y": axis.name})


def _seeds(axes: Any, panel: pd.DataFrame, palette: Mapping[str, str], simulated: bool) -> None:
    for strategy, group in panel.groupby("strategy", sort=False):
        seeds = (seed.iloc[_thinned(len(seed))][["x", "y"]].to_numpy() for _, seed in group.groupby(["line", "seed"]))
        look: dict[str, Any] = {"linestyle": "--" if simulated else "-", "linewidth": 0.7, "alpha": 0.4}
        axes.add_collection(LineCollection(list(seeds), color=palette[strategy], **look))
    axes.autoscale_view()


def _thinned(length: int, most: int = MOST_POINTS) -> Any:
    index = np.arange(length, dtype=float)
    return thin((index, index), most)[0].astype(int)


class _Line(NamedTuple):
    label: str
    strategy: str
    marker: str
    number: int
    rows: pd.DataFrame


def _lines(panel: pd.DataFrame) -> Iterator[_Line]:
    counts = sorted(panel["gpus"].unique())
    for number, (label, rows) in enumerate(panel.groupby("line", sort=False)):
        marker = MARKERS[counts.index(rows["gpus"].iloc[0]) % len(MARKERS)]
        yield _Line(label, rows["strategy"].iloc[0], marker, number, rows)


def _median_line(axes: Any, line: _Line, colour: str, simulated: bool) -> tuple[str, float, float] | None:
    """Draw the median of a line's seeds and return its name and where it ends."""
    seeds = [(seed["x"].to_numpy(float), seed["y"].to_numpy(float)) for _, seed in line.rows.groupby("seed")]
    x, y = median_curve(seeds, MOST_POINTS)
    face = "none" if simulated else colour
    look = {"linestyle": "--" if simulated else "-", "marker": line.marker, "markerfacecolor": face, "markersize": 4.5}
    # Each line has its markers elsewhere: strategies that train identically lie on each other, and all must be seen.
    every = max(1, len(x) // 6)
    label = shorten(line.label)
    axes.plot(x, y, color=colour, label=label, linewidth=1.8, markevery=(line.number % every, every), **look)
    return (line.label, x[-1], y[-1]) if len(x) else None
