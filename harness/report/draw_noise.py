"""The gradient noise scale against samples seen, beside the batch that a step averages over."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from harness.report.end_labels import ends_of, label_ends
from harness.report.marks import mark, name_cells
from harness.report.shades import Palette
from harness.report.svg import (
    INK,
    Panel,
    kind_in_words,
    legend_below,
    lines_of,
    look,
    measured_and_simulated,
    plain_numbers,
)

MARGIN = 2.0
"""By which the axis goes beyond estimates and batches; an interval that is longer runs off it; chosen."""


@measured_and_simulated
def noise_panels(noise: pd.DataFrame, simulated: bool) -> Panel | None:
    """Draw the noise scale of each line, measured and simulated apart.

    Args:
        noise: one row for each line and window: label, simulated, strategy, gpus, global_batch_size, learning_rate,
            over_all, samples_seen, noise_scale, low, high, updates and seeds.
    """
    noise = noise[noise.groupby("label")["noise_scale"].transform("count") > 0]
    if noise.empty:
        return None
    known, batches = noise.dropna(subset=["noise_scale"]), sorted(noise["global_batch_size"].unique())

    def draw(axes: Axes, palette: Palette) -> None:
        for line in lines_of(noise, "label", in_turn=True):
            colour = palette.shade(line.strategy, line.gpus)
            how = look(colour, simulated) | {"marker": line.marker, "label": line.label}
            (drawn,) = axes.plot(line.rows["samples_seen"], line.rows["noise_scale"], **how)
            sure = line.rows.dropna(subset=["low", "high"])
            bars = axes.vlines(sure["samples_seen"], sure["low"], sure["high"], color=colour, linewidth=1.2)
            for artist in (drawn, bars):
                mark(artist, line.label, name_cells(line.label, line.rows))
        for number, batch in enumerate(batches):
            axes.axhline(batch, color=INK, linestyle=":", linewidth=1.2, label="" if number else "global batch")
        found = [*known["noise_scale"], *batches]
        axes.set(xlabel="samples seen", ylabel="noise scale, samples", yscale="log", xlim=(0, None))
        axes.set_ylim(min(found) / MARGIN, max(found) * MARGIN)
        plain_numbers(axes.yaxis)
        label_ends(axes, ends_of(lines_of(known, "label"), "samples_seen", "noise_scale", palette))
        legend_below(axes)

    return Panel(
        title=f"Gradient noise scale, {kind_in_words(simulated)}",
        height_inch=2.4,
        draw=draw,
        caption=_caption(noise),
        details=" ".join(map(_window_in_words, known.itertuples())),
        table=noise,
    )


def _window_in_words(row: Any) -> str:
    return (
        f"{row.label} at {row.samples_seen:,.0f} samples: {row.noise_scale:,.3g} ({row.low:,.3g} to {row.high:,.3g})."
    )


def _caption(lines: pd.DataFrame) -> str:
    text = " ".join(_line_in_words(line) for _, line in lines.groupby("label", sort=False))
    seeds = int(lines["seeds"].max())
    many = f"Medians over {seeds} seeds" if seeds > 1 else "One seed"
    return f"{text} {many}. Bars are 95 % intervals. A gap means that gradient and noise could not be separated."


def _line_in_words(line: pd.DataFrame) -> str:
    """Say what the noise scale means for whoever chooses the batch."""
    known, batch = line.dropna(subset=["noise_scale"]), int(line["global_batch_size"].iloc[0])
    least, most = known["noise_scale"].min(), known["noise_scale"].max()
    over_all = f"{line['over_all'].iloc[0]:,.0f} over the whole run, {line['updates'].sum():,} updates"
    scale = f"the noise scale ({_range(least, most)} samples; {over_all})"
    head = f"{line['label'].iloc[0]}: its batch of {batch} is"
    if batch <= least:
        return f"{head} below {scale}. Larger batches, and so more devices, still save steps."
    if batch >= most:
        return f"{head} above {scale}. Larger batches save hardly any steps."
    return (
        f"{head} within the range of {scale}. Larger batches, and so more devices, save steps while the noise scale is "
        "high, and hardly any while it is low."
    )


def _range(least: float, most: float) -> str:
    low, high = f"{least:,.0f}", f"{most:,.0f}"
    return low if low == high else f"{low} to {high}"
