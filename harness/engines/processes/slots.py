"""Memory that processes share, in files without a name: nothing is left behind however a process ends."""

from __future__ import annotations

import os
import tempfile
from multiprocessing import reduction
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Detachable(Protocol):
    """What a `Descriptor` has become in the process that it was handed to."""

    def detach(self) -> int:
        """Return the descriptor, which is then the caller's."""
        ...


class Descriptor:
    """A file descriptor that is duplicated into the child when its process starts; there it has to be detached."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __reduce__(self) -> Any:
        return _rebuild, (reduction.DupFd(self._descriptor),)


def _rebuild(duplicate: object) -> object:
    return duplicate


def make_slot_file() -> int:
    """Return the descriptor of an unnamed file, in memory where the system has a place for that."""
    folder = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryFile(dir=folder) as file:
        return os.dup(file.fileno())
