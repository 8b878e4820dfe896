"""How steps spread: the median, what 95 % of them stay below, the longest, and outliers that stay in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.core.words import duration, share_in_percent, three, time_unit
from harness.report.svg import (
    INK,
    Drawing,
    clock_in_words,
    drawing,
    first_of,
    kind_in_words,
    name_rows,
    new_figure,
    plain_numbers,
    shorten,
    style,
)

MOST_ROWS = 24

WIDE = 10.0
"""Multiple of the least median above which the longest steps take a logarithmic axis: else all else is a speck;
chosen."""

SPREAD = 1e-3
"""Share of the median by which the longest step of some point must exceed it to be drawn: simulated steps may all be
equal; chosen."""

SLOW = 1.05
"""Multiple of the others' computing from which on a device is named as the slowest; chosen: below it is noise."""


def tail_drawings(tails: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw how the steps of one run of each point spread.

    Args:
        tails: of `harness.analysis.scaling.tails_frame`, with columns simulated and label; one row for each label.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    return [
        _tails(group.reset_index(drop=True), palette, f"{prefix}tails{int(simulated)}")
        for simulated, group in tails.groupby("simulated")
        if (group["longest_s"] > (1 + SPREAD) * group["median_s"]).any()
    ]


def _tails(found: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> Drawing:
    rows = found.head(MOST_ROWS)
    simulated = bool(rows["simulated"].iloc[0])
    size, unit = time_unit(float(rows["p95_s"].max()))
    title = f"How step times spread, {kind_in_words(simulated)}"
    with style():
        figure, axes = new_figure(1.15 + 0.42 * len(rows))
        for place, row in rows.iterrows():
            _row(axes, place, row, palette[row["strategy"]], size, simulated)
        name_rows(axes, [f"{shorten(row.label)}: 95 % below {duration(row.p95_s)}" for row in rows.itertuples()])
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} from one step to the next")
        if rows["longest_s"].max() > WIDE * rows["median_s"].min():
            axes.set_xscale("log")
            plain_numbers(axes.xaxis)
        else:
            axes.set_xlim(0, None)
        _legend(figure, axes)
        details = " ".join(f"{_in_words(row)}{_slowest(row)}" for row in rows.itertuples())
        return drawing(figure, title, _caption(rows, len(found)), details, rows.drop(columns=["simulated"]), prefix)


def _row(axes: Any, place: Any, row: pd.Series, colour: str, size: float, simulated: bool) -> None:
    middle, late, longest = (row[key] / size for key in ("median_s", "p95_s", "longest_s"))
    axes.plot([middle, longest], [place, place], color=colour, linewidth=1, linestyle="--" if simulated else "-")
    axes.plot([middle, late], [place, place], color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
    axes.scatter([middle], [place], s=150, marker="|", color=INK, zorder=3)
    axes.scatter([late], [place], s=26, marker="D", facecolor="none" if simulated else colour, edgecolor=colour)
    axes.scatter([longest], [place], s=30, marker="x", color=colour)


def _legend(figure: Any, axes: Any) -> None:
    shapes = (("|", 10, "median"), ("D", 5, "95 % stay below"), ("x", 6, "longest"))
    look = {"linestyle": "none", "color": INK}
    handles = [
        axes.plot([], [], marker=marker, markersize=size, label=name, **look)[0] for marker, size, name in shapes
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=8.5)


def _caption(rows: pd.DataFrame, found: int) -> str:
    worst = rows.loc[(rows["p95_s"] / rows["median_s"]).idxmax()]
    text = f"Longest tail: {_in_words(worst)}"
    text += " Outliers are far beyond the quartiles; they stay in every other figure."
    slowest = rows.dropna(subset=["slowest_times"]).sort_values("slowest_times", ascending=False)
    text += _slowest(slowest.iloc[0]) if len(slowest) else ""
    return text + first_of(len(rows), found)


def _in_words(row: Any) -> str:
    text = f"of {row.label} 95 % of {row.steps:,} steps take at most {duration(row.p95_s)}, "
    text += f"{three(row.p95_s / row.median_s)} times the median, the longest {duration(row.longest_s)}"
    if row.outliers:
        text += f"; {row.outliers:,} outliers took {share_in_percent(row.outlier_share)} of the time"
    return f"{text}."


def _slowest(row: Any) -> str:
    """Name the device that computes longest, where that is more than noise."""
    if pd.isna(row.slowest_times) or row.slowest_times < SLOW:
        return ""
    several = row.workers and row.workers > 1
    who = f"worker {int(row.slowest_worker)}" if several else f"device {int(row.slowest_device)}"
    return f" Slowest of {row.label}: {who} computes {three(row.slowest_times)} times as long as the others."
