"""Accuracy and loss as training goes on: a line for each seed, their median thick."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from harness.analysis.curves import MOST_POINTS, median_curve, thin
from harness.core.metrics import Judged
from harness.core.words import three, time_unit
from harness.report.svg import (
    INK,
    Palette,
    Panel,
    clock_in_words,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    plain_numbers,
    ranked,
    shorten,
)

TWO_COLUMNS = 24
"""Characters of a name in the legend up to which two stand side by side in the width of a figure."""

MOST_PANELS = 6
"""Combinations of batch and rate whose curves are drawn, the best first; chosen: nobody looks at a page of them."""

MOST_IN_CSV = 40
"""Points of a seed's curve in the download: what a figure can show, and the page stays small."""

Median = tuple[np.ndarray, np.ndarray]
"""Where the median over seeds lies: x and y."""


@dataclass(frozen=True)
class Learnt:
    """What a curve is drawn of.

    Attributes:
        column: of the frame of curves.
        loss: lower is better, and it falls over decades.
    """

    column: str
    name: str
    loss: bool = False


LEARNT_LOSS = Learnt("train_loss", "training loss", loss=True)


def learnt_of(metric: Judged) -> Learnt:
    """Return what the curves of a metric are drawn of."""
    return Learnt("accuracy", f"validation {metric.words}", loss=not metric.higher)


def curve_panels(curves: pd.DataFrame, learnt: Learnt, target: float | None = None) -> list[Panel]:
    """Draw a quantity against samples and against seconds, a panel for each batch and rate.

    Args:
        curves: columns as in harness.report.frames.CURVE_COLUMNS.
        learnt: what is drawn.
        target: what was asked for of it.
    """
    found = (
        curve_panel(p, learnt, against, target)
        for p in best_panels(curves, lower=learnt.loss)
        for against in ("samples", "time_s")
    )
    return [item for item in found if item is not None]


def panels_left_out(curves: pd.DataFrame) -> int:
    """Return how many combinations of batch and rate are not drawn."""
    return max(0, int(curves.groupby(["simulated", "panel"]).ngroups) - MOST_PANELS)


def best_panels(curves: pd.DataFrame, most: int = MOST_PANELS, lower: bool = False) -> list[pd.DataFrame]:
    """Return the curves of each batch and rate, those that reached the highest accuracies first.

    Args:
        lower: the less the better.
    """
    groups = [group for _, group in curves.groupby(["simulated", "panel"], sort=False)]
    if lower:
        return sorted(groups, key=lambda group: group.groupby("line")["accuracy"].min().median())[:most]
    return sorted(groups, key=lambda group: -group.groupby("line")["accuracy"].max().median())[:most]


