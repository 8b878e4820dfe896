"""Which line of a TOML text does a key stand on? `tomllib` does not say.

The text has been accepted by `tomllib` before, so this reader only has to find where keys and values begin and end.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the document."""

_SPACE = re.compile(r"[ \t]*")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = re.compile(r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'""")
_STRING = re.compile(
    r'''"""(?:[^\\]|\\.)*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:[^"\\\n]|\\.)*"|\'[^\'\n]*\'''',
    re.DOTALL,
)
_BARE = re.compile(r"[^,\]}#\n]+")


def line_numbers(text: str) -> dict[Path, int]:
    """Return the line, from 1, of every key and list element in a valid TOML text."""
    return _Reader(text).read()


def line_of(lines: dict[Path, int], path: Sequence[str | int]) -> int | None:
    """Return the line of `path`, or of the nearest table around it; None where not even that is written."""
    for length in range(len(path), 0, -1):
        if tuple(path[:length]) in lines:
            return lines[tuple(path[:length])]
    return None


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.counted_to, self.line_there = 0, 1
        self.lines: dict[Path, int] = {}
        self.tables_seen: dict[Path, int] = {}

    def read(self) -> dict[Path, int]:
        table: Path = ()
        self.skip(_BLANK)
        while self.at < len(self.text):
            table = self.header() if self.text[self.at] == "[" else self.pair(table)
            self.skip(_BLANK)
        return self.lines

    def header(self) -> Path:
        line = self.line()
        repeated = self.text.startswith("[[", self.at)
        self.at += 2 if repeated else 1
        path = self.inside_last(self.key())
        self.at += 2 if repeated else 1
        if repeated:
            number = self.tables_seen.get(path, -1) + 1
            self.tables_seen[path] = number
            self.mark(path, line)
            path = (*path, number)
        self.mark(path, line)
        return path

    def inside_last(self, path: Path) -> Path:
        """Return `path` with the number of the last `[[table]]` put behind each repeated table it passes through."""
        full: Path = ()
        for key in path[:-1]:
            full = (*full, key)
            if full in self.tables_seen:
                full = (*full, self.tables_seen[full])
        return (*full, path[-1])

    def pair(self, table: Path) -> Path:
        line = self.line()
        path = (*table, *self.key())
        for length in range(len(table) + 1, len(path) + 1):
            self.mark(path[:length], line)
        self.at += 1  # the "="
        self.skip(_SPACE)
        self.value(path)
        return table

    def key(self) -> Path:
        parts: list[str | int] = []
        while True:
            self.skip(_SPACE)
            part = self.skip(_KEY)
            parts.append(part if part[0] not in "\"'" else str(tomllib.loads(f"k = {part}")["k"]))
            self.skip(_SPACE)
            if self.text[self.at] != ".":
                return tuple(parts)
            self.at += 1

    def value(self, path: Path) -> None:
        first = self.text[self.at]
        if first == "[":
            self.items(path)
        elif first == "{":
            self.inline_table(path)
        else:
            self.skip(_STRING if first in "\"'" else _BARE)

    def items(self, path: Path) -> None:
        number = 0
        self.next_item()
        while self.text[self.at] != "]":
            self.mark((*path, number), self.line())
            self.value((*path, number))
            number += 1
            self.skip(_BLANK)
            if self.text[self.at] == ",":
                self.next_item()
        self.at += 1

    def inline_table(self, path: Path) -> None:
        self.next_item()
        while self.text[self.at] != "}":
            self.pair(path)
            self.skip(_BLANK)
            if self.text[self.at] == ",":
                self.next_item()
        self.at += 1

    def next_item(self) -> None:
        self.at += 1
        self.skip(_BLANK)

    def skip(self, pattern: re.Pattern[str]) -> str:
        match = pattern.match(self.text, self.at)
        if match is None:
            return ""
        self.at = match.end()
        return match.group()

    def line(self) -> int:
        """Return the line that the reader stands on; it only goes forward, so that no part is counted twice."""
        self.line_there += self.text.count("\n", self.counted_to, self.at)
        self.counted_to = self.at
        return self.line_there

    def mark(self, path: Path, line: int) -> None:
        self.lines.setdefault(path, line)
