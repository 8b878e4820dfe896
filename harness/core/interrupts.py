"""What a signal to end does to a command: the first interrupts it as Ctrl-C does, the second ends it at once.

Only the program takes signals over: where the harness is imported they stay as they were. This file imports little,
because what comes before it ends the program in Python's words.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType

NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM", signal.SIGHUP: "SIGHUP"}

BURST_S = 0.3
"""Signals that come so soon after the first are the same wish: `timeout` sends two, a terminal that closes one of the
system's and one of the shell's, and systemd SIGTERM with SIGHUP; chosen: nobody who wants out waits shorter."""

AGAIN_S = 0.02
"""Until the next look where an interrupt would do damage; chosen."""


class Interrupted(KeyboardInterrupt):
    """A signal asks the command to end."""


class _Signals:
    """What has come, and what may be interrupted now.

    Attributes:
        first: the first signal to end; when_s: when it came, monotonic.
        catching: whether a command runs that can be interrupted; else there is nothing to lose.
        held: depth of blocks that are not to be interrupted; due: whether an interrupt waits for their end.
    """

    def __init__(self) -> None:
        self.first: int | None = None
        self.when_s = 0.0
        self.catching = self.due = False
        self.held = 0

    def hear(self, number: int, frame: FrameType | None) -> None:
        """Interrupt the command, or end it where it was interrupted before."""
        now = time.monotonic()
        if self.first is None:
            self.first, self.when_s = number, now
        elif now - self.when_s < BURST_S:
            return
        else:
            _end_at_once(self.first)
        self.interrupt(frame)

    def interrupt(self, frame: FrameType | None) -> None:
        """Raise, or see to it that it is raised as soon as it does no damage."""
        if not self.catching:
            _end_at_once(self.first or signal.SIGINT)
        elif self.held:
            self.due = True
        elif amid_import(frame):
            signal.setitimer(signal.ITIMER_REAL, AGAIN_S)
        else:
            raise Interrupted

    def catch_up(self) -> None:
        """Raise what was held back."""
        if self.due and not self.held:
            self.due = False
            raise Interrupted


_signals = _Signals()


def take_over() -> None:
    """Let signals to end do what this file says; those that are ignored, as under nohup, stay so."""
    for number in NAMES:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _signals.hear)
    signal.signal(signal.SIGALRM, lambda _, frame: _signals.interrupt(frame))


def exit_code() -> int:
    """Return what a command that was interrupted ends with: 128 and the signal's number, as shells count."""
    return 128 + (signal.SIGINT if _signals.first is None else _signals.first)


def what_came() -> str:
    """Return what people call the signal that interrupted."""
    return NAMES[signal.SIGINT if _signals.first is None else signal.Signals(_signals.first)]


class Catching:
    """A block that the first signal interrupts by raising `Interrupted`."""

    def __enter__(self) -> None:
        """Begin."""
        _signals.catching = True

    def __exit__(self, *_: object) -> None:
        """End: a signal ends the program at once again."""
        _signals.catching = False


class Uninterrupted:
    """A block that no signal interrupts: one that comes meanwhile interrupts at its end, unless the block failed."""

    def __enter__(self) -> None:
        """Begin."""
        _signals.held += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End, and be interrupted where that was asked for."""
        _signals.held -= 1
        if kind is None:
            _signals.catch_up()


class Interruptible:
    """A block inside one that is held, which signals interrupt nevertheless."""

    def __enter__(self) -> None:
        """Begin, and be interrupted where that was asked for."""
        self._depth, _signals.held = _signals.held, 0
        try:
            _signals.catch_up()
        except BaseException:
            _signals.held = self._depth  # a block that cannot be entered is not left either
            raise

    def __exit__(self, *_: object) -> None:
        """Hold again."""
        _signals.held = self._depth


def amid_import(frame: FrameType | None) -> bool:
    """Say whether a module is being imported: half of numpy can neither be used nor be imported again."""
    while frame is not None:
        if frame.f_code.co_filename == "<frozen importlib._bootstrap>":
            return True
        frame = frame.f_back
    return False


def _end_at_once(number: int) -> None:
    """End this process; the guard ends all others."""
    try:
        sys.stdout.flush()
        os.write(2, f"\nended at once by {NAMES[signal.Signals(number)]}\n".encode())
    except (OSError, ValueError, RuntimeError, AttributeError):  # closed, full, or being written to just now
        pass
    os._exit(128 + number)
