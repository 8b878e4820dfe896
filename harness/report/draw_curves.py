"""Accuracy and loss as training goes on: a line for each seed, their median thick."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from harness.analysis.curves import MOST_POINTS, median_curve, thin
from harness.core.metrics import Judged
from harness.core.words import three, time_unit
from harness.report.end_labels import COUNTS_AT_ENDS, counts_differ, end_of, label_ends
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    Panel,
    clock_in_words,
    from_zero_or_log,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    plain_numbers,
    ranked,
)

MOST_CURVES = 16
"""Lines of a figure; chosen: of more nobody follows one, and their numbers of devices have no room at their ends."""

SPIKE = 20.0
"""Multiple of the highest loss at the start above which losses run off the figure; chosen: one seed that blows up to
1e30 would press all others onto one line."""

MOST_PANELS = 6
"""Combinations of batch and rate whose curves are drawn, the best first; chosen: nobody looks at a page of them."""

ROWS_IN_CSV = 4000
"""Rows of a download, about: of hundreds of seeds each has fewer points, and at least a few; chosen: the page stays
small."""

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
    simulated, every = bool(panel["simulated"].iloc[0]), panel["line"].nunique()
    panel = _drawn(panel)
    size, unit = (1.0, "") if column == "samples" else time_unit(float(panel[column].max()))
    panel = panel.assign(x=panel[column] / size, y=panel[learnt.column])
    against = "samples seen" if column == "samples" else clock_in_words(unit, simulated) + " of training"
    medians = {str(line): _median(rows) for line, rows in panel.groupby("line", sort=False)}
    ends = {line: (float(x[-1]), float(y[-1])) for line, (x, y) in medians.items() if len(x)}
    first = panel.groupby(["line", "seed"], sort=False)["y"].first().max()
    top = SPIKE * first if learnt.loss and panel["y"].max() > SPIKE * first else None

    def draw(axes: Axes, palette: Palette) -> None:
        _seeds(axes, panel, palette, simulated, learnt)
        _medians(axes, panel, medians, palette, simulated)
        if target is not None:
            axes.axhline(target, color=INK, linestyle=":", linewidth=1)
        axes.set(xlabel=against, ylabel=learnt.name)
        from_zero_or_log(axes, (x for x, _ in ends.values()))
        if learnt.loss:
            axes.set_yscale("log")
            if top is not None:
                axes.set_ylim(0.8 * panel["y"].min(), top)
            plain_numbers(axes.yaxis)
        known = (line for line in lines_of(panel, "line") if line.label in ends)
        label_ends(axes, [end_of(line, ends[line.label], palette) for line in known])
        legend_below(axes, ncols=2)

    # A simulated clock says already what it is.
    kind = "" if simulated and column != "samples" else f"{kind_in_words(simulated)}, "
    return Panel(
        title=f"{learnt.name.capitalize()} against {against}, {kind}{panel['panel'].iloc[0]}",
        height_inch=2.5,
        draw=draw,
        caption=_best_in_words(panel, learnt, against, target) + _about(panel, every, top, learnt),
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
            # The answer reads between evaluations, and so names an earlier moment: this one is what the lines show.
            found = f"{first.index[0]}, evaluated at {three(first.iloc[0])} {against}"
            text += f" The first to reach {target:g} (dotted) is {found} (median of its seeds)."
        else:
            text += f" No line reaches {target:g} (dotted)."
    each = panel.groupby("line")["seed"].nunique()
    most = f"up to {each.max()}" if each.min() < each.max() else f"the {each.max()}"
    about = f"Thin lines are {most} seeds, thick lines their median." if each.max() > 1 else "One seed each."
    return f"{text} {about}"


def _about(panel: pd.DataFrame, every: int, top: float | None, learnt: Learnt) -> str:
    """Say what is not seen in a figure, and what the numbers in it are."""
    drawn = panel["line"].nunique()
    text = f" {drawn} of {every} lines are drawn." if drawn < every else ""
    text += f" Values of the {learnt.name} above {three(top)} run off the top." if top is not None else ""
    return text + COUNTS_AT_ENDS * counts_differ(panel["gpus"])


def _drawn(panel: pd.DataFrame) -> pd.DataFrame:
    """Return the lines that are drawn: all, or as many of each strategy, its numbers of devices evenly thinned."""
    lines = panel.drop_duplicates("line").sort_values("gpus", kind="stable")
    if len(lines) <= MOST_CURVES:
        return panel
    most = max(2, MOST_CURVES // lines["strategy"].nunique())
    kept = [
        group["line"].iloc[np.unique(np.linspace(0, len(group) - 1, min(most, len(group))).round().astype(int))]
        for _, group in lines.groupby("strategy", sort=False)
    ]
    return panel[panel["line"].isin(pd.concat(kept))]


def _table(panel: pd.DataFrame, against: str, learnt: Learnt) -> pd.DataFrame:
    seeds = panel.groupby(["line", "seed"], sort=False)
    most = max(MOST_IN_CSV // 5, min(MOST_IN_CSV, ROWS_IN_CSV // seeds.ngroups))
    kept = [seed.iloc[_thinned(len(seed), most)] for _, seed in seeds]
    table = pd.concat(kept)[["line", "seed", "x", "y"]]
    return table.rename(columns={"x": against, "y": learnt.name})


def _seeds(axes: Axes, panel: pd.DataFrame, palette: Palette, simulated: bool, learnt: Learnt) -> None:
    for (line, _), seed in panel.groupby(["line", "seed"], sort=False):
        first, shown = seed.iloc[0], seed.iloc[_thinned(len(seed))]
        colour = palette.shade(first["strategy"], int(first["gpus"]))
        how: dict[str, Any] = {"color": colour, "linestyle": "--" if simulated else "-", "linewidth": 0.7, "alpha": 0.4}
        (drawn,) = axes.plot(shown["x"], shown["y"], **how)
        mark(drawn, str(line), f"{first['cell']}: ends at {learnt.name} {seed['y'].iloc[-1]:.3g}")


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
        how = look(palette.shade(line.strategy, line.gpus), simulated)
        how |= {"marker": line.marker, "markersize": 4.5, "linewidth": 1.8}
        (drawn,) = axes.plot(x, y, label=line.label, markevery=(number % every, every), **how)
        seeds = line.rows["seed"].nunique()
        mark(drawn, line.label, f"{line.label}, {panel['panel'].iloc[0]}" + f", median of {seeds} seeds" * (seeds > 1))
