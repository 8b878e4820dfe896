"""How steps spread: the median, what 95 % of them stay below, the longest, and outliers that stay in."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.core.words import duration, share_in_percent, three, time_unit
from harness.report.marks import mark, name_cells
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    MOST_BARS,
    Panel,
    clock_in_words,
    first_of,
    from_zero_or_log,
    kind_in_words,
    legend_below,
    measured_and_simulated,
    rows_of,
    sample,
)

SPREAD = 1e-3
"""Share of the median by which the longest step of some point must exceed it to be drawn: simulated steps may all be
equal; chosen."""

SLOW = 1.05
"""Multiple of the others' computing from which on a device is named as the slowest; chosen: below it is noise."""


@measured_and_simulated
def tail_panels(tails: pd.DataFrame, simulated: bool) -> Panel | None:
    """Draw how the steps of one run of each point spread.

    Args:
        tails: of `harness.analysis.scaling.tails_frame`, with columns simulated and label; one row for each label.
    """
    if not (tails["longest_s"] > (1 + SPREAD) * tails["median_s"]).any():
        return None
    rows = tails.head(MOST_BARS)
    places = rows_of(f"{row.label}: 95 % below {duration(row.p95_s)}" for row in rows.itertuples())
    size, unit = time_unit(float(rows["p95_s"].max()))

    def draw(axes: Axes, palette: Palette) -> None:
        for place, (_, row) in zip(places.places, rows.iterrows(), strict=True):
            _row(axes, place, row, palette[row["strategy"]], size, simulated)
        places.name(axes)
        axes.set(xlabel=f"{clock_in_words(unit, simulated)} from one step to the next")
        from_zero_or_log(axes, [*rows["longest_s"], *rows["median_s"]])
        shapes = (("|", 10, MEDIAN), ("D", 5, LATE), ("x", 6, LONGEST))
        handles = [sample(axes, name, marker=m, markersize=size, linestyle="none") for m, size, name in shapes]
        legend_below(axes, handles, 3, fontsize=8.5)

    return Panel(
        title=f"How step times spread, {kind_in_words(simulated)}",
        height_inch=0.75 + places.height_inch,
        draw=draw,
        caption=_caption(rows) + first_of(len(rows), len(tails)),
        details=" ".join(f"{row.label}: {_in_words(row)}{_slowest(row)}" for row in rows.itertuples()),
        table=rows.drop(columns=["simulated"]),
    )


MEDIAN, LATE, LONGEST = "median", "95 % stay below", "longest"


def _row(axes: Axes, place: float, row: pd.Series, colour: str, size: float, simulated: bool) -> None:
    middle, late, longest = (row[key] / size for key in ("median_s", "p95_s", "longest_s"))
    lines = "--" if simulated else "-"
    (far,) = axes.plot([middle, longest], [place, place], color=colour, linewidth=1, linestyle=lines)
    (near,) = axes.plot([middle, late], [place, place], color=colour, linewidth=4, alpha=0.5, solid_capstyle="butt")
    dots: dict[str, Any] = {"linestyle": "none", "color": colour}
    (first,) = axes.plot([middle], [place], marker="|", markersize=12, zorder=3, **dots | {"color": INK})
    (second,) = axes.plot(
        [late], [place], marker="D", markersize=5, **dots, markerfacecolor="none" if simulated else colour
    )
    (third,) = axes.plot([longest], [place], marker="x", markersize=5.5, **dots)
    said = f"{name_cells(row['label'], row.to_frame().T)}: {_in_words(row)}"
    for artist, series in ((first, MEDIAN), (near, LATE), (second, LATE), (far, LONGEST), (third, LONGEST)):
        mark(artist, series, said)


def _caption(rows: pd.DataFrame) -> str:
    worst = rows.loc[(rows["p95_s"] / rows["median_s"]).idxmax()]
    text = f"{worst.label} has the longest tail: {_in_words(worst)}"
    text += " Every other figure includes the outliers."
    slowest = rows.dropna(subset=["slowest_times"]).sort_values("slowest_times", ascending=False)
    return text + (_slowest(slowest.iloc[0]) if len(slowest) else "")


def _in_words(row: Any) -> str:
    text = f"95 % of {row.steps:,} steps take at most {duration(row.p95_s)} "
    text += f"({three(row.p95_s / row.median_s)} times the median), the longest {duration(row.longest_s)}."
    if row.outliers:
        text += f" {row.outliers:,} outliers took {share_in_percent(row.outlier_share)} of the time."
    return text


def _slowest(row: Any) -> str:
    """Name the device that computes longest, where that is more than noise."""
    if pd.isna(row.slowest_times) or row.slowest_times < SLOW:
        return ""
    several = row.workers and row.workers > 1
    who = f"worker {int(row.slowest_worker)}" if several else f"device {int(row.slowest_device)}"
    return f" In {row.label}, {who} is the slowest: it computes {three(row.slowest_times)} times as long as the others."
