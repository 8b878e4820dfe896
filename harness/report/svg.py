"""A figure as inline SVG: the page's ink, a text alternative, its numbers as CSV; nothing here knows of files.

Text takes the page's colour, so that a figure can be read on white, on black and on paper.
"""

from __future__ import annotations

import html
import io
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, NamedTuple, ParamSpec

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from harness.core.outside_text import visible
from harness.report.lettering import NAME_ROOM, any_script, text_width, wrapped
from harness.report.marks import keep_stop, mark_key, with_marks, without_marks
from harness.report.shades import Palette

INK = "#010203"
"""Stands for the page's text colour until the SVG is written; matplotlib knows no `currentColor`."""

PAPER = "#fdfeff"
"""Stands for the page's own colour, likewise."""

MARKERS = "os^DvPX*"
"""For device counts, ascending: they tell lines of one strategy apart."""

WIDTH_INCH = 4.6  # 331 units: on a phone of 390 px a unit is about a pixel, and text of 10 stays readable

POINTS_PER_INCH = 72

ROW_INCH = 0.46
"""Height of a named row: a line of text and a bar; chosen."""

LINE_ROWS = 0.33
"""Height of one more line of text, in rows."""

NOT_RANKED = ", not ranked"
"""Ends the label of what is drawn but in no comparison, where the column "ranked" says so."""

MOST_BARS = 24
MOST_MARKED = 16
MOST_LINES = 6
"""Points of one figure: as plain bars, with marks on a row each, as lines; chosen: of more nobody follows one."""

NARROW = 30.0
"""Ratio of its ends below which a logarithmic axis has hardly a decade to name, and names 2 and 5 too; chosen."""

CROWDED = 0.055
"""Share of an axis that two ticks are apart at least: their numbers would touch."""

DECADES = 10.0
"""Ratio of what is drawn above which an axis is logarithmic: on one from 0 the small would be specks; chosen."""

_STYLE = {
    **{key: INK for key in ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")},
    **{"font.size": 10, "axes.titlesize": 10, "legend.fontsize": 9, "legend.frameon": False},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.12},
    **{"svg.fonttype": "none", "svg.hashsalt": "harness", "hatch.linewidth": 0.8, "font.family": ["DejaVu Sans"]},
    **{"text.parse_math": False, "axes.axisbelow": True},
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))

PNG_DPI = 200
"""Dots per inch of a PNG: 920 across; chosen for slides."""


@dataclass(frozen=True)
class Drawing:
    """A figure as the page takes it.

    Attributes:
        caption: sentences that say what it shows.
        svg: the drawing, with its own text alternative.
        csv: what is drawn.
        file: name of a download, without its ending.
        stops: of its slider, in words; empty where it has none.
    """

    title: str
    caption: str
    svg: str
    csv: str
    file: str
    stops: tuple[str, ...] = ()

    @property
    def stop(self) -> int:
        """Where the slider stands at first."""
        return middle(self.stops)


@dataclass(frozen=True)
class Picture:
    """A figure as files: to stand by itself, in black on white.

    Attributes:
        words: its text alternative.
    """

    title: str
    caption: str
    words: str
    svg: str
    png: bytes
    csv: str


@dataclass(frozen=True)
class Panel:
    """A figure before it is drawn: what it shows and what is said of it; the page adds colours and ids.

    Attributes:
        title: in a few words.
        height_inch: without its legend; its width is the page's.
        draw: draws on axes, in the colours of the strategies.
        caption: sentences that say what it shows.
        details: every number, for those who do not see it.
        table: what is drawn.
        stops: of a slider, in words: marks that name a stop are seen there only.
    """

    title: str
    height_inch: float
    draw: Callable[[Axes, Palette], object]
    caption: str
    details: str
    table: pd.DataFrame
    stops: tuple[str, ...] = field(default=())

    def drawing(self, palette: Mapping[str, str], prefix: str) -> Drawing:
        """Draw it for the page.

        Args:
            palette: colour by strategy.
            prefix: starts the ids inside the SVG, which must be unique on a page.
        """
        with matplotlib.rc_context(_STYLE), any_script():
            body, box = _written(self._drawn(palette))
        body = _compact(_page_ids(with_marks(body, middle(self.stops)), prefix))
        body = body.replace(INK, "currentColor").replace(PAPER, "var(--paper)")
        svg = f'<svg role="img" aria-labelledby="{prefix}-title {prefix}-desc" viewBox="{box}">'
        svg += _alternative(self.title, f"{self.caption} {self.details}", prefix) + body
        return Drawing(self.title, self.caption, svg, self._csv, self.file, self.stops)

    def picture(self, palette: Mapping[str, str], clean: Callable[[str], str]) -> Picture:
        """Draw it for files.

        Args:
            palette: colour by strategy.
            clean: takes names of host and user out of what is written.
        """

        def shown(text: str) -> str:
            return visible(clean(text))

        with matplotlib.rc_context(_STYLE), any_script():
            figure = self._drawn(palette)
            figure.patch.set(visible=True, facecolor="white")
            keep_stop(figure, middle(self.stops))
            for text in figure.findobj(Text):
                text.set_text(shown(text.get_text()))
            body, box = _written(figure)
            png = io.BytesIO()
            figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
        title, caption, words = (shown(text) for text in (self.title, self.caption, f"{self.caption} {self.details}"))
        _, _, width, height = box.split()
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{width}pt" '
        svg += f'height="{height}pt" viewBox="{box}" role="img" aria-labelledby="title desc" '
        svg += 'font-family="DejaVu Sans,sans-serif">'
        svg += _alternative(title, words) + _compact(without_marks(body)) + "\n"
        return Picture(title, caption, words, svg, png.getvalue(), shown(self._csv))

    @property
    def file(self) -> str:
        """Name of a download, without its ending."""
        return re.sub(r"[^a-z0-9]+", "-", self.title.lower()).strip("-")[:60].rstrip("-") or "figure"

    @property
    def _csv(self) -> str:
        return str(self.table.to_csv(index=False, float_format="%.6g", lineterminator="\n"))

    def _drawn(self, palette: Mapping[str, str]) -> Figure:
        figure, axes = _new_figure(self.height_inch)
        self.draw(axes, palette if isinstance(palette, Palette) else Palette(palette))
        return figure


