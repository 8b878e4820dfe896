"""Reports are passed on: the names of the machine and of its user are left out of them."""

from __future__ import annotations

import re
import socket
from functools import cache
from pathlib import Path
from typing import Any

TELLING = re.compile(r"[\d.-]")
"""What a host's name must hold to be looked for: "server" and "gpu" are words of the page."""


def anonymous(value: Any) -> Any:
    """Return a text with the home folder as "~" and this host as "this-host"; anything else as it is.

    Where a path or a message of the system was recorded, it may hold both.
    """
    if not isinstance(value, str):
        return value
    pattern = _names()
    # A subclass of str, such as text that is markup already, stays what it is.
    return type(value)(pattern.sub(_stands_for, value)) if pattern.search(value) else value


def _stands_for(found: re.Match[str]) -> str:
    return "~" if found["home"] else "this-host"


@cache
def _names() -> re.Pattern[str]:
    home, host = re.escape(str(Path.home()).rstrip("/")), re.escape(socket.gethostname())
    # Of a folder the whole name only: /home/ann is no part of /home/anna.
    words = [rf"(?P<home>{home}(?![\w.-]))" if home else "(?P<home>(?!))"]
    words += [rf"(?<![\w.-]){host}(?![\w-])"] if TELLING.search(socket.gethostname()) else []
    return re.compile("|".join(words))
