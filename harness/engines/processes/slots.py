"""Memory that processes share, in files without a name: nothing is left behind however a process ends."""

from __future__ import annotations

import os
import tempfile


def make_slot_file() -> int:
    """Return the descriptor of an unnamed file, in memory where the system has a place for that."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())
