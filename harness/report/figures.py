"""Figures as inline SVG: from frames to drawings; nothing here knows of files.

Measured is solid and filled, simulated dashed and hollow and in a panel of its own. A strategy has one colour
throughout. Text takes the page's colour, so that a figure can be read on white, on black and on paper.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import pandas as pd
import seaborn
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from harness.analysis.curves import MOST_POINTS, median_curve, thin

INK = "#010203"
"""Stands for the page's text colour until the SVG is written; matplotlib knows no `currentColor`."""

MARKERS = "os^DvPX*"
"""For device counts, ascending: they tell lines of one strategy apart."""

TWO_COLUMNS = 24
"""Characters of a name in the legend up to which two stand side by side in the width of a figure."""

MOST_PANELS = 6
MOST_BARS = 30
WIDTH_INCH = 4.6  # 331 units: on a phone of 390 px a unit is about a pixel, and text of 10 stays readable

_STYLE = {
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    **{"font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.12},
    **{"svg.fonttype": "none", "svg.hashsalt": "harness", "hatch.linewidth": 0.8, "font.family": ["DejaVu Sans"]},
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        caption: a sentence that says what it shows.
        svg: the drawing, with its own text alternative.
    """

    title: str
    caption: str
    svg: str


def colours(strategies: Iterable[str]) -> dict[str, str]:
    """Return a colour for each strategy, told apart by colour-blind eyes for up to ten."""
    names = list(dict.fromkeys(strategies))
    return dict(zip(names, seaborn.color_palette("colorblind", len(names)).as_hex(), strict=True))


# -- accuracy ----------------------------------------------------------------------------------------------------------


def accuracy_drawings(
    curves: pd.DataFrame, palette: Mapping[str, str], target: float | None, prefix: str
) -> list[Drawing]:
    """Draw validation accuracy against samples and against seconds, a panel for each batch and rate.

    Args:
        curves: columns as in harness.report.frames.CURVE_COLUMNS.
        palette: colour by strategy.
        target: the accuracy that was asked for.
        prefix: starts the ids inside the SVG, which must be unique on a page.
    """
    panels = _best_panels(curves)
    drawn = [
        _accuracy(panel, column, palette, target, f"{prefix}{column}{number}")
        for column in ("samples", "time_s")
        for number, panel in enumerate(panels)
    ]
    return [drawing for drawing in drawn if drawing is not None]


def panels_left_out(curves: pd.DataFrame) -> int:
    """Return how many panels of batch and rate are not drawn, because a page of them would not be looked at."""
    return max(0, int(curves.groupby(["simulated", "panel"]).ngroups) - MOST_PANELS)


def _best_panels(curves: pd.DataFrame) -> list[pd.DataFrame]:
    """Return the panels, those that reached the highest accuracies first, no more than can be looked at."""
    groups = [group for _, group in curves.groupby(["simulated", "panel"], sort=False)]
    best = sorted(groups, key=lambda group: -group.groupby("line")["accuracy"].max().median())[:MOST_PANELS]
    return [group for group in groups if any(group is kept for kept in best)]


def _accuracy(
    panel: pd.DataFrame, column: str, palette: Mapping[str, str], target: float | None, prefix: str
) -> Drawing | None:
    panel = panel.dropna(subset=[column, "accuracy"])
    if panel.empty:
        return None
    simulated = bool(panel["simulated"].iloc[0])
    axis = "samples seen" if column == "samples" else ("simulated seconds" if simulated else "seconds of training")
    kind = "simulated" if simulated else "measured"
    title = f"Accuracy against {axis}, {kind}, {panel['panel'].iloc[0]}"
    dotted = "" if target is None else f"; the dotted line is the target of {target:g}"
    caption = (
        f"Validation accuracy against {axis} ({kind}, {panel['panel'].iloc[0]}): a thin line for each seed, a thick "
        f"one for their median as far as all of them ran{dotted}."
    )
    with matplotlib.rc_context(_STYLE):
        columns = 2 if panel["line"].str.len().max() <= TWO_COLUMNS else 1
        figure, axes = _figure(2.9 + 0.22 * -(-panel["line"].nunique() // columns))
        _seeds(axes, panel, column, palette, simulated)
        ends = [_median_line(axes, line, column, palette[line.strategy], simulated) for line in _lines(panel)]
        if target is not None:
            axes.axhline(target, color=INK, linestyle=":", linewidth=1)
        axes.set(xlabel=axis, ylabel="validation accuracy", xlim=(0, None))
        figure.legend(loc="outside lower center", ncols=columns)
        return Drawing(title, caption, _svg(figure, title, f"{caption} {' '.join(ends)}", prefix))


def _seeds(axes: Any, panel: pd.DataFrame, column: str, palette: Mapping[str, str], simulated: bool) -> None:
    thinned = pd.concat([seed.iloc[_thinned(len(seed))] for _, seed in panel.groupby(["line", "seed"], sort=False)])
    units = thinned["line"] + thinned["seed"].astype(str)
    style = {"linestyle": "--" if simulated else "-", "linewidth": 0.7, "alpha": 0.4}
    options = {"estimator": None, "legend": False, "sort": False, **style}
    seaborn.lineplot(
        thinned, x=column, y="accuracy", hue="strategy", palette=dict(palette), units=units, ax=axes, **options
    )


def _thinned(length: int) -> Any:
    index = np.arange(length, dtype=float)
    return thin((index, index))[0].astype(int)


class _Line(NamedTuple):
    label: str
    strategy: str
    marker: str
    number: int
    rows: pd.DataFrame


def _lines(panel: pd.DataFrame) -> Iterator[_Line]:
    counts = sorted(panel["gpus"].unique())
    for number, (label, rows) in enumerate(panel.groupby("line", sort=False)):
        marker = MARKERS[counts.index(rows["gpus"].iloc[0]) % len(MARKERS)]
        yield _Line(label, rows["strategy"].iloc[0], marker, number, rows)


def _median_line(axes: Any, line: _Line, column: str, colour: str, simulated: bool) -> str:
    """Draw the median of a line's seeds and return where it ends, in words."""
    seeds = [(seed[column].to_numpy(float), seed["accuracy"].to_numpy(float)) for _, seed in line.rows.groupby("seed")]
    x, y = median_curve(seeds, MOST_POINTS)
    face = "none" if simulated else colour
    style = {"linestyle": "--" if simulated else "-", "marker": line.marker, "markerfacecolor": face, "markersize": 4.5}
    # Each line has its markers elsewhere: strategies that train identically lie on each other, and all must be seen.
    every = max(1, len(x) // 6)
    axes.plot(x, y, color=colour, label=line.label, linewidth=1.8, markevery=(line.number % every, every), **style)
    return f"{line.label}: {y[-1]:.3f} at {x[-1]:,.4g}." if len(x) else f"{line.label}: seeds without a common range."


# -- bars --------------------------------------------------------------------------------------------------------------


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
    kind = "simulated" if simulated else "measured"
    clock = "simulated second" if simulated else "second"
    title = f"Throughput, {kind}"
    caption = (
        f"Samples of the whole job per {clock} of training ({kind}): the median over a point's cells, "
        f"with a line from the smallest to the largest{more}."
    )
    medians = bars.groupby("label")["throughput"].median()
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(0.75 + 0.46 * len(labels))
        seaborn.barplot(
            bars, x="throughput", y="label", hue="strategy", palette=dict(palette), order=labels, ax=axes,
            estimator="median", errorbar=("pi", 100), width=0.45, saturation=1, legend=False, dodge=False,
            err_kws={"color": INK, "linewidth": 1},
        )  # fmt: skip
        if simulated:
            _hollow(axes)
        words = [f"{label}: {medians[label]:,.0f}" for label in labels]
        _name_bars(axes, words)
        axes.set(xlabel=f"samples per {clock}", ylabel="")
        return Drawing(title, caption, _svg(figure, title, f"{caption} {'; '.join(words)}.", prefix))


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
    rows = bars.groupby("label")[list(kinds)].max().fillna(0).loc[labels]
    size, unit = _unit(float(rows.sum(axis=1).max()))
    title = f"Counted DRAM{' of simulated devices' if simulated else ''}"
    caption = (
        "Bytes of parameters, gradients, optimizer, activations and buffers on the device that holds most, "
        f"counted tensor by tensor{', for simulated devices' if simulated else ''}{more}."
    )
    strategy = bars.groupby("label")["strategy"].first()
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(0.95 + 0.46 * len(labels) + 0.2 * (len(kinds) > 1) * -(-len(kinds) // 3))
        _stack(axes, rows / size, [palette[strategy[label]] for label in labels], simulated)
        words = [f"{label}: {rows.loc[label].sum() / size:.3g} {unit}" for label in labels]
        _name_bars(axes, words)
        axes.set(xlabel=f"{unit} per device", ylabel="")
        axes.grid(visible=False)  # it would show through the lighter shades
        if len(kinds) > 1:
            handles = [Patch(color=INK, alpha=_shade(n, len(kinds)), label=k[5:]) for n, k in enumerate(kinds)]
            figure.legend(handles=handles, loc="outside lower center", ncols=3)
        return Drawing(title, caption, _svg(figure, title, f"{caption} {'; '.join(words)}.", prefix))


def _stack(axes: Any, rows: pd.DataFrame, bar_colours: Sequence[str], simulated: bool) -> None:
    left = np.zeros(len(rows))
    places = np.arange(len(rows))
    for number, kind in enumerate(rows.columns):
        shade = _shade(number, len(rows.columns))
        hatch = "///" if simulated else None
        axes.barh(places, rows[kind], 0.45, left, color=bar_colours, alpha=shade, hatch=hatch, linewidth=0)
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


def _name_bars(axes: Any, words: Sequence[str]) -> None:
    """Write each bar's name above it: beside it, a name would take the width that the bar needs on a phone."""
    for place, text in enumerate(words):
        axes.annotate(text, (0, place - 0.27), xytext=(2, 0), textcoords="offset points", va="bottom", fontsize=9)
    axes.set_yticks([])
    axes.set_ylim(len(words) - 0.6, -0.75)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def _hollow(axes: Any) -> None:
    for patch in axes.patches:
        colour = patch.get_facecolor()
        patch.set(facecolor="none", edgecolor=colour, hatch="///", linewidth=1.2)


def _unit(largest: float) -> tuple[float, str]:
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if largest >= size:
            return float(size), unit
    return 1.0, "bytes"


# -- SVG ---------------------------------------------------------------------------------------------------------------


def _figure(height_inch: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def _svg(figure: Figure, title: str, description: str, prefix: str) -> str:
    """Return the figure as an SVG element for the page: unique ids, the page's ink, a text alternative, no links."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", box.end()) + 1 :].strip()
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{prefix}-', body).replace("url(#", f"url(#{prefix}-")
    body = body.replace('xlink:href="#', f'href="#{prefix}-').replace(INK, "currentColor")
    body = re.sub(r"(\d\.\d\d)\d+", r"\1", body)  # hundredths of a unit: finer cannot be seen, and doubles the page
    head = f'<svg role="img" aria-labelledby="{prefix}-title {prefix}-desc" viewBox="{box[1]}">'
    words = f'<title id="{prefix}-title">{html.escape(title)}</title>'
    return f'{head}{words}<desc id="{prefix}-desc">{html.escape(description)}</desc>{body}'
