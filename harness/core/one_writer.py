"""One folder, one writer: a lock that names its holder, and that the death of its holder releases.

Several that write together on purpose (`core/leases.py`) share it, so that nobody is alone there meanwhile.
"""

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
def sole_writer(
    folder: Path, *, wait: bool = False, join: bool = False, say: Callable[[str], object]
) -> Iterator[Callable[[], None]]:
    """Hold a folder's lock, and sweep what dead writers left in it.

    The system keeps the lock as long as this process lives, however it ends; the processes that it starts do not
    inherit it, because the descriptor is closed when they are executed.

    Args:
        folder: made where it is missing.
        wait: until the holder is done, instead of refusing.
        join: hold it together with others that join.
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
        _take(descriptor, path, wait, join, say)
        _sign(descriptor, join)
        sweep_dead(folder)
        yield lambda: _refuse_another(descriptor, path)
    finally:
        with contextlib.suppress(OSError):
            if not join:  # what those who share it have written is the same of all
                os.ftruncate(descriptor, 0)
        os.close(descriptor)


def _take(descriptor: int, path: Path, wait: bool, join: bool, say: Callable[[str], object]) -> None:
    told = False
    while True:
        try:
            return fcntl.flock(descriptor, (fcntl.LOCK_SH if join else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            holder, joins = _holder(descriptor)
            if not wait:
                alone, how = (" alone", "start it with --join too, ") if join else ("", "")
                how = "join them (harness run --join), " if joins else how
                raise MachineError(
                    f"{path.parent}: {holder} writes here{alone}; {how}wait until it is done (harness run --wait), or "
                    "use another folder (--results)"
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


def _sign(descriptor: int, join: bool) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    alone = {"host": socket.gethostname(), "process": os.getpid(), "since": since}
    content = (json.dumps({"joins": True} if join else alone) + "\n").encode()
    if not join:
        os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content, 0)
    os.ftruncate(descriptor, len(content))


def _holder(descriptor: int) -> tuple[str, bool]:
    """Word who holds a lock, and say whether others may join.

    In the moment before a holder has signed, or after it has let go, nobody is named.
    """
    try:
        content = parsed_json(os.pread(descriptor, _MOST_BYTES, 0))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        return "another harness", False
    if content.get("joins"):
        return "a group of harnesses (--join)", True
    host, process, since = (str(content.get(key, "?"))[:100] for key in ("host", "process", "since"))
    return f"another harness (process {process} on {host}, since {since})", False


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
