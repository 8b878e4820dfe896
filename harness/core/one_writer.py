"""One folder, one writer: a lock that names its holder, and that the death of its holder releases."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from harness.core.atomic_files import sweep_dead
from harness.core.errors import MachineError
from harness.core.outside_files import parsed_json

LOCK_NAME = ".lock"
"""Of the file in the folder. It stays when its holder goes: deleting it would let two hold one name."""

POLL_S = 0.2
"""Between two looks at a lock that is waited for; chosen: nobody notices it, and it costs nothing."""

_CANNOT_LOCK = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_MOST_BYTES = 4096


@contextmanager
def sole_writer(folder: Path, *, wait: bool = False, say: Callable[[str], object]) -> Iterator[Callable[[], None]]:
    """Hold a folder's lock, and sweep what dead writers left in it.

    The system keeps the lock as long as this process lives, however it ends; the processes that it starts do not
    inherit it, because the descriptor is closed when they are executed.

    Args:
        folder: made where it is missing.
        wait: until the holder is done, instead of refusing.
        say: hears what the user should know.

    Yields:
        A function that raises a MachineError where the folder has gone, or is another one than was locked.

    Raises:
        MachineError: another process holds it.
        OSError: the folder cannot be written to.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = folder / LOCK_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        _take(descriptor, path, wait, say)
        _sign(descriptor)
        sweep_dead(folder)
        yield lambda: _refuse_another(descriptor, path)
    finally:
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(descriptor: int, path: Path, wait: bool, say: Callable[[str], object]) -> None:
    told = False
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(descriptor)
            if not wait:
                raise MachineError(
                    f"{path.parent}: {holder} writes here; wait until it is done (harness run --wait), or use another "
                    "folder (--results)"
                ) from None
            if not told:
                say(f"waiting: {holder} writes to {path.parent}")
                told = True
            time.sleep(POLL_S)
        except OSError as error:
            if error.errno not in _CANNOT_LOCK:
                raise
            say(f"note: the file system of {path.parent} cannot lock: let no second harness write there")
            return


def _sign(descriptor: int) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    content = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, (json.dumps(content) + "\n").encode(), 0)


def _holder(descriptor: int) -> str:
    """Word who holds a lock; in the moment before it has signed, or after it has let go, nobody is named."""
    try:
        content = parsed_json(os.pread(descriptor, _MOST_BYTES, 0))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return "another harness"
    host, process, since = (str(content.get(key, "?"))[:100] for key in ("host", "process", "since"))
    return f"another harness (process {process} on {host}, since {since})"


def _refuse_another(descriptor: int, path: Path) -> None:
    try:
        there = os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        there = False
    if not there:
        raise MachineError(
            f"{path.parent}: the folder was moved, deleted or replaced while this run wrote to it; what was finished "
            "is where it went. Run the command again to start anew here"
        )
