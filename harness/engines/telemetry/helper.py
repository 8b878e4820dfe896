"""A thread that makes calls for somebody who will not wait for ever: a driver whose device is gone may never return."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class NoReturn(Exception):
    """A call did not return in time; it is left alone, and may still be running."""


class Helper:
    """Makes one call at a time in a thread of its own; one that hangs is left behind with its thread."""

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] | None = None

    def call(self, action: Callable[[], T], limit_s: float) -> T:
        """Return what `action` returns, or raise what it raises.

        Args:
            action: the call.
            limit_s: seconds to wait for it.

        Raises:
            NoReturn: it is still running.
        """
        answers: queue.SimpleQueue[tuple[T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((action(), None))
            except BaseException as error:  # raised again where it is waited for
                answers.put((None, error))

        self._thread().put(answer)
        try:
            value, error = answers.get(timeout=limit_s)
        except queue.Empty:
            self.close()  # it ends when it returns; the next call has a thread of its own
            raise NoReturn(f"did not return within {limit_s:g} s") from None
        if error is not None:
            raise error
        return value  # type: ignore[return-value]  # the other half of the pair says that it is one

    def _thread(self) -> queue.SimpleQueue[Callable[[], None] | None]:
        """Return where the thread takes its calls from, starting one where there is none."""
        if self._calls is None:
            self._calls = queue.SimpleQueue()
            # A daemon: a process ends although a driver never returns.
            threading.Thread(target=_serve, args=(self._calls,), name="probe", daemon=True).start()
        return self._calls

    def close(self) -> None:
        """Let the thread end; the next call starts another."""
        if self._calls is not None:
            self._calls.put(None)
            self._calls = None


def _serve(calls: queue.SimpleQueue[Callable[[], None] | None]) -> None:
    while (call := calls.get()) is not None:
        call()
