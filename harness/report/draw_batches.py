"""Steps to the target against the global batch: how far larger batches, and so more devices, can help."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from harness.analysis.batch_regimes import NEARLY, CriticalBatch, Hyperbola, batch_frame, batch_points, critical_batch
from harness.report.marks import mark
from harness.report.shades import Palette
from harness.report.svg import INK, Panel, kind_in_words, legend_below, look, plain_numbers, sample, ticks_at

LEAST_BATCHES = 3
"""Batches that reached the target from which on a curve is drawn: two fit any hyperbola; chosen."""


GAINS = {"perfect": "perfect scaling", "diminishing": "diminishing returns", "maximal": "no further gain"}
"""What a larger batch brings, by regime."""


MEDIANS = "median over seeds"
PERFECT = "perfect: twice the batch, half the updates"


def batch_panels(cells: pd.DataFrame) -> list[Panel]:
    """Draw steps to the target against the global batch, for each strategy and engine with enough of them.

    Args:
        cells: columns as in cells.csv.
    """
    groups = [] if cells.empty else list(_own(cells).groupby(["strategy", "engine"], sort=False))
    found = []
    for (strategy, engine), group in groups:
        if group["global_batch_size"].nunique() < LEAST_BATCHES:
            continue
        tried = batch_points(group, strategy, engine)
        critical = critical_batch(tried)
        if critical is not None and sum(bool(point.steps) for point in tried) >= LEAST_BATCHES:
            found.append(_batches(batch_frame(tried, critical.fit), critical, strategy, engine == "virtual"))
    return found


def _own(cells: pd.DataFrame) -> pd.DataFrame:
    """Leave out strategies that take the steps of single, where single is there to be drawn."""
    if not (cells["strategy"] == "single").any():
        return cells
    return cells[(cells["strategy"] == "single") | (cells["equivalence"] != "single")]


def _batches(table: pd.DataFrame, critical: CriticalBatch, strategy: str, simulated: bool) -> Panel:
    known = table.dropna(subset=["steps_to_target"])
    batches, fit = known["global_batch_size"].to_numpy(float), critical.fit
    least, most = batches.min(), batches.max()

    def draw(axes: Axes, palette: Palette) -> None:
        colour = palette[strategy]
        dots = look(colour, simulated) | {"marker": "o", "linestyle": "none"}
        for row in known.itertuples():
            (dot,) = axes.plot([row.global_batch_size], [row.steps_to_target], **dots)
            mark(dot, MEDIANS, f"{strategy}, global batch {row.global_batch_size}: {row.steps_to_target:,.0f} updates")
        grid = np.geomspace(least, most, 40)
        fitted = [fit.steps(batch) for batch in grid], "--"
        perfect = fit.steps(least) * least / grid, ":"
        handles = [sample(axes, MEDIANS, **dots)]
        for (line, style), ink, name in ((fitted, colour, "fitted hyperbola"), (perfect, INK, PERFECT)):
            handles += axes.plot(grid, line, style, color=ink, label=name)
            mark(handles[-1], name, name)
        handles += _regimes(axes, fit, least, most)
        axes.set(xscale="log", yscale="log", xlabel="global batch, samples", ylabel="updates to the target")
        for axis in (axes.xaxis, axes.yaxis):
            plain_numbers(axis)
        ticks_at(axes.xaxis, sorted(batches))
        legend_below(axes, handles)

    return Panel(
        title=f"Steps to the target against the global batch: {strategy}, {kind_in_words(simulated)}",
        height_inch=2.5,
        draw=draw,
        caption=_caption(known, critical, strategy),
        details=" ".join(
            f"Batch {row.global_batch_size}: {row.steps_to_target:,.0f} updates, {row.regime}."
            for row in known.itertuples()
        ),
        table=table,
    )


def _regimes(axes: Axes, fit: Hyperbola, least: float, most: float) -> list[Line2D]:
    """Name the regimes that lie in sight, with a line where one ends and the next begins, and the critical batch.

    Returns:
        What the legend is to name of it.
    """
    named = []
    if least < fit.critical_batch < most:
        named = [axes.axvline(fit.critical_batch, color=INK, linestyle="-.", linewidth=1, label="critical batch")]
        mark(named[0], "critical batch", f"critical batch: {fit.critical_batch:,.0f} samples")
    edges = [0.0, fit.critical_batch / NEARLY, fit.critical_batch * NEARLY, math.inf]
    for name, low, high in zip(("perfect", "diminishing", "maximal"), edges, edges[1:], strict=False):
        begin, end = max(low, least), min(high, most)
        if begin >= end:
            continue
        if begin > least:
            axes.axvline(begin, color=INK, linewidth=0.8, alpha=0.5)
        # In the middle of its stretch of the logarithmic axis, along the upper edge.
        axes.annotate(name, (math.sqrt(begin * end), 1.0), xycoords=("data", "axes fraction"), xytext=(0, -4),
                      textcoords="offset points", ha="center", va="top", fontsize=8)  # fmt: skip
    return named


def _caption(known: pd.DataFrame, critical: CriticalBatch, strategy: str) -> str:
    low, high = known.iloc[0], known.iloc[-1]
    times = high["global_batch_size"] / low["global_batch_size"]
    fewer = low["steps_to_target"] / high["steps_to_target"]
    text = (
        f"{strategy} needs {fewer:.3g} times fewer updates with a batch {times:.3g} times larger "
        f"({low['global_batch_size']} to {high['global_batch_size']}): {GAINS[high['regime']]} at the largest."
    )
    if math.isinf(critical.fit.critical_batch):
        return f"{text} No batch tried was too large to help."
    text += f" Critical batch: {critical.fit.critical_batch:,.0f} samples"
    if critical.interval is not None and math.isfinite(critical.interval.high):
        text += f" ({critical.interval.low:,.0f} to {critical.interval.high:,.0f})"
    return f"{text}."
