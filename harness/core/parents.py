"""What a process owes its parent: it ends with it, however the parent ends."""

from __future__ import annotations

import sys


def die_with_parent() -> None:
    """Ask the kernel to end this process with the one that forked it: no orphans, not even stopped ones."""
    if sys.platform == "linux":
        import ctypes
        import signal

        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)
