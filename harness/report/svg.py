"""A figure as inline SVG: the page's ink, a text alternative, its numbers as CSV; nothing here knows of files.

Text takes the page's colour, so that a figure can be read on white, on black and on paper.
"""

from __future__ import annotations

import html
import io
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Concatenate, NamedTuple, ParamSpec

import matplotlib
import pandas as pd
import seaborn
from matplotlib.axes import Axes
from matplotlib.axis import Axis
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
"""Ends the label of what is drawn but in no comparison, where the column "ranked" says so."""

MOST_BARS = 24
MOST_MARKED = 16
MOST_LINES = 6
"""Points of one figure: as plain bars, with marks on a row each, as lines; chosen: of more nobody follows one."""

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


Palette = Mapping[str, str]
"""Colour by strategy."""


@dataclass(frozen=True)
class Drawing:
    """A figure as the page takes it.

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


@dataclass(frozen=True)
class Panel:
    """A figure before it is drawn: what it shows and what is said of it; the page adds colours and ids.

    Attributes:
        title: in a few words.
        height_inch: its width is the page's.
        draw: draws on axes, in the colours of the strategies.
        caption: sentences that say what it shows.
        details: every number, for those who do not see it.
        table: what is drawn.
    """

    title: str
    height_inch: float
    draw: Callable[[Axes, Palette], object]
    caption: str
    details: str
    table: pd.DataFrame

    def drawing(self, palette: Palette, prefix: str) -> Drawing:
        """Draw it.

        Args:
            palette: colour by strategy.
            prefix: starts the ids inside the SVG, which must be unique on a page.
        """
        with matplotlib.rc_context(_STYLE):
            figure, axes = _new_figure(self.height_inch)
            self.draw(axes, palette)
            svg = _svg(figure, self.title, f"{self.caption} {self.details}", prefix)
        csv = self.table.to_csv(index=False, float_format="%.6g", lineterminator="\n")
        file = re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60] or "figure"
        return Drawing(self.title, self.caption, svg, csv, file)


_More = ParamSpec("_More")


def measured_and_simulated(
    panel: Callable[Concatenate[pd.DataFrame, bool, _More], Panel | None],
) -> Callable[Concatenate[pd.DataFrame, _More], list[Panel]]:
    """Make a figure of each engine's rows, told apart by the column "simulated": never do both stand in one."""

    def panels(frame: pd.DataFrame, /, *args: _More.args, **kwargs: _More.kwargs) -> list[Panel]:
        groups = frame.groupby("simulated") if len(frame) else ()
        found = (panel(rows.reset_index(drop=True), bool(simulated), *args, **kwargs) for simulated, rows in groups)
        return [item for item in found if item is not None]

    panels.__doc__ = panel.__doc__
    return panels


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


def ranked(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that a caption may compare, by their column "ranked"; all where none is ranked."""
    kept = rows[rows["ranked"]]
    return kept if len(kept) else rows


def _new_figure(height_inch: float) -> tuple[Figure, Axes]:
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
    # Hundredths of a unit: finer cannot be seen, and doubles the page. Numbers of the text stay as they are.
    body = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d\d)\d+", r"\1", tag[0]), body)
    head = f'<svg role="img" aria-labelledby="{prefix}-title {prefix}-desc" viewBox="{box[1]}">'
    words = f'<title id="{prefix}-title">{html.escape(title)}</title>'
    return f'{head}{words}<desc id="{prefix}-desc">{html.escape(description)}</desc>{body}'


# -- lines -------------------------------------------------------------------------------------------------------------


class DrawnLine(NamedTuple):
    """The rows of one line of a figure, with the marker that tells it from others of its colour."""

    label: str
    strategy: str
    marker: str
    rows: pd.DataFrame


def lines_of(frame: pd.DataFrame, column: str, *, in_turn: bool = False) -> list[DrawnLine]:
    """Return the lines of a frame: a marker for each device count, or for each line of a strategy in turn."""
    counts, seen, found = sorted(frame["gpus"].unique()), Counter[str](), []
    for label, rows in frame.groupby(column, sort=False):
        strategy = str(rows["strategy"].iloc[0])
        place = seen[strategy] if in_turn else counts.index(rows["gpus"].iloc[0])
        seen[strategy] += 1
        found.append(DrawnLine(str(label), strategy, MARKERS[place % len(MARKERS)], rows))
    return found


def look(colour: str, simulated: bool) -> dict[str, Any]:
    """Return how a line with markers looks: what is measured is solid and filled, what is simulated broken, hollow."""
    face, line = ("none", "--") if simulated else (colour, "-")
    return {"color": colour, "markerfacecolor": face, "linestyle": line}


def legend_below(axes: Axes, handles: Sequence[Any] | None = None, ncols: int = 1, **how: Any) -> None:
    """Put the legend under the figure: beside it, it would take the width that the axes need."""
    given = {} if handles is None else {"handles": handles}
    axes.figure.legend(**given, loc="outside lower center", ncols=ncols, **how)


def sample(axes: Axes, label: str, **how: Any) -> Any:
    """Return an entry of a legend in the page's ink: a line or marker that is drawn nowhere else."""
    return axes.plot([], [], label=label, **({"color": INK} | how))[0]


# -- axes --------------------------------------------------------------------------------------------------------------


def name_rows(axes: Axes, words: Sequence[str]) -> None:
    """Write each bar's name above it: beside it, a name would take the width that the bar needs on a phone."""
    for place, text in enumerate(words):
        write(axes, place - 0.27, text)
    axes.set_ylim(len(words) - 0.6, -0.75)
    hide_y(axes)


def write(axes: Axes, place: float, text: str, **how: Any) -> None:
    """Write from the left edge on, at a height of the y-axis."""
    given: dict[str, Any] = {"va": "bottom", "fontsize": 9} | how
    axes.annotate(text, (0, place), xycoords=axes.get_yaxis_transform(), xytext=(2, 0), textcoords="offset points",
                  **given)  # fmt: skip


def hide_y(axes: Axes) -> None:
    """Leave out the y-axis, where rows are named above themselves."""
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)


def plain_numbers(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain text: mathematical type would need another font."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    low, high = axis.get_view_interval()
    narrow = high < NARROW * low
    axis.set_minor_formatter(FuncFormatter(_two_or_five) if narrow else NullFormatter())


def _two_or_five(value: float, _: object) -> str:
    return f"{value:g}" if f"{value:e}"[0] in "25" else ""


def clock_in_words(unit: str, simulated: bool) -> str:
    """Return such as "simulated ms": no axis of time without saying whose clock it is."""
    words = {"us": "microseconds", "ms": "milliseconds", "s": "seconds", "min": "minutes", "h": "hours"}[unit]
    return f"simulated {words}" if simulated else words


def kind_in_words(simulated: bool) -> str:
    """Return "simulated" or "measured"."""
    return "simulated" if simulated else "measured"