def curve_panel(panel: pd.DataFrame, learnt: Learnt, column: str, target: float | None = None) -> Panel | None:
    """Draw the curves of one batch and rate against a column; None where they have nothing of this quantity."""
    panel = panel.dropna(subset=[column, learnt.column])
    panel = panel[panel[learnt.column] > 0] if learnt.loss else panel
    if panel.empty:
        return None
    simulated = bool(panel["simulated"].iloc[0])
    size, unit = (1.0, "") if column == "samples" else time_unit(float(panel[column].max()))
    panel = panel.assign(x=panel[column] / size, y=panel[learnt.column])
    against = "samples seen" if column == "samples" else clock_in_words(unit, simulated) + " of training"
    columns = 2 if panel["line"].str.len().max() <= TWO_COLUMNS else 1
    medians = {str(line): _median(rows) for line, rows in panel.groupby("line", sort=False)}
    ends = {line: (x[-1], y[-1]) for line, (x, y) in medians.items() if len(x)}

    def draw(axes: Axes, palette: Palette) -> None:
        _seeds(axes, panel, palette, simulated)
        _medians(axes, panel, medians, palette, simulated)
        if target is not None:
            axes.axhline(target, color=INK, linestyle=":", linewidth=1)
        axes.set(xlabel=against, ylabel=learnt.name, xlim=(0, None))
        if learnt.loss:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        legend_below(axes, ncols=columns)

    # A simulated clock says already what it is.
    kind = "" if simulated and column != "samples" else f"{kind_in_words(simulated)}, "
    return Panel(
        title=f"{learnt.name.capitalize()} against {against}, {kind}{panel['panel'].iloc[0]}",
        height_inch=2.7 + 0.2 * -(-len(medians) // columns),
        draw=draw,
        caption=_best_in_words(panel, learnt, against, target),
        details=" ".join(f"{line}: {y:.3g} at {three(x)} {against}." for line, (x, y) in ends.items()),
        table=_table(panel, against, learnt),
    )


def _best_in_words(panel: pd.DataFrame, learnt: Learnt, against: str, target: float | None) -> str:
    """Say which line ends best and which worst, and which is first to see the target."""
    compared = ranked(panel)
    ends = compared.groupby(["line", "seed"], sort=False).last().groupby("line", sort=False)["y"].median()
    best, worst = (ends.idxmin(), ends.idxmax()) if learnt.loss else (ends.idxmax(), ends.idxmin())
    highest, lowest = ("lowest", "highest") if learnt.loss else ("highest", "lowest")
    if f"{ends[worst]:.3g}" == f"{ends[best]:.3g}":
        text = f"{best if len(ends) == 1 else 'Every line'} ends at {learnt.name} {ends[best]:.3g}."
    else:
        both = f"{highest} with {best} ({ends[best]:.3g}), {lowest} with {worst} ({ends[worst]:.3g})"
        text = f"{learnt.name.capitalize()} ends {both}."
    if target is not None:
        met = compared["y"] <= target if learnt.loss else compared["y"] >= target
        above = compared[met].groupby(["line", "seed"], sort=False)["x"].min()
        first = above.groupby("line", sort=False).median().sort_values()
        if len(first):
            text += f" The first to reach {target:g} (dotted) is {first.index[0]}, at {three(first.iloc[0])} {against}."
        else:
            text += f" No line reaches {target:g} (dotted)."
    each = panel.groupby("line")["seed"].nunique()
    most = f"up to {each.max()}" if each.min() < each.max() else f"the {each.max()}"
    about = f"Thin lines are {most} seeds, thick lines their median." if each.max() > 1 else "One seed each."
    return f"{text} {about}"


def _table(panel: pd.DataFrame, against: str, learnt: Learnt) -> pd.DataFrame:
    kept = [seed.iloc[_thinned(len(seed), MOST_IN_CSV)] for _, seed in panel.groupby(["line", "seed"], sort=False)]
    table = pd.concat(kept)[["line", "seed", "x", "y"]]
    return table.rename(columns={"x": against, "y": learnt.name})


def _seeds(axes: Axes, panel: pd.DataFrame, palette: Palette, simulated: bool) -> None:
    for strategy, group in panel.groupby("strategy", sort=False):
        seeds = [seed.iloc[_thinned(len(seed))][["x", "y"]].to_numpy() for _, seed in group.groupby(["line", "seed"])]
        lines = "--" if simulated else "-"
        axes.add_collection(LineCollection(seeds, color=palette[strategy], linestyle=lines, linewidth=0.7, alpha=0.4))
    axes.autoscale_view()


def _thinned(length: int, most: int = MOST_POINTS) -> np.ndarray:
    index = np.arange(length, dtype=float)
    return thin((index, index), most)[0].astype(int)


def _median(rows: pd.DataFrame) -> Median:
    seeds = [(seed["x"].to_numpy(float), seed["y"].to_numpy(float)) for _, seed in rows.groupby("seed")]
    return median_curve(seeds, MOST_POINTS)


def _medians(axes: Axes, panel: pd.DataFrame, medians: dict[str, Median], palette: Palette, simulated: bool) -> None:
    for number, line in enumerate(lines_of(panel, "line")):
        x, y = medians[line.label]
        # Each has its markers elsewhere: strategies that train identically lie on each other, and all must be seen.
        every = max(1, len(x) // 6)
        how = look(palette[line.strategy], simulated) | {"marker": line.marker, "markersize": 4.5, "linewidth": 1.8}
        axes.plot(x, y, label=shorten(line.label), markevery=(number % every, every), **how)
