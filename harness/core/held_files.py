"""The user's own files as they were first read: what was hashed is what runs, however long that takes.

A command holds every file that it reads here, and gives them to the processes of its cells. An edit made meanwhile
counts for the next command.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from harness.core.outside_files import read_outside

_held: dict[str, bytes] | None = None


@contextmanager
def holding() -> Iterator[None]:
    """Let every file that is read inside stay as it was at its first reading; inside another `holding`, as there."""
    global _held
    outer = _held
    _held = {} if outer is None else outer
    try:
        yield
    finally:
        _held = outer


def give(files: Mapping[str, bytes]) -> None:
    """Hold these files from now on, and every other one from its first reading on: for a process of a cell."""
    global _held
    _held = dict(files)


@contextmanager
def only_these(files: Mapping[str, bytes]) -> Iterator[None]:
    """Hold these files, and every other one from its first reading on, while inside; outside, what was held before."""
    global _held
    outer = _held
    _held = dict(files)
    try:
        yield
    finally:
        _held = outer


def read_held(path: Path) -> bytes:
    """Return what a file contains, or contained when it was first read where files are held.

    Raises:
        OSError: it cannot be read.
    """
    place = str(path.resolve())
    if _held is not None and place in _held:
        return _held[place]
    content = read_outside(path)
    if _held is not None:
        _held[place] = content
    return content


def contents(paths: Iterable[Path]) -> dict[str, bytes]:
    """Return what these files contain, by their resolved paths: what another process is given.

    Raises:
        OSError: one cannot be read.
    """
    return {str(path.resolve()): read_held(path) for path in paths}
