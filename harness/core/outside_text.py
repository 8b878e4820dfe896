"""Text from outside (exceptions, notes, names, logs, records of others): bounded where kept, visible where shown."""

from __future__ import annotations

import re
from typing import Any

from harness.core.errors import MOST_CHARACTERS
from harness.core.words import shortened

_SURROGATE = re.compile("[\ud800-\udfff]")

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Controls of terminals but tab and new line, of the direction of writing, and what no encoding can write."""


def visible(text: str) -> str:
    """Return a text in which nothing steers a terminal or a page: control characters stand as what they are."""
    return _UNSEEN.sub(_picture, text) if _UNSEEN.search(text) else text


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)  # Unicode's control pictures, in the same order
    return "\u2421" if code == 0x7F else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def bounded(value: Any) -> Any:
    """Return JSON whose texts can be encoded and have at most `MOST_CHARACTERS`, each with the length that was cut."""
    if isinstance(value, str):
        if value.isascii() and len(value) <= MOST_CHARACTERS:
            return value
        # Shown as Python writes them: a file's name in bytes that are no UTF-8, or text cut in the middle of a pair.
        clean = _SURROGATE.sub(_picture, value)
        return value if clean == value and len(clean) <= MOST_CHARACTERS else shortened(clean, MOST_CHARACTERS)
    if isinstance(value, dict):
        return {bounded(key): bounded(item) for key, item in value.items()}
    return [bounded(item) for item in value] if isinstance(value, (list, tuple)) else value
