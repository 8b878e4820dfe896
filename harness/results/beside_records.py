"""JSON in a results folder, which may be a stranger's: bounded, with texts that can be shown, and no link out of it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from harness.core.outside_files import parsed_json, read_outside
from harness.core.outside_text import bounded
from harness.core.records import Json


def leads_out(path: Path, folder: Path) -> bool:
    """Say whether a link leads from a path out of a folder, or nowhere."""
    inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
    return not inside or (path.is_symlink() and not os.path.exists(path))


def read_beside(path: Path, folder: Path) -> Json:
    """Return the object that a file in a results folder holds, its texts bounded.

    Raises:
        FileNotFoundError: it is not there.
        OSError: it cannot be read, is no file or too large, or a link leads out of the folder; `strerror` says which.
        ValueError: it is no JSON that anything we know can hold.
    """
    if leads_out(path, folder):
        raise OSError(errno.ELOOP, "a link leads out of the results folder; remove it", str(path))
    content = parsed_json(read_outside(path))
    if not isinstance(content, dict):
        raise ValueError("it holds no object")
    read: Json = bounded(content)
    return read
