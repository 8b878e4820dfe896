"""How long names are in a figure, and how they are broken into lines: none is cut."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

from harness.core.outside_text import visible

NAME_ROOM = 300.0
"""Points of a figure's width that text may take: the rest is margins."""

MOST_NAME_LINES = 5
"""Lines of a name; chosen: nothing that tells cells apart is longer. Then its middle is left out, not its end, in which
names differ."""


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a line of text in points, in the font of a figure: those of browsers are hardly wider."""
    font = FontProperties(family=["DejaVu Sans"], size=size)
    with any_script():
        return float(text_to_path.get_text_width_height_descent(text, font, False)[0])


@contextmanager
def any_script() -> Iterator[None]:
    """Draw and measure without a word of characters that the font lacks: browsers find others.

    Matplotlib's warning would take them to the terminal as they are, control characters among them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+", UserWarning)
        yield


def wrapped(text: str, size: float = 9, room: float = NAME_ROOM) -> str:
    """Return a text in as many lines as it takes: broken at blanks and hyphens, within a word only where it must be.

    Args:
        text: to be written in a figure.
        size: of the font.
        room: points that a line may take.
    """
    lines, line = [], ""
    text = visible(" ".join(text.split()))  # a line that a name breaks itself would not be counted
    for piece in (part for word in re.findall(r"[^\s-]*-+|\S+|\s+", text) for part in _pieces(word, size, room)):
        if line and text_width((line + piece).rstrip(), size) > room:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    lines.append(line.rstrip())
    if len(lines) > MOST_NAME_LINES:
        lines = [*lines[: MOST_NAME_LINES - 2], "\N{HORIZONTAL ELLIPSIS}", lines[-1]]
    return "\n".join(lines)


def _pieces(word: str, size: float, room: float) -> list[str]:
    """Cut a word that no line holds."""
    most = max(1, int(room / text_width("m", size)))
    return [word] if text_width(word[: 4 * most], size) <= room else re.findall(f".{{1,{most}}}", word)
