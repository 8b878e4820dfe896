"""Memory of a device as bars: counted by kind, as CUDA's allocator holds it, as NVML sees it; never mixed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch

from harness.core.words import byte_unit, share_in_percent
from harness.report.draw_bars import shown_bars
from harness.report.marks import mark, name_cells
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    Panel,
    kind_in_words,
    legend_below,
    measured_and_simulated,
    rows_of,
)

NEAR = 25.0
"""Multiple of the fullest device up to which its capacity stands on the axis; chosen: beyond, bars would be specks."""

AT_ITS_MOST = " Bars show each kind at its own most; lines mark the most that all take at once."

KIND_COLUMN = "dram."
"""Starts the columns of counted bytes by kind."""


@dataclass(frozen=True)
class Peaks:
    """Figures of one source, each of which holds the one before.

    Attributes:
        columns: of the frame of bars, with a word for each and what it means.
    """

    title: str
    columns: Mapping[str, tuple[str, str]]


ALLOCATOR = Peaks(
    "DRAM as CUDA's allocator holds it",
    {"allocated": ("allocated", ": tensors"), "reserved": ("reserved", ": taken from the device")},
)
NVML = Peaks("DRAM as NVML sees it", {"nvml_used": ("in use", "")})


def memory_panels(bars: pd.DataFrame) -> list[Panel]:
    """Draw counted tensors, then what the allocator held, then what NVML saw, where they are known.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS, and a column dram.KIND for each kind.
    """
    return [*dram_panels(bars), *_peak_panels(bars, ALLOCATOR), *_peak_panels(bars, NVML)]


@measured_and_simulated
def dram_panels(bars: pd.DataFrame, simulated: bool) -> Panel | None:
    """Draw counted DRAM on the device that holds most: by kind where the kinds are known, else in all.

    Each kind is as long as its own most. Where kinds are there at different times, a line marks the peak of all.

    Args:
        bars: columns as in harness.report.frames.BAR_COLUMNS, and a column dram.KIND for each kind.
    """
    kinds = [column for column in bars.columns if column.startswith(KIND_COLUMN)] or ["dram_total"]
    bars = bars.dropna(subset=kinds, how="all")
    kinds = [kind for kind in kinds if bars[kind].notna().any()]
    if bars.empty:
        return None
    bars, labels, more = shown_bars(bars)
    rows = bars.groupby("label")[kinds].max().fillna(0).loc[labels]
    totals, capacity = _peaks(bars, rows), _capacity(bars)
    beyond = bool((rows.sum(axis=1) > totals * 1.005).any())
    size, unit = byte_unit(float(totals.max()))
    words = [f"{label}: {totals[label] / size:.3g} {unit}" for label in labels]
    places = rows_of(words)

    def draw(axes: Axes, palette: Palette) -> None:
        left = np.zeros(len(rows))
        for number, kind in enumerate(kinds):
            shade = _shade(number, len(kinds)) * (0.7 if simulated else 1)
            part = _Part(kind.removeprefix(KIND_COLUMN), unit, rows[kind] / size)
            _bars(axes, bars, part, places.places, left, palette, shade, simulated)
            left = left + part.lengths.to_numpy()
        if beyond:
            axes.vlines(totals / size, np.array(places.places) - 0.3, np.array(places.places) + 0.3, INK, linewidth=1.2)
        places.name(axes)
        axes.set(xlabel=f"{unit} per device", ylabel="")
        axes.grid(visible=False)  # it would show through the lighter shades
        names = [kind.removeprefix(KIND_COLUMN) for kind in kinds] if len(kinds) > 1 else []
        _shades_and_limit(axes, names, capacity, float(totals.max()), size, ncols=3)

    context = " and context" if "dram.context" in kinds else ""
    return Panel(
        title=f"Counted DRAM{context}{' of simulated devices' if simulated else ', measured'}",
        height_inch=0.75 + places.height_inch,
        draw=draw,
        caption=f"{_fullest(rows, totals, capacity)}.{AT_ITS_MOST if beyond else ''}{more}",
        details=f"{'; '.join(words)}.",
        table=rows.assign(peak=totals, capacity=capacity).reset_index(),
    )


def _peaks(bars: pd.DataFrame, rows: pd.DataFrame) -> pd.Series:
    """Return by label the most that all kinds take at once; where that is not known, what they add up to."""
    known = bars.groupby("label")["dram_total"].max().reindex(rows.index)
    context = rows.get("dram.context", 0.0)
    return (known + context).fillna(rows.sum(axis=1))


@measured_and_simulated
def _peak_panels(bars: pd.DataFrame, simulated: bool, peaks: Peaks) -> Panel | None:
    """Draw peaks over each other from the same zero, the largest palest: each holds the one before."""
    columns = list(peaks.columns)
    bars = bars.dropna(subset=columns)
    if bars.empty:
        return None
    bars, labels, more = shown_bars(bars)
    rows = bars.groupby("label")[columns].max().loc[labels]
    most, capacity = rows[columns[-1]], _capacity(bars)
    fullest = float(most.max())
    size, unit = byte_unit(fullest)
    places = rows_of(f"{label}: {most[label] / size:.3g} {unit}" for label in labels)

    def in_words(label: object) -> str:
        parts = (f"{rows.loc[label, column] / size:.3g} {unit} {word}" for column, (word, _) in peaks.columns.items())
        return f"{label}: {', '.join(parts)}."

    def draw(axes: Axes, palette: Palette) -> None:
        for number, column in reversed(list(enumerate(columns))):
            part = _Part("".join(peaks.columns[column]), unit, rows[column] / size)
            left = np.zeros(len(rows))
            _bars(axes, bars, part, places.places, left, palette, _shade(number, len(columns)), simulated)
        places.name(axes)
        axes.set(xlabel=f"{unit} on the fullest device, at the peak", ylabel="", xlim=(0, None))
        names = [word + meaning for word, meaning in peaks.columns.values()] if len(columns) > 1 else []
        _shades_and_limit(axes, names, capacity, fullest, size, ncols=1)

    caption = in_words(most.idxmax())
    caption += f" That is {_of_capacity(fullest, capacity)}." if capacity else ""
    return Panel(
        title=f"{peaks.title}, {kind_in_words(simulated)}",
        height_inch=0.75 + places.height_inch,
        draw=draw,
        caption=f"{caption}{more}",
        details=" ".join(map(in_words, labels)),
        table=rows.reset_index(),
    )


class _Part(NamedTuple):
    """One part of each bar: lengths by label, in a unit."""

    name: str
    unit: str
    lengths: pd.Series


def _bars(
    axes: Axes,
    bars: pd.DataFrame,
    part: _Part,
    places: Sequence[float],
    left: np.ndarray,
    palette: Palette,
    shade: float,
    simulated: bool,
) -> None:
    cells = dict(iter(bars.groupby("label")))
    how: dict[str, Any] = {"hatch": "///", "linestyle": "--"} if simulated else {"linestyle": "-"}
    for place, begin, (label, length) in zip(places, left, part.lengths.items(), strict=True):
        colour = palette[cells[label]["strategy"].iloc[0]]
        (drawn,) = axes.barh(place, length, 0.45, begin, color=colour, alpha=shade, linewidth=0, **how)
        named = name_cells(str(label), cells[label])
        mark(drawn, part.name, f"{named}: {part.name} {length:.3g} {part.unit}")


def _shades_and_limit(
    axes: Axes, names: Sequence[str], capacity: float | None, most: float, size: float, ncols: int
) -> None:
    """Draw what a device has, where that is near, and name the shades."""
    handles: list[object] = [Patch(color=INK, alpha=_shade(n, len(names)), label=name) for n, name in enumerate(names)]
    if capacity and capacity <= NEAR * most:
        handles += [
            axes.axvline(capacity / size, color=INK, linestyle=":", linewidth=1.2, label="available on a device")
        ]
    if names:
        legend_below(axes, handles, ncols)


def _shade(number: int, count: int) -> float:
    """Kinds are shades of the strategy's colour, the first the darkest."""
    return 1 - 0.8 * number / max(1, count - 1) if count > 1 else 1.0


def _capacity(bars: pd.DataFrame) -> float | None:
    """Return the usable bytes of a device where all have the same."""
    known = bars["dram_capacity"].dropna().unique()
    return float(known[0]) if len(known) == 1 else None


def _fullest(rows: pd.DataFrame, totals: pd.Series, capacity: float | None) -> str:
    most, least = totals.idxmax(), totals.idxmin()
    size, unit = byte_unit(float(totals[most]))
    several = totals[least] < 0.995 * totals[most]
    text = f"{most} needs {'the most: ' if several else ''}{totals[most] / size:.3g} {unit} on its fullest device"
    text += f", mostly {rows.loc[most].idxmax().removeprefix(KIND_COLUMN)}" if len(rows.columns) > 1 else ""
    text += f". That is {_of_capacity(totals[most], capacity)}" if capacity is not None else ""
    return text + (f". {least} needs the least, {totals[least] / size:.3g} {unit}" if several else "")


def _of_capacity(most: float, capacity: float) -> str:
    whole, name = byte_unit(capacity)
    line = " (dotted line)" if capacity <= NEAR * most else ""
    return f"{share_in_percent(most / capacity)} of the {capacity / whole:.3g} {name} available{line}"