def middle(stops: Sequence[object]) -> int:
    """Return the stop in the middle."""
    return len(stops) // 2


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
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))  # none is of an offset or in 1e6
    return figure, axes


def _written(figure: Figure) -> tuple[str, str]:
    """Return what is inside a figure's SVG element, its end included, and the element's box; no comments, no links."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=_NO_METADATA)
    text = buffer.getvalue()
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    body = text[text.index(">", box.end()) + 1 :].strip()
    return re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.DOTALL), box[1]


def _page_ids(body: str, prefix: str) -> str:
    """Return a body whose ids are unique on a page; those that nothing refers to are left out."""
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", body)
    return body.replace("url(#", f"url(#{prefix}-").replace('xlink:href="#', f'href="#{prefix}-')


def _compact(body: str) -> str:
    """Return a body with hundredths of a unit and few blanks: more cannot be seen, and doubles the page.

    Numbers of the text stay as they are.
    """

    def tag(found: re.Match[str]) -> str:
        text = re.sub(r"(\d\.\d\d)\d+", r"\1", found[0])
        text = re.sub(r' d="([^"]*)"', lambda path: f' d="{_blanks(path[1])}"', text)
        return re.sub(r' style="([^"]*)"', lambda style: re.sub(r"([:;]) ", r"\1", style[0]), text)

    return re.sub(r">\s+<", "><", re.sub(r"<[^>]+>", tag, body))


def _blanks(path: str) -> str:
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", path.strip())


def _alternative(title: str, description: str, prefix: str = "") -> str:
    """Return what a figure is called and what it shows, for those who do not see it."""
    named, described = (f"{prefix}-{name}" if prefix else name for name in ("title", "desc"))
    words = f'<title id="{named}">{html.escape(title)}</title>'
    return f'{words}<desc id="{described}">{html.escape(description)}</desc>'


# -- lines -------------------------------------------------------------------------------------------------------------


class DrawnLine(NamedTuple):
    """The rows of one line of a figure, with the marker that tells it from others of its colour."""

    label: str
    strategy: str
    gpus: int
    marker: str
    rows: pd.DataFrame


def lines_of(frame: pd.DataFrame, column: str, *, in_turn: bool = False) -> list[DrawnLine]:
    """Return the lines of a frame: a marker for each device count, or for each line of a strategy in turn."""
    counts, seen, found = sorted(frame["gpus"].unique()), Counter[str](), []
    for label, rows in frame.groupby(column, sort=False):
        strategy, gpus = str(rows["strategy"].iloc[0]), int(rows["gpus"].iloc[0])
        place = seen[strategy] if in_turn else counts.index(gpus)
        seen[strategy] += 1
        found.append(DrawnLine(str(label), strategy, gpus, MARKERS[place % len(MARKERS)], rows))
    return found


def look(colour: str, simulated: bool) -> dict[str, Any]:
    """Return how a line with markers looks: what is measured is solid and filled, what is simulated broken, hollow."""
    face, line = ("none", "--") if simulated else (colour, "-")
    return {"color": colour, "markerfacecolor": face, "linestyle": line}


def legend_below(axes: Axes, handles: Sequence[Any] | None = None, ncols: int = 1, **how: Any) -> None:
    """Put the legend under the figure, which grows by it: beside it, it would take the width that the axes need.

    Args:
        axes: whose lines it names.
        handles: what it names; None for what was drawn with a label.
        ncols: columns at most; fewer where names are long, which are wrapped and never cut.
        how: as `Figure.legend` takes it.
    """
    known = axes.get_legend_handles_labels()
    handles = known[0] if handles is None else handles
    labels = how.pop("labels", None) or [handle.get_label() for handle in handles]
    size = how.setdefault("fontsize", 9)
    beside = size * (how.get("handlelength", 2) + 2.8)  # a handle, its padding, and the next column's space
    columns = next(n for n in range(max(1, min(ncols, len(labels))), 0, -1) if n == 1 or _fits(labels, n, size, beside))
    texts = [wrapped(label, size, NAME_ROOM - beside) for label in labels]
    figure = axes.get_figure(root=True)
    assert figure is not None, "axes belong to a figure"
    legend = figure.legend(handles=handles, labels=texts, loc="outside lower center", ncols=columns, **how)
    filled = _columns(texts, columns) if texts else []
    high = max((sum(1.25 * (1 + text.count("\n")) + 0.5 for text in column) for column in filled), default=0.0)
    figure.set_figheight(figure.get_figheight() + (high + 1.3) * size / POINTS_PER_INCH)
    for label, handle, text in zip(labels, legend.legend_handles, legend.get_texts(), strict=True):
        mark_key(text, label)
        if handle is not None:
            mark_key(handle, label)


def _columns(labels: Sequence[str], count: int) -> list[list[str]]:
    """Return what stands in each of so many columns, as matplotlib fills them."""
    return [list(part) for part in np.array_split(np.array(labels, dtype=object), count)]


def _fits(labels: Sequence[str], count: int, size: float, beside: float) -> bool:
    """Say whether a legend of so many columns is no wider than a figure."""
    widths = (max(text_width(label, size) for label in column) for column in _columns(labels, count))
    return sum(width + beside for width in widths) <= NAME_ROOM + size


def sample(axes: Axes, label: str, **how: Any) -> Any:
    """Return an entry of a legend in the page's ink: a line or marker that is drawn nowhere else."""
    return axes.plot([], [], label=label, **({"color": INK} | how))[0]


