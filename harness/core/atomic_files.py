"""The one way in which a file is written: beside its name first, so that nobody ever reads half of one."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PRIVATE, FOR_ALL = 0o600, 0o666
"""Who may read a file: its user alone, or whoever the user's umask lets."""

_TEMPORARY = re.compile(r"\..+\.harness-(?P<host>[^/]*)-(?P<pid>[0-9]+)-[^/]*")

_FIRST_PROCESSES = 0xEFFFFFFC
"""Number of the namespace of processes that a machine starts with.

Source: Linux, include/linux/proc_ns.h, PROC_PID_INIT_INO.
"""


@contextmanager
def atomic(path: Path, mode: int = PRIVATE) -> Iterator[Path]:
    """Hand out a temporary path beside `path`; rename it onto `path` when all went well, delete it otherwise.

    A reader sees the old file or the new one, after a power cut too. The folder is made where it is missing.

    Args:
        path: where the file will be; a link there is replaced, not followed.
        mode: `PRIVATE` or `FOR_ALL`.

    Raises:
        OSError: the folder cannot be written to, or what lies there is no file; it names the file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if mode == PRIVATE else 0o777)
        _refuse_to_replace(path)
        name = f".{path.name[:100]}.harness-{host_name()}-{os.getpid()}-"
        descriptor, made = tempfile.mkstemp(dir=path.parent, prefix=name)
    except OSError as error:
        raise _named(error, path) from error
    temporary = Path(made)
    try:
        try:
            yield temporary
            os.fchmod(descriptor, mode & ~_umask())
            _to_disk(temporary)
            temporary.replace(path)
            _to_disk(path.parent)
        finally:
            os.close(descriptor)
    except BaseException as error:
        with contextlib.suppress(OSError):  # the folder may be gone
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename in (None, made):
            raise _named(error, path) from error
        raise


def write_atomically(path: Path, text: str, mode: int = PRIVATE) -> None:
    """Write a text such that a reader sees the old file or the new one.

    Raises:
        OSError: the folder cannot be written to.
    """
    with atomic(path, mode) as temporary:
        temporary.write_text(text, encoding="utf-8")


def sweep_dead(folder: Path) -> int:
    """Delete the temporary files in a folder, and below it, whose writers on this machine are dead; count them."""
    swept = 0
    for path in folder.rglob(".*.harness-*"):
        match = _TEMPORARY.fullmatch(path.name)
        if match and match["host"] == host_name() and not is_alive(int(match["pid"])):
            with contextlib.suppress(OSError):
                path.unlink()
                swept += 1
    return swept


def is_alive(pid: int) -> bool:
    """Say whether a process of this machine is there."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def host_name() -> str:
    """Return this machine's name as it may stand in a file's name: of a container, with what tells its processes apart.

    Two containers of one name see processes of their own only, and would take each other's for dead.
    """
    name = re.sub(r"[^A-Za-z0-9.]", "_", socket.gethostname())[:64]
    try:
        processes = os.stat("/proc/self/ns/pid").st_ino
    except OSError:  # not Linux
        return name
    return name if processes == _FIRST_PROCESSES else f"{name}.{processes:x}"


def _umask() -> int:
    """Return the process's umask, which can only be read by setting it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _refuse_to_replace(path: Path) -> None:
    """Refuse a place where something lies that is no file: a device would be gone, and a folder cannot be replaced."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder lies in the place of this file", str(path))
    if not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
        raise OSError(errno.EEXIST, "it is a device, a pipe or a socket, and is not replaced", str(path))


def _to_disk(path: Path) -> None:
    """Have a file or folder reach its disk; file systems without that answer EINVAL."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


def _named(error: OSError, path: Path) -> OSError:
    """Return the error with the file that was to be written, not the temporary one."""
    return type(error)(error.errno, error.strerror or str(error), str(path))
