"""How long names are in a figure, and how they are broken into lines: none is cut."""

from __future__ import annotations

import re
from functools import lru_cache

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

NAME_ROOM = 300.0
"""Points of a figure's width that text may take: the rest is margins."""

MOST_NAME_LINES = 5
"""Lines of a name; chosen: nothing that tells cells apart is longer. Then its middle is left out, not its end, in which
names differ."""


@lru_cache(maxsize=4096)
def text_width(text: str, size: float) -> float:
    """Return the width of a line of text in points, in the font of a figure: those of browsers are hardly wider."""
    width, _, _ = text_to_path.get_text_width_height_descent(
        text, FontProperties(family=["DejaVu Sans"], size=size), False
    )
    return float(width)


def wrapped(text: str, size: float = 9, room: float = NAME_ROOM) -> str:
    """Return a text in as many lines as it takes: broken at blanks and hyphens, within a word only where it must be.

    Args:
        text: to be written in a figure.
        size: of the font.
        room: points that a line may take.
    """
    lines, line = [], ""
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
