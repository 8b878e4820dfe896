"""Throughput as bars: measured filled, simulated hollow, in figures of their own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
import seaborn

from harness.analysis.predicted import INSIDE
from harness.core.words import share_in_percent
from harness.report.svg import (
    INK,
    Drawing,
    drawing,
    kind_in_words,
    name_rows,
    new_figure,
    ranked,
    shorten,
    style,
)

MOST_BARS = 24


def throughput_drawings(bars: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw the throughput of each point: median over its cells as a bar, smallest to largest as a whisker.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    known = bars.dropna(subset=["throughput"])
    return [
        _throughput(group, palette, bool(simulated), f"{prefix}throughput{int(simulated)}")
        for simulated, group in known.groupby("simulated")
    ]


def _throughput(bars: pd.DataFrame, palette: Mapping[str, str], simulated: bool, prefix: str) -> Drawing:
    bars, labels, more = shown_bars(bars)
    clock = "simulated second" if simulated else "second"
    title = f"Throughput, {kind_in_words(simulated)}"
    groups = bars.groupby("label")
    medians, counts, stated = groups["throughput"].median(), groups["throughput"].count(), groups["stated"].max()
    table = groups["throughput"].agg(["median", "min", "max", "count"]).loc[labels].reset_index()
    with style():
        figure, axes = new_figure(0.75 + 0.46 * len(labels))
        seaborn.barplot(
            bars, x="throughput", y="label", hue="strategy", palette=dict(palette), order=labels, ax=axes,
            estimator="median", errorbar=("pi", 100), width=0.45, saturation=1, legend=False, dodge=False,
            err_kws={"color": INK, "linewidth": 1},
        )  # fmt: skip
        if simulated:
            _hollow(axes)
            _bands(axes, medians[labels], stated[labels])
        words = [f"{shorten(label)}: {medians[label]:,.0f}" for label in labels]
        name_rows(axes, words)
        axes.set(xlabel=f"samples per {clock}", ylabel="")
        caption = f"{_fastest(medians, clock)}{_spread(counts)}{_stated(stated)}{more}."
        return drawing(figure, title, caption, f"{'; '.join(words)}.", table, prefix)


def _fastest(medians: pd.Series, clock: str) -> str:
    medians = medians[ranked(medians.index)]
    best, worst = medians.idxmax(), medians.idxmin()
    text = f"{best} trains {medians[best]:,.0f} samples a {clock}"
    if best == worst:
        return text
    return f"{text}, {medians[best] / medians[worst]:.3g} times as many as {worst} ({medians[worst]:,.0f})"


def _spread(counts: pd.Series) -> str:
    if counts.max() == 1:
        return ""
    cells = f"{counts.min()} to {counts.max()}" if counts.min() < counts.max() else f"{counts.max()}"
    return f"; bars are medians of {cells} cells, lines reach from the least to the most"


def _bands(axes: Any, medians: pd.Series, stated: pd.Series) -> None:
    """Draw how far off each prediction says it may be: two standard deviations to either side."""
    for place, label in enumerate(medians.index):
        if not pd.isna(stated[label]):
            ends = [medians[label] * (1 - INSIDE * stated[label]), medians[label] * (1 + INSIDE * stated[label])]
            axes.plot(ends, [place, place], "--|", color=INK, linewidth=1, markersize=9)


def _stated(stated: pd.Series) -> str:
    if stated.isna().all():
        return ""
    return f"; broken lines: good to \N{PLUS-MINUS SIGN}{share_in_percent(INSIDE * stated.max())} at worst"


def shown_bars(bars: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
    """Return the bars that are drawn, their labels in order, and words on those that are not."""
    labels = list(dict.fromkeys(bars["label"]))
    more = f"; the first {MOST_BARS} of {len(labels)} points are drawn" if len(labels) > MOST_BARS else ""
    labels = labels[:MOST_BARS]
    return bars[bars["label"].isin(labels)], labels, more


def _hollow(axes: Any) -> None:
    for patch in axes.patches:
        colour = patch.get_facecolor()
        patch.set(facecolor="none", edgecolor=colour, hatch="///", linewidth=1.2, linestyle="--")
