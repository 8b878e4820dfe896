"""An end for what runs in this process and may never come to one: code of others, called in the main thread."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from harness.core.interrupts import AGAIN_S, amid_import

_APART_S = 0.001
"""Between two readings of one timer; chosen."""


class OutOfTime(BaseException):
    """The time of a block is up; not an Exception, because a program's own `except Exception` must not catch it."""


@contextlib.contextmanager
def ended_after(seconds: float) -> Iterator[None]:
    """Interrupt what this process does in a block when its time is up; not in other threads: signals never reach them.

    Raises:
        OutOfTime: it is up.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    until_s = time.monotonic() + seconds

    def hear(number: int, frame: FrameType | None) -> None:
        left_s = until_s - time.monotonic()
        if left_s > _APART_S and callable(earlier):  # of an interrupt that waits for an import
            signal.setitimer(signal.ITIMER_REAL, left_s)
            earlier(number, frame)
        elif amid_import(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            raise OutOfTime

    earlier = signal.signal(signal.SIGALRM, hear)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        left_s, _ = signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        if 0 < left_s < until_s - time.monotonic() - _APART_S:  # an interrupt still waits
            signal.setitimer(signal.ITIMER_REAL, left_s)
