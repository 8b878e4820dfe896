"""Which cells are being measured on this machine's CPU: two runs at once disturb each other, and each is to know."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.core.cache import folder

_MOST_BYTES = 2**16
"""Of signatures that are read; chosen: some three thousand cells of others during one."""


@contextmanager
def measuring_here() -> Iterator[Callable[[], int | None]]:
    """Be known, while inside, as a run that measures on this machine's CPU.

    Each run has a locked file in the cache, and signs those of all others that it finds: who came first learns of who
    came later from the signatures in its own. The system gives a lock back when its process ends, however it ends, so
    that files of the dead are known, and deleted. Other users, and other containers, are seen as load only.

    Yields:
        A function that returns how many other cells were measured meanwhile; None where the cache cannot be used.
    """
    place = folder() / "measuring" / socket.gethostname().replace("/", "_")
    name = f"{os.getpid()}-{secrets.token_hex(4)}"
    try:
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = _locked(place, name)
    except OSError:
        yield lambda: None
        return
    try:
        met = {path.name for path in place.iterdir() if not path.name.startswith((".", name)) and _sign(path, name)}
        yield lambda: len(met.union(os.pread(descriptor, _MOST_BYTES, 0).decode(errors="replace").split()))
    finally:
        with contextlib.suppress(OSError):
            (place / name).unlink()
        os.close(descriptor)


def _locked(place: Path, name: str) -> int:
    """Return the descriptor of a new file, locked before others see it: what they find unlocked is of the dead.

    Raises:
        OSError: it cannot be made, or not locked.
    """
    made = place / f".{name}"
    descriptor = os.open(made, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        made.rename(place / name)
    except OSError:
        os.close(descriptor)
        made.unlink(missing_ok=True)
        raise
    return descriptor


def _sign(path: Path, name: str) -> bool:
    """Sign the file of another run and answer whether it lives; delete it where it does not."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    with contextlib.suppress(OSError):  # it has ended meanwhile
        descriptor = os.open(path, flags)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared, since others may try it too
            path.unlink(missing_ok=True)
        except BlockingIOError:
            os.write(descriptor, f"{name}\n".encode())
            return True
        finally:
            os.close(descriptor)
    return False
