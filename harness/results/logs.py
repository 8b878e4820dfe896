"""Logs of cells: how much of one is kept, and how much is read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from harness.core.atomic_files import atomic
from harness.core.outside_files import open_outside

MOST_LOG_BYTES = 2 * 2**20
"""Of a cell's log; chosen: some 20,000 lines, more than anybody reads, and the space of a thousand cells is 2 GB."""


def bound_log(path: Path) -> None:
    """Keep beginning and end of a log that is too long, and say how much was cut between them.

    Raises:
        OSError: it cannot be read or written.
    """
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return
    if size <= MOST_LOG_BYTES:
        return
    half = MOST_LOG_BYTES // 2
    with path.open("rb") as log, atomic(path) as temporary, temporary.open("wb") as kept:
        kept.write(log.read(half))
        kept.write(f"\n... {size - 2 * half:,} bytes were cut here ...\n".encode())
        log.seek(-half, os.SEEK_END)
        shutil.copyfileobj(log, kept)


def read_log(path: Path, most_bytes: int = 2 * MOST_LOG_BYTES) -> str:
    """Return the end of a log; a log of before, or a stranger's, may be of any length.

    Raises:
        OSError: it cannot be read, or is no file.
    """
    with open_outside(path) as log:
        size = os.fstat(log.fileno()).st_size
        if size > most_bytes:
            log.seek(-most_bytes, os.SEEK_END)
        text = log.read(most_bytes).decode(errors="replace")
    return f"... {size - most_bytes:,} bytes before ...\n{text}" if size > most_bytes else text
