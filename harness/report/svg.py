"""A figure as inline SVG: the page's ink, a text alternative, its numbers as CSV; nothing here knows of files.

Text takes the page's colour, so that a figure can be read on white, on black and on paper.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import matplotlib
import pandas as pd
import seaborn
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter

INK = "#010203"
"""Stands for the page's text colour until the SVG is written; matplotlib knows no `currentColor`."""

MARKERS = "os^DvPX*"
"""For device counts, ascending: they tell lines of one strategy apart."""

WIDTH_INCH = 4.6  # 331 units: on a phone of 390 px a unit is about a pixel, and text of 10 stays readable

LONGEST_NAME = 50
"""Characters of a name inside a figure: at size 9 more would run over the edge; the table has it in full."""

NOT_RANKED = ", not ranked"
"""Ends the label of what is drawn but in no comparison."""

NARROW = 30.0
"""Ratio of its ends below which a logarithmic axis has hardly a decade to name, and names 2 and 5 too; chosen."""

_STYLE = {
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    **{"font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.12},
    **{"svg.fonttype": "none", "svg.hashsalt": "harness", "hatch.linewidth": 0.8, "font.family": ["DejaVu Sans"]},
    **{"text.parse_math": False, "axes.axisbelow": True},
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        caption: sentences that say what it shows.
        svg: the drawing, with its own text alternative.
        csv: what is drawn.
        file: name of a download, without its ending.
    """

    title: str
    caption: str
    svg: str
    csv: str
    file: str


def style() -> Any:
    """Return the context in which all figures are made."""
    return matplotlib.rc_context(_STYLE)


def colours(strategies: Iterable[str]) -> dict[str, str]:
    """Return a colour for each strategy, told apart by colour-blind eyes for up to ten."""
    names = list(dict.fromkeys(strategies))
    return dict(zip(names, seaborn.color_palette("colorblind", len(names)).as_hex(), strict=True))


def shorten(text: str, most: int = LONGEST_NAME) -> str:
    """Return a name that fits into a figure."""
    return text if len(text) <= most else text[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"


def first_of(drawn: int, found: int) -> str:
    """Return that not all points are drawn, as a sentence to add; empty where they are."""
    return f" The first {drawn} of {found} points are drawn." if found > drawn else ""


def ranked(labels: Iterable[str]) -> list[str]:
    """Return the labels that a caption may compare; all where none is ranked."""
    found = list(dict.fromkeys(labels))
    return [label for label in found if not label.endswith(NOT_RANKED)] or found


def new_figure(height_inch: float) -> tuple[Figure, Any]:
    """Return a figure of a page column's width with its axes; to be called within `style`."""
    figure = Figure(figsize=(WIDTH_INCH, height_inch), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_visible(False)
    axes = figure.subplots()
    axes.patch.set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    return figure, axes


def drawing(figure: Figure, title: str, caption: str, details: str, frame: pd.DataFrame, prefix: str) -> Drawing:
    """Return a figure as it stands on the page.

    Args:
        figure: made within `style`, and still within it.
        title: in a few words.
        caption: sentences that say what it shows.
        details: every number, for those who do not see it.
        frame: what is drawn.
        prefix: starts the ids inside the SVG, which must be unique on a page.
    """
    text = frame.to_csv(index=False, float_format="%.6g", lineterminator="\n")
    file = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:60] or "figure"
    return Drawing(title, caption, _svg(figure, title, f"{caption} {details}", prefix), text, file)


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
    # Hundredths of a unit: finer cannot be seen, and doubles the page. Numbers of the text stay as they are.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    head = f'<svg role="img" aria-labelledby="{prefix}-title {prefix}-desc" viewBox="{box[1]}">'
    words = f'<title id="{prefix}-title">{html.escape(title)}</title>'
    return f'{head}{words}<desc id="{prefix}-desc">{html.escape(description)}</desc>{body}'


# -- axes --------------------------------------------------------------------------------------------------------------


def name_rows(axes: Any, words: list[str]) -> None:
    """Write each bar's name above it: beside it, a name would take the width that the bar needs on a phone."""
    for place, text in enumerate(words):
        axes.annotate(text, (0, place - 0.27), xycoords=axes.get_yaxis_transform(), xytext=(2, 0),
                      textcoords="offset points", va="bottom", fontsize=9)  # fmt: skip
    axes.set_yticks([])
    axes.set_ylim(len(words) - 0.6, -0.75)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def plain_numbers(axis: Any) -> None:
    """Write the ticks of a logarithmic axis as plain text: mathematical type would need another font."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_view_interval()
    narrow = high < NARROW * low
    axis.set_minor_formatter(FuncFormatter(_two_or_five) if narrow else NullFormatter())


def _two_or_five(value: float, _: Any) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def clock_in_words(unit: str, simulated: bool) -> str:
    """Return such as "simulated ms": no axis of time without saying whose clock it is."""
    words = {"us": "microseconds", "ms": "milliseconds", "s": "seconds", "min": "minutes", "h": "hours"}[unit]
    return f"simulated {words}" if simulated else words


def kind_in_words(simulated: bool) -> str:
    """Return "simulated" or "measured"."""
    return "simulated" if simulated else "measured"
