"""Memory of a device as bars: counted by kind, as CUDA's allocator holds it, as NVML sees it; never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.patches import Patch

from harness.core.words import byte_unit, share_in_percent
from harness.report.draw_bars import shown_bars
from harness.report.svg import INK, Drawing, drawing, kind_in_words, name_rows, new_figure, shorten, style

NEAR = 25.0
"""Multiple of the fullest device up to which its capacity stands on the axis; chosen: beyond, bars would be specks."""

ALLOCATOR = {"allocated": "allocated: tensors", "reserved": "reserved: what it keeps from the device"}
NVML = {"nvml_used": "in use"}


def memory_drawings(bars: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw counted tensors, then what the allocator held, then what NVML saw, where they are known.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS, and a column dram.KIND for each kind.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    drawn = dram_drawings(bars, palette, prefix)
    for columns, title in ((ALLOCATOR, "DRAM as CUDA's allocator holds it"), (NVML, "DRAM as NVML sees it")):
        known = bars.dropna(subset=list(columns))
        drawn += [
            _peaks(group, columns, title, palette, bool(simulated), f"{prefix}{next(iter(columns))}{int(simulated)}")
            for simulated, group in known.groupby("simulated")
        ]
    return drawn


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
        _dram(group, _there(group, kinds), palette, bool(simulated), f"{prefix}dram{int(simulated)}")
        for simulated, group in known.groupby("simulated")
    ]


def _there(bars: pd.DataFrame, kinds: Sequence[str]) -> list[str]:
    """Return the kinds that any of the bars has."""
    return [kind for kind in kinds if bars[kind].notna().any()]


def _dram(
    bars: pd.DataFrame, kinds: Sequence[str], palette: Mapping[str, str], simulated: bool, prefix: str
) -> Drawing:
    bars, labels, more = shown_bars(bars)
    groups = bars.groupby("label")
    rows = groups[list(kinds)].max().fillna(0).loc[labels]
    totals, capacity = rows.sum(axis=1), _capacity(bars)
    size, unit = byte_unit(float(totals.max()))
    context = " and context" if "dram.context" in kinds else ""
    title = f"Counted DRAM{context}{' of simulated devices' if simulated else ', measured'}"
    strategy = groups["strategy"].first()
    with style():
        figure, axes = new_figure(0.95 + 0.46 * len(labels) + 0.2 * (len(kinds) > 1) * -(-len(kinds) // 3))
        _stack(axes, rows / size, [palette[strategy[label]] for label in labels], simulated)
        words = [f"{shorten(label)}: {totals[label] / size:.3g} {unit}" for label in labels]
        name_rows(axes, words)
        axes.set(xlabel=f"{unit} per device", ylabel="")
        axes.grid(visible=False)  # it would show through the lighter shades
        handles: list[Any] = _limit(axes, capacity, float(totals.max()), size)
        if len(kinds) > 1:
            patches = (Patch(color=INK, alpha=_shade(n, len(kinds)), label=k[5:]) for n, k in enumerate(kinds))
            figure.legend(handles=[*patches, *handles], loc="outside lower center", ncols=3)
        caption = f"{_fullest(rows, totals, capacity)}{more}."
        table = rows.assign(capacity=capacity).reset_index()
        return drawing(figure, title, caption, f"{'; '.join(words)}.", table, prefix)


def _limit(axes: Any, capacity: float | None, most: float, size: float) -> list[Any]:
    """Draw what a device has, where that is near; return its entry of the legend."""
    if not capacity or capacity > NEAR * most:
        return []
    return [axes.axvline(capacity / size, color=INK, linestyle=":", linewidth=1.2, label="what a device has")]


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
        text += (
            f": {share_in_percent(totals[most] / capacity)} of the {capacity / whole:.3g} {name} that there are{line}"
        )
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


# -- allocator and NVML ------------------------------------------------------------------------------------------------


def _peaks(
    bars: pd.DataFrame,
    columns: Mapping[str, str],
    title: str,
    palette: Mapping[str, str],
    simulated: bool,
    prefix: str,
) -> Drawing:
    """Draw peaks over each other from the same zero, the largest palest: each holds the one before."""
    bars, labels, more = shown_bars(bars)
    groups = bars.groupby("label")
    rows, strategy = groups[list(columns)].max().loc[labels], groups["strategy"].first()
    most = rows[list(columns)[-1]]
    capacity = _capacity(bars)
    size, unit = byte_unit(float(most.max()))
    title = f"{title}, {kind_in_words(simulated)}"
    with style():
        figure, axes = new_figure(0.95 + 0.46 * len(labels) + 0.2 * len(columns))
        look = {"linestyle": "--" if simulated else "-", "hatch": "///" if simulated else None, "linewidth": 0}
        for number, column in reversed(list(enumerate(columns))):
            paint = [palette[strategy[label]] for label in labels]
            axes.barh(
                np.arange(len(labels)),
                rows[column] / size,
                0.45,
                color=paint,
                alpha=_shade(number, len(columns)),
                **look,
            )
        name_rows(axes, [f"{shorten(label)}: {most[label] / size:.3g} {unit}" for label in labels])
        axes.set(xlabel=f"{unit} on the fullest device, at the peak", ylabel="", xlim=(0, None))
        handles: list[Any] = _limit(axes, capacity, float(most.max()), size)
        if len(columns) > 1:
            shades = (Patch(color=INK, alpha=_shade(n, len(columns)), label=w) for n, w in enumerate(columns.values()))
            figure.legend(handles=[*shades, *handles], loc="outside lower center", ncols=1)
        words = " ".join(_peak_in_words(label, rows.loc[label], columns, size, unit) for label in labels)
        caption = f"{_peak_in_words(most.idxmax(), rows.loc[most.idxmax()], columns, size, unit)}"
        caption += f" {_of_capacity(float(most.max()), capacity)}" if capacity else ""
        caption += f" {more.removeprefix('; ').capitalize()}." if more else ""
        return drawing(figure, title, caption, words, rows.reset_index(), prefix)


def _peak_in_words(label: Any, row: pd.Series, columns: Mapping[str, str], size: float, unit: str) -> str:
    parts = (f"{row[column] / size:.3g} {unit} {words.split(':')[0]}" for column, words in columns.items())
    return f"{label}: {', '.join(parts)}."


def _of_capacity(most: float, capacity: float | None) -> str:
    if capacity is None:
        return ""
    whole, name = byte_unit(capacity)
    line = " (dotted line)" if capacity <= NEAR * most else ""
    return f"That is {share_in_percent(most / capacity)} of the {capacity / whole:.3g} {name} that there are{line}."
