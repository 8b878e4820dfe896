"""What a reader may point at: every mark of a figure knows its series and its name, and every legend entry its series.

Matplotlib knows no such thing, but writes an artist's id into the SVG: the id carries them until the SVG is written.
"""

from __future__ import annotations

import html
import json
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

_MARK, _KEY = "mark:", "key:"

SETTINGS = {
    "global_batch_size": ("global batch", "global batches"),
    "learning_rate": ("learning rate", "learning rates"),
    "seed": ("seed", "seeds"),
}
"""Columns that tell the cells of a point apart, with their name in singular and plural."""


class Mark(NamedTuple):
    """What is known of something drawn.

    Attributes:
        series: label of the legend's entry that it belongs to; "" where none does.
        name: what is shown of it when a reader points at it.
        stop: of the slider at which it is seen; None where it always is.
    """

    series: str = ""
    name: str = ""
    stop: int | None = None


def mark(artist: Artist, series: str = "", name: str = "", stop: int | None = None) -> None:
    """Say what an artist shows."""
    artist.set_gid(_MARK + _written(Mark(series, name, stop)))


def mark_key(artist: Artist, series: str) -> None:
    """Say of which series an artist of the legend is."""
    artist.set_gid(_KEY + _written(series))


def keep_stop(figure: Figure, stop: int) -> None:
    """Hide what is seen at another stop of the slider: a picture has none."""
    for artist in figure.findobj(match=_is_marked):
        found = _mark(str(artist.get_gid()).removeprefix(_MARK))
        if found.stop not in (None, stop):
            artist.set_visible(False)


def _written(what: Mark | str) -> str:
    """Return as an id what holds no character that XML has a use for."""
    return quote(json.dumps(what), safe="")


def _mark(text: str) -> Mark:
    return Mark(*json.loads(unquote(text)))


def _is_marked(artist: Artist) -> bool:
    return str(artist.get_gid() or "").startswith(_MARK)


def without_marks(body: str) -> str:
    """Return an SVG's body for a file of its own: what only a page makes use of is left out."""
    return re.sub(rf' id="(?:{_MARK}|{_KEY})[^"]*"', "", body)


def with_marks(body: str, stop: int) -> str:
    """Return an SVG's body with attributes for the page's script in place of the ids that carried them.

    A mark becomes `<g class="m" data-s="SERIES" data-f="STOP">` with its name as its title, which is shown without a
    script too; an entry of the legend becomes `<g data-k="SERIES">` where its series has marks.

    Args:
        body: as matplotlib wrote it.
        stop: of the slider at which the page begins.
    """
    numbers: dict[str, int] = {}

    def open_mark(found: re.Match[str]) -> str:
        known = _mark(found[1])
        series = f' data-s="{numbers.setdefault(known.series, len(numbers))}"' if known.series else ""
        at = "" if known.stop is None else f' data-f="{known.stop}"' + ' display="none"' * (known.stop != stop)
        title = f"<title>{html.escape(known.name)}</title>" if known.name else ""
        return f'<g class="m"{series}{at}>{title}'

    def open_key(found: re.Match[str]) -> str:
        number = numbers.get(json.loads(unquote(found[1])))
        return "<g>" if number is None else f'<g data-k="{number}">'

    body = re.sub(rf'<g id="{_MARK}([^"]*)">', open_mark, body)
    return re.sub(rf'<g id="{_KEY}([^"]*)">', open_key, body)


def name_cells(label: str, cells: pd.DataFrame) -> str:
    """Name the cells that a mark stands for: what they have in common, and which batches, rates and seeds they had.

    Args:
        label: of all of them.
        cells: columns of `SETTINGS`, of which any may be missing.
    """
    parts = [label]
    for column, (one, several) in SETTINGS.items():
        values = sorted(cells[column].dropna().unique()) if column in cells.columns else []
        if values and one not in label:
            parts.append(f"{one} {values[0]:g}" if len(values) == 1 else f"{several} {values[0]:g} to {values[-1]:g}")
    return ", ".join(parts)
