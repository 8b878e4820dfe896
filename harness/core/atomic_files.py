"""The one way in which a file is written: beside its name first, so that nobody ever reads half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; rename it onto `path` when all went well, delete it otherwise.

    A reader sees the old file or the new one. The folder is made where it is missing; all may read the file.

    Raises:
        OSError: the folder cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)  # mkstemp lets nobody else read it
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, text: str) -> None:
    """Write a text such that a reader sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
