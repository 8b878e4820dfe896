"""Throughput and counted DRAM as bars: measured filled, simulated hollow, in figures of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn
from matplotlib.patches import Patch

from harness.analysis.predicted import INSIDE
from harness.report.svg import (
    INK,
    Drawing,
    byte_unit,
    drawing,
    kind_in_words,
    name_rows,
    new_figure,
    shorten,
    style,
)

MOST_BARS = 24

NEAR = 25.0
"""Multiple of the fullest device up to which its capacity stands on the axis; chosen: beyond, bars would be specks."""


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
    bars, labels, more = _shown(bars)
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
    return f"; broken lines: good to \N{PLUS-MINUS SIGN}{100 * INSIDE * stated.max():.2g} % at worst"


def dram_drawings(bars: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw counted DRAM on the device that holds most: by kind where the kinds are known, else in all.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS, and a column dram.KIND for each kind.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    kinds = [column for column in bars.columns if column.startswith("dram.")] or ["dram_total"]
    known = bars.dropna(subset=kinds, how="all")
    return [
        _dram(group, kinds, palette, bool(simulated), f"{prefix}dram{int(simulated)}")
        for simulated, group in known.groupby("simulated")
    ]


def _dram(
    bars: pd.DataFrame, kinds: Sequence[str], palette: Mapping[str, str], simulated: bool, prefix: str
) -> Drawing:
    bars, labels, more = _shown(bars)
    groups = bars.groupby("label")
    rows = groups[list(kinds)].max().fillna(0).loc[labels]
    totals, capacity = rows.sum(axis=1), _capacity(bars)
    size, unit = byte_unit(float(totals.max()))
    title = f"Counted DRAM{' of simulated devices' if simulated else ', measured'}"
    strategy = groups["strategy"].first()
    with style():
        figure, axes = new_figure(0.95 + 0.46 * len(labels) + 0.2 * (len(kinds) > 1) * -(-len(kinds) // 3))
        _stack(axes, rows / size, [palette[strategy[label]] for label in labels], simulated)
        words = [f"{shorten(label)}: {totals[label] / size:.3g} {unit}" for label in labels]
        name_rows(axes, words)
        axes.set(xlabel=f"{unit} per device", ylabel="")
        axes.grid(visible=False)  # it would show through the lighter shades
        if capacity and capacity <= NEAR * totals.max():
            axes.axvline(capacity / size, color=INK, linestyle=":", linewidth=1.2)
        if len(kinds) > 1:
            handles = [Patch(color=INK, alpha=_shade(n, len(kinds)), label=k[5:]) for n, k in enumerate(kinds)]
            figure.legend(handles=handles, loc="outside lower center", ncols=3)
        caption = f"{_fullest(rows, totals, capacity)}{more}."
        table = rows.assign(capacity=capacity).reset_index()
        return drawing(figure, title, caption, f"{'; '.join(words)}.", table, prefix)


def _capacity(bars: pd.DataFrame) -> float | None:
    """Return the usable bytes of a device where all have the same."""
    known = bars["dram_capacity"].dropna().unique()
    return float(known[0]) if len(known) == 1 else None


def _fullest(rows: pd.DataFrame, totals: pd.Series, capacity: float | None) -> str:
    most, least = totals.idxmax(), totals.idxmin()
    size, unit = byte_unit(float(totals[most]))
    kind = str(rows.loc[most].idxmax()).removeprefix("dram.")
    text = f"{most} holds {totals[most] / size:.3g} {unit} on its fullest device"
    text += f", most of it {kind}" if len(rows.columns) > 1 else ""
    if capacity is not None:
        line = " (dotted line)" if capacity <= NEAR * totals[most] else ""
        whole, name = byte_unit(capacity)
        text += f": {100 * totals[most] / capacity:.2g} % of the {capacity / whole:.3g} {name} that there are{line}"
    if totals[least] < 0.995 * totals[most]:
        text += f"; {least} the least, {totals[least] / size:.3g} {unit}"
    return text


def _stack(axes: Any, rows: pd.DataFrame, bar_colours: Sequence[str], simulated: bool) -> None:
    left = np.zeros(len(rows))
    places = np.arange(len(rows))
    look = {"hatch": "///" if simulated else None, "linestyle": "--" if simulated else "-"}
    for number, kind in enumerate(rows.columns):
        shade = _shade(number, len(rows.columns)) * (0.7 if simulated else 1)
        axes.barh(places, rows[kind], 0.45, left, color=bar_colours, alpha=shade, linewidth=0, **look)
        left = left + rows[kind].to_numpy()


def _shade(number: int, count: int) -> float:
    """Kinds are shades of the strategy's colour, the first the darkest."""
    return 1 - 0.8 * number / max(1, count - 1) if count > 1 else 1.0


def _shown(bars: pd.DataFrame) -> tuple[pd.DataFrame, list[str], str]:
    """Return the bars that are drawn, their labels in order, and words on those that are not."""
    labels = list(dict.fromkeys(bars["label"]))
    more = f"; the first {MOST_BARS} of {len(labels)} points are drawn" if len(labels) > MOST_BARS else ""
    labels = labels[:MOST_BARS]
    return bars[bars["label"].isin(labels)], labels, more


def _hollow(axes: Any) -> None:
    for patch in axes.patches:
        colour = patch.get_facecolor()
        patch.set(facecolor="none", edgecolor=colour, hatch="///", linewidth=1.2, linestyle="--")
