"""The gradient noise scale against samples seen, beside the batch that a step averages over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import pandas as pd

from harness.report.svg import INK, MARKERS, Drawing, drawing, kind_in_words, new_figure, plain_numbers, shorten, style

MARGIN = 2.0
"""By which the axis goes beyond estimates and batches; an interval that is longer runs off it; chosen."""


def noise_drawings(noise: pd.DataFrame, palette: Mapping[str, str], prefix: str) -> list[Drawing]:
    """Draw the noise scale of each line, measured and simulated apart.

    Args:
        noise: one row for each line and window: label, simulated, strategy, gpus, global_batch_size, learning_rate,
            over_all, samples_seen, noise_scale, low, high, updates and seeds.
        palette: colour by strategy.
        prefix: starts the ids inside the SVG.
    """
    if not len(noise) or noise["noise_scale"].isna().all():
        return []
    known = noise[noise.groupby("label")["noise_scale"].transform("count") > 0]
    return [
        _noise(lines, palette, bool(simulated), f"{prefix}noise{number}")
        for number, (simulated, lines) in enumerate(known.groupby("simulated"))
    ]


def _noise(lines: pd.DataFrame, palette: Mapping[str, str], simulated: bool, prefix: str) -> Drawing:
    title = f"Gradient noise scale, {kind_in_words(simulated)}"
    with style():
        figure, axes = new_figure(2.5 + 0.2 * lines["label"].nunique())
        seen: Counter[str] = Counter()
        for _, line in lines.groupby("label", sort=False):
            strategy = line["strategy"].iloc[0]
            _line(axes, line, palette[strategy], simulated, MARKERS[seen[strategy] % len(MARKERS)])
            seen[strategy] += 1
        batches = sorted(lines["global_batch_size"].unique())
        for number, batch in enumerate(batches):
            axes.axhline(batch, color=INK, linestyle=":", linewidth=1.2, label="" if number else "global batch")
        found = [*lines["noise_scale"].dropna(), *batches]
        axes.set(xlabel="samples seen", ylabel="noise scale, samples", yscale="log", xlim=(0, None))
        axes.set_ylim(min(found) / MARGIN, max(found) * MARGIN)
        plain_numbers(axes.yaxis)
        figure.legend(loc="outside lower center", ncols=1)
        details = " ".join(_window_in_words(row) for row in lines.dropna(subset=["noise_scale"]).itertuples())
        return drawing(figure, title, _caption(lines), details, lines, prefix)


def _line(axes: Any, line: pd.DataFrame, colour: str, simulated: bool, marker: str) -> None:
    look = {"markerfacecolor": "none" if simulated else colour, "linestyle": "--" if simulated else "-"}
    label = shorten(line["label"].iloc[0])
    axes.plot(line["samples_seen"], line["noise_scale"], color=colour, marker=marker, label=label, **look)
    known = line.dropna(subset=["low", "high"])
    axes.vlines(known["samples_seen"], known["low"], known["high"], color=colour, linewidth=1.2)


def _window_in_words(row: Any) -> str:
    return (
        f"{row.label} at {row.samples_seen:,.0f} samples: {row.noise_scale:,.3g} ({row.low:,.3g} to {row.high:,.3g})."
    )


def _caption(lines: pd.DataFrame) -> str:
    text = " ".join(_line_in_words(line) for _, line in lines.groupby("label", sort=False))
    seeds = int(lines["seeds"].max())
    many = f"Medians over {seeds} seeds" if seeds > 1 else "One seed"
    return f"{text} {many}; bars: 95 % intervals, their ends too; a gap: not told from infinity."


def _line_in_words(line: pd.DataFrame) -> str:
    """Say what the noise scale means for whoever chooses the batch."""
    known, batch = line.dropna(subset=["noise_scale"]), int(line["global_batch_size"].iloc[0])
    least, most = known["noise_scale"].min(), known["noise_scale"].max()
    over_all = f"{line['over_all'].iloc[0]:,.0f} over the whole run, {line['updates'].sum():,} updates"
    head = f"{line['label'].iloc[0]}: a step of {batch} samples is"
    if batch <= least:
        return (
            f"{head} below the noise scale of {_range(least, most)} samples ({over_all}): larger batches, and so more "
            "devices, still save steps."
        )
    if batch >= most:
        return (
            f"{head} above the noise scale of {_range(least, most)} samples ({over_all}): larger batches save hardly "
            "any steps."
        )
    return (
        f"{head} above the noise scale while that is low, down to {least:,.0f} samples: there larger batches save "
        f"hardly any steps; and below it while it is high, up to {most:,.0f} ({over_all}): there larger batches, and "
        "so more devices, still save some."
    )


def _range(least: float, most: float) -> str:
    low, high = f"{least:,.0f}", f"{most:,.0f}"
    return low if low == high else f"{low} to {high}"
