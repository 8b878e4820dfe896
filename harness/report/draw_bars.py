"""Throughput as bars: measured filled, simulated hollow, in figures of their own."""

from __future__ import annotations

import pandas as pd
import seaborn
from matplotlib.axes import Axes

from harness.core.uncertainty import STATED
from harness.core.words import share_in_percent
from harness.report.svg import (
    INK,
    MOST_BARS,
    Palette,
    Panel,
    first_of,
    kind_in_words,
    measured_and_simulated,
    name_rows,
    ranked,
    shorten,
)


@measured_and_simulated
def throughput_panels(bars: pd.DataFrame, simulated: bool) -> Panel | None:
    """Draw the throughput of each point: median over its cells as a bar, smallest to largest as a whisker.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS.
    """
    bars = bars.dropna(subset=["throughput"])
    if bars.empty:
        return None
    bars, labels, more = shown_bars(bars)
    clock = "simulated second" if simulated else "second"
    groups = bars.groupby("label")
    medians, counts, stated = groups["throughput"].median(), groups["throughput"].count(), groups["stated"].max()
    words = [f"{shorten(label)}: {medians[label]:,.0f}" for label in labels]
    compared = medians[list(ranked(bars)["label"].unique())]

    def draw(axes: Axes, palette: Palette) -> None:
        seaborn.barplot(
            bars, x="throughput", y="label", hue="strategy", palette=dict(palette), order=labels, ax=axes,
            estimator="median", errorbar=("pi", 100), width=0.45, saturation=1, legend=False, dodge=False,
            err_kws={"color": INK, "linewidth": 1},
        )  # fmt: skip
        if simulated:
            _hollow(axes)
            _bands(axes, medians[labels], stated[labels])
        name_rows(axes, words)
        axes.set(xlabel=f"samples per {clock}", ylabel="")

    return Panel(
        title=f"Throughput, {kind_in_words(simulated)}",
        height_inch=0.75 + 0.46 * len(labels),
        draw=draw,
        caption=f"{_fastest(compared, clock)}{_spread(counts)}{_stated(stated)}{more}",
        details=f"{'; '.join(words)}.",
        table=groups["throughput"].agg(["median", "min", "max", "count"]).loc[labels].reset_index(),
    )


def _fastest(medians: pd.Series, clock: str) -> str:
    best, worst = medians.idxmax(), medians.idxmin()
    if best == worst:
        return f"{best} trains {medians[best]:,.0f} samples per {clock}."
    ahead = f"{medians[best] / medians[worst]:.3g} times as many as {worst} ({medians[worst]:,.0f})"
    return f"{best} is fastest: {medians[best]:,.0f} samples per {clock}, {ahead}."


def _spread(counts: pd.Series) -> str:
    if counts.max() == 1:
        return ""
    cells = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"
    return f" Bars are medians of {cells} cells; solid lines span minimum to maximum."


def _bands(axes: Axes, medians: pd.Series, stated: pd.Series) -> None:
    """Draw how far off each prediction says it may be: two standard deviations to either side."""
    for place, label in enumerate(medians.index):
        if not pd.isna(stated[label]):
            ends = [medians[label] * (1 - STATED * stated[label]), medians[label] * (1 + STATED * stated[label])]
            axes.plot(ends, [place, place], "--|", color=INK, linewidth=1, markersize=9)


def _stated(stated: pd.Series) -> str:
    if stated.isna().all():
        return ""
    return f" Dashed lines show the stated error, at most \N{PLUS-MINUS SIGN}{share_in_percent(STATED * stated.max())}."


def shown_bars(bars: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
    """Return the bars that are drawn, their labels in order, and a sentence on those that are not."""
    labels = list(dict.fromkeys(bars["label"]))
    drawn = labels[:MOST_BARS]
    return bars[bars["label"].isin(drawn)], drawn, first_of(len(drawn), len(labels))


def _hollow(axes: Axes) -> None:
    for patch in axes.patches:
        colour = patch.get_facecolor()
        patch.set(facecolor="none", edgecolor=colour, hatch="///", linewidth=1.2, linestyle="--")
