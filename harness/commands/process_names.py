"""The names of other processes, for `harness doctor`: no users, no hosts, no arguments."""

from __future__ import annotations


def process_name(pid: int) -> str:
    """Return a process' name; one of another container is hidden from this one.

    Raises:
        ImportError: psutil is not installed.
    """
    import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "a process outside this container"
