"""What a process owes its parent: it ends with it, however the parent ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ENDING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM, signal.SIGQUIT)


def die_with_parent() -> None:
    """Ask the kernel to end this process with the one that forked it: no orphans, not even stopped ones."""
    if sys.platform == "linux":
        import ctypes

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def guarded(command: Sequence[str], pipe: int, folder: str = "") -> list[str]:
    """Return a command that runs another one under a guard, which ends it and all that it started when we are gone.

    Args:
        command: its first word is the path of a program.
        pipe: the end to read from of a pipe that nobody but this process holds the other end of; the new process
            has to inherit it.
        folder: removed when all have ended.
    """
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("guard.py")), str(pipe), folder, *command]


@contextlib.contextmanager
def born_deaf() -> Iterator[None]:
    """Let processes that are started meanwhile receive no signal to end before they are ready for one."""
    earlier = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, earlier)


def run_guarded(
    command: Sequence[str], timeout_s: float, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    """Run a command as `subprocess.run` does; it and all that it started end with this process, and with this call.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    told, telling = os.pipe()
    try:
        with born_deaf():
            process = subprocess.Popen(
                guarded(command, told),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
                pass_fds=[told],
            )
        with process:
            try:
                out, err = process.communicate(timeout=timeout_s)
            finally:
                os.close(telling)
    finally:
        os.close(told)
    return subprocess.CompletedProcess(command, process.returncode, out, err)
