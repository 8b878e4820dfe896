"""A small process that runs a command, and of which nothing outlives whoever asked for it, however that one dies.

Run by its path, in an interpreter that imports nothing else: `guard.py PIPE FOLDER COMMAND...`. Whoever asks holds the
other end of the pipe, alone: the kernel closes it when that process dies. The guard is the parent of the command and
adopts whatever loses its parent below it, so that a new session, a new process group or a double fork hides nothing.

Source: PR_SET_CHILD_SUBREAPER, PR_SET_PDEATHSIG: prctl(2). Systems without them (macOS) adopt nothing: there, processes
that lost their parent before the end are not found any more.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time

LOOK_S = 0.002
"""Between two looks at who is still there; chosen: a killed process needs about a millisecond to go."""

ORPHANS_S = 1.0
"""Longest that orphans are waited for while the command goes on; chosen: one that is stuck in a driver goes later."""

_TO_END = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
"""What reaches whole groups and sessions, and is whoever asked's to decide about."""

_BLOCKED = (*_TO_END, signal.SIGQUIT)


def guard(pipe: int, folder: str, command: list[str]) -> int:
    """Run a command to its end or to that of whoever holds the pipe; return its exit code.

    Args:
        pipe: a byte asks to end what has lost its parent; its end asks to end everything.
        folder: removed at the end; empty: none.
        command: what to run, in the session and group of whoever asked; it ignores what their terminal or their
            batch system tells all of them, until it decides otherwise.
    """
    os.set_inheritable(pipe, False)
    woken, waking = os.pipe()
    os.set_blocking(woken, False)
    os.set_blocking(waking, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waking, warn_on_full_buffer=False)
    _prctl(36)  # PR_SET_CHILD_SUBREAPER
    child = _start(command)
    _step_back({pipe, woken, waking})
    watched = select.poll()
    for descriptor in (pipe, woken):
        watched.register(descriptor, select.POLLIN)
    code = None
    while code is None:
        ready = {descriptor for descriptor, _ in watched.poll()}
        if woken in ready:
            os.read(woken, 4096)
            code = _reaped(child)
        if pipe in ready:
            if not os.read(pipe, 4096):
                break
            _end(ORPHANS_S, spared=child)
    _end(None)
    _remove(folder)
    return 0 if code is None else code


def _start(command: list[str]) -> int:
    ours = os.getpid()
    child = os.fork()
    if child:
        return child
    try:
        _prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: should this guard be killed, the command goes too
        if os.getppid() == ours:
            _ignore(_TO_END)
            os.execv(command[0], command)
    finally:
        os._exit(127)


def _ignore(numbers: tuple[signal.Signals, ...]) -> None:
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _BLOCKED)


def _step_back(kept: set[int]) -> None:
    """Leave the terminal's reach, and hold nothing open that others wait for the end of."""
    _ignore(_BLOCKED)
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nowhere, descriptor)
    for name in os.listdir("/dev/fd"):
        if int(name) > 2 and int(name) not in kept:
            with contextlib.suppress(OSError):  # the listing's own
                os.close(int(name))


def _prctl(option: int, value: int = 1) -> None:
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _reaped(child: int) -> int | None:
    """Take note of all that has ended; return the child's exit code where it has."""
    code = None
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            if ended[0] == child:
                code = os.waitstatus_to_exitcode(ended[1])
    return code


def _end(within_s: float | None, spared: int = 0) -> None:
    """Kill all processes below this one, but for one child and what is below that, until none is left."""
    began, pause_s = time.monotonic(), LOOK_S
    while within_s is None or time.monotonic() - began < within_s:
        found = _below(os.getpid(), spared)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        until = time.monotonic() + pause_s
        while _any_left(found, spared):  # to look through all processes takes longer than to die
            if time.monotonic() > until:
                break
            time.sleep(LOOK_S)
        else:
            return
        pause_s = min(2 * pause_s, ORPHANS_S / 10)


def _any_left(found: list[int], spared: int) -> bool:
    """Note who has ended, and say whether anybody is left: the kernel knows of those too who were born since."""
    for pid in found[:]:
        with contextlib.suppress(ChildProcessError):  # not a child of ours, but of one
            if os.waitpid(pid, os.WNOHANG)[0]:
                found.remove(pid)
    if spared or sys.platform != "linux":
        return bool(found)
    try:
        return os.waitpid(-1, os.WNOHANG) is not None
    except ChildProcessError:
        return False


def _below(root: int, spared: int) -> list[int]:
    """Return the processes below one, one child and what is below it left out."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        if pid != spared:
            children.setdefault(parent, []).append(pid)
    found = children.get(root, [])[:]
    for pid in found:
        found += children.get(pid, [])
    return found


def _parents() -> list[tuple[int, int]]:
    """Return every process with its parent."""
    if not os.path.exists("/proc/self/stat"):
        import subprocess

        done = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=False)
        return [(int(pid), int(parent)) for pid, parent in map(str.split, done.stdout.splitlines())]
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
            # The command's name stands in parentheses and may hold anything.
            found.append((int(name), int(file.read().rpartition(b")")[2].split()[1])))
    return found


def _remove(folder: str) -> None:
    """Remove a folder with all that is in it; `shutil` would take as long to import as all else takes."""
    for root, folders, files in os.walk(folder, topdown=False):
        for name in (*files, *folders):
            path = os.path.join(root, name)
            with contextlib.suppress(OSError):
                os.unlink(path) if name in files or os.path.islink(path) else os.rmdir(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


if __name__ == "__main__":
    status = guard(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
    if status < 0:
        signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status & 0xFF)