# -- axes --------------------------------------------------------------------------------------------------------------


class Rows(NamedTuple):
    """Rows that are named above themselves: beside them, a name would take the width that a bar needs on a phone.

    Attributes:
        texts: their names, wrapped.
        places: of the rows on the y-axis.
        height_inch: of all of them.
    """

    texts: list[str]
    places: list[float]
    height_inch: float

    def name(self, axes: Axes) -> None:
        """Write the names, and leave out the y-axis."""
        for place, text in zip(self.places, self.texts, strict=True):
            write(axes, place - 0.27, text)
        axes.set_ylim(self.places[-1] + 0.4, -0.75)
        hide_y(axes)


def rows_of(words: Iterable[str], room: float = NAME_ROOM) -> Rows:
    """Return a row for each name, as high as its name is long.

    Args:
        words: names, at least one.
        room: points that a line of them may take.
    """
    texts, places, below = [wrapped(text, room=room) for text in words], [], -1.0
    for text in texts:
        below += 1 + LINE_ROWS * text.count("\n")
        places.append(below)
    return Rows(texts, places, ROW_INCH * (below + 1))


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


def spans_decades(values: Iterable[float], ratio: float = DECADES) -> bool:
    """Say whether values are so far apart that a linear axis would show the largest only."""
    known = [value for value in values if 0 < value < math.inf]
    return bool(known) and max(known) > ratio * min(known)


def from_zero_or_log(axes: Axes, values: Iterable[float], ratio: float = DECADES) -> None:
    """Let the x-axis begin at 0, or make it logarithmic where what it shows spans decades."""
    if spans_decades(values, ratio):
        axes.set_xscale("log")
        plain_numbers(axes.xaxis)
    else:
        axes.set_xlim(0, None)


def ticks_at(axis: Axis, values: Sequence[float]) -> None:
    """Put the ticks of a logarithmic axis at some values, leaving out those whose numbers would touch."""
    kept = sorted(values)[:1]
    least = (values[-1] / values[0]) ** CROWDED if values else 1.0
    for value in sorted(values)[1:]:
        if value >= kept[-1] * least:
            kept.append(value)
    axis.set_major_locator(FixedLocator(kept))
    axis.set_minor_locator(NullLocator())


def plain_numbers(axis: Axis) -> None:
    """Write the ticks of a logarithmic axis as plain text: mathematical type would need another font."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.7g}"))
    low, high = axis.get_view_interval()
    narrow = high < NARROW * low
    axis.set_minor_formatter(FuncFormatter(_two_or_five) if narrow else NullFormatter())


def _two_or_five(value: float, _: object) -> str:
    return f"{value:,.7g}" if f"{value:e}"[0] in "25" else ""


def clock_in_words(unit: str, simulated: bool) -> str:
    """Return such as "simulated ms": no axis of time without saying whose clock it is."""
    words = {"us": "microseconds", "ms": "milliseconds", "s": "seconds", "min": "minutes", "h": "hours"}[unit]
    return f"simulated {words}" if simulated else words


def kind_in_words(simulated: bool) -> str:
    """Return "simulated" or "measured"."""
    return "simulated" if simulated else "measured"
