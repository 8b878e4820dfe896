"""Files that others made: read only where each is a file, of a size that can be meant, with numbers that fit."""

from __future__ import annotations

import csv
import errno
import io
import json
import math
import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

MOST_BYTES = 256 * 2**20
"""Of a file that is read whole; chosen: a thousand times the largest record or table of times that we have seen."""

DEEPEST = 64
"""Tables and lists inside each other; chosen: what we write has ten, and Python's own limit is near a thousand."""

_NO_FILE = "it is a device, a pipe or a socket, not a file"

LARGEST_WHOLE = 2**63 - 1
"""Whole numbers of TOML, of tables and of every library below us have 64 bits.

Source: TOML v1.0.0, section "Integer".
"""


def open_outside(path: Path) -> BinaryIO:
    """Open a file to read it, without waiting: a pipe is not opened for its writer.

    Raises:
        OSError: it cannot be read, or is a folder, a device, a pipe or a socket; `strerror` says which.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except ValueError:
        raise OSError(errno.EINVAL, "no path contains the character NUL", str(path)) from None
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fdopen(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, _NO_FILE, str(path))


def read_outside(path: Path, most_bytes: int = MOST_BYTES) -> bytes:
    """Return what a file holds; of what grows for ever only so much is read.

    Raises:
        OSError: it cannot be read, is no file, or holds too much; `strerror` says which.
    """
    with open_outside(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            _too_large(path, f"{size:,} bytes", most_bytes)
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        _too_large(path, "no end", most_bytes)
    return content


def refuse_no_file(path: Path) -> None:
    """Refuse what is there and is no file, before somebody reads it who would wait for its end.

    Raises:
        OSError: it is a device, a pipe or a socket, or cannot be looked at.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise OSError(errno.EINVAL, _NO_FILE, str(path))


def _too_large(path: Path, size: str, most_bytes: int) -> NoReturn:
    raise OSError(errno.EFBIG, f"it has {size}, and at most {most_bytes:,} are read", str(path))


def parsed_json(content: bytes | str) -> object:
    """Return what JSON holds.

    Raises:
        ValueError: it is no JSON, is nested deeper than `DEEPEST`, or holds a number of more than 64 bits.
    """
    try:
        value: object = json.loads(content, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise ValueError(f"it is nested more than {DEEPEST} deep") from None
    if refused := refusal(value):
        raise ValueError(f"{'.'.join(map(str, refused.path))}: {refused.why}")
    return value


def _finite(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits[:40])


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


class Refused(NamedTuple):
    """A value that nothing we know can hold."""

    path: tuple[str | int, ...]
    why: str
    got: object = None


def refusal(value: object, most_characters: int | None = None) -> Refused | None:
    """Return the first value, outermost first, that nothing can hold; None where all is well.

    Args:
        value: tables, lists and plain values, as JSON or TOML gives them.
        most_characters: of one text; None: as many as there are.
    """
    if _is_plain(value, DEEPEST - 1, most_characters):
        return None  # of most files: where a value is wrong, the slow way finds which
    level: list[tuple[tuple[str | int, ...], object]] = [((), value)]
    for _ in range(DEEPEST):
        for path, item in level:
            if why := _why_not(item, most_characters):
                return Refused(path, why, item)
        level = [inner for path, item in level for inner in _inside(path, item)]
        if not level:
            return None
    return Refused(level[0][0][:1], f"nested more than {DEEPEST} deep")


def _is_plain(value: object, deep: int, most_characters: int | None) -> bool:
    """Whether something can hold a value, and all in it, nested so deep at most."""
    if isinstance(value, str):
        return "\0" not in value and (most_characters is None or len(value) <= most_characters)
    if isinstance(value, (dict, list)):
        if not deep:
            return not value
        inner = value if isinstance(value, list) else [*value, *value.values()]
        return all(
            item is None or item.__class__ is float or _is_plain(item, deep - 1, most_characters) for item in inner
        )
    return not isinstance(value, int) or -LARGEST_WHOLE <= value <= LARGEST_WHOLE


def _why_not(item: object, most_characters: int | None) -> str:
    if isinstance(item, int) and not -LARGEST_WHOLE <= item <= LARGEST_WHOLE:
        return f"a whole number of at most {LARGEST_WHOLE:,}, which is what 64 bits hold"
    if not isinstance(item, str):
        return ""
    if most_characters is not None and len(item) > most_characters:
        return f"text of at most {most_characters:,} characters"
    return "text without the character NUL, which no name or path can contain" if "\0" in item else ""


def _inside(path: tuple[str | int, ...], item: object) -> list[tuple[tuple[str | int, ...], object]]:
    if isinstance(item, dict):
        keys = [((*path, key), key) for key in item]
        return [*keys, *(((*path, key), inner) for key, inner in item.items())]
    return [((*path, place), inner) for place, inner in enumerate(item)] if isinstance(item, list) else []


def csv_rows(content: bytes) -> list[dict[str, str]]:
    """Return the rows of a CSV by the columns of its head; fields that a short row lacks are empty.

    Raises:
        ValueError: it is not UTF-8 text, or a row is none; the message says which.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8 text") from None
    if "\0" in text:
        raise ValueError("it contains the character NUL")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        head = next(reader, [])
        rows = []
        for fields in filter(None, reader):
            if len(fields) > len(head):
                raise ValueError(f"line {reader.line_num}: {len(fields)} fields, and the head names {len(head)}")
            rows.append(dict(zip(head, fields + [""] * (len(head) - len(fields)), strict=True)))
    except csv.Error as error:
        raise ValueError(f"line {reader.line_num}: {error}") from None
    if len(set(head)) < len(head):
        raise ValueError("two of its columns have the same name")
    return rows
