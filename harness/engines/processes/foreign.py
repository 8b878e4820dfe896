"""Messages of foreign libraries, where those raise a bare RuntimeError for several reasons and their words alone tell.

Asked only about errors that no line of the user's raised. A new release of torch may word them anew: then a failure is
called a bug of ours, and the tests of this file say so first.
"""

from __future__ import annotations

import re
import sys
from re import Pattern

from harness.core.errors import words_of_error

NO_MEMORY: dict[str, Pattern[str]] = {
    "CPU allocator, Linux": re.compile(r"DefaultCPUAllocator: can't allocate memory: you tried to allocate \d+"),
    "CPU allocator, elsewhere": re.compile(r"DefaultCPUAllocator: not enough memory: you tried to allocate \d+"),
    "CUDA's runtime": re.compile(r"^CUDA error: out of memory"),
    "NCCL": re.compile(r"Cuda failure (?:2 )?'out of memory'"),
    "cuBLAS and its relatives": re.compile(r"^CUDA error: CU\w+_STATUS_ALLOC_FAILED when calling"),
}
"""By who says so, from its source: torch c10/core/impl/alloc_cpu.cpp and c10/cuda/CUDAException.h, 2.13; NCCL's
src/include/checks.h, whose last words torch quotes in its own error."""

PEER_LOST: dict[str, Pattern[str]] = {
    "gloo": re.compile(r"\[[^\]]*\bgloo/[^\]]*\.(?:cc|h):\d+\] "),
}
"""Gloo begins every message with its own file and line, and all that it complains of while a cell runs is a connection:
"[.../gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:4711"."""

NOT_OFFERED: dict[str, Pattern[str]] = {
    "a backend of torch.distributed": re.compile(r"^Backend \w+ does not support \w+"),
}
"""From torch's c10d/Backend.hpp, 2.13: what every backend answers to a collective that it does not have."""


def lacks_memory(error: BaseException) -> bool:
    """Whether an error says by its type, or in a foreign library's words, that there was no memory."""
    return is_of_memory(error) or has_no_memory(error)


def is_of_memory(error: BaseException) -> bool:
    """Whether an error says by its type that there was no memory: Python's own, or torch's of its devices."""
    return isinstance(error, (MemoryError, *of_torch("OutOfMemoryError")))


def of_torch(name: str, module: str = "torch") -> tuple[type[BaseException], ...]:
    """Return a class of torch's, or nothing in a process that has never imported it."""
    loaded = sys.modules.get(module)
    return (getattr(loaded, name),) if loaded is not None and hasattr(loaded, name) else ()


def has_no_memory(error: BaseException) -> bool:
    """Whether a foreign library says that it got no memory."""
    return _says(error, NO_MEMORY)


def has_lost_peer(error: BaseException) -> bool:
    """Whether a foreign library says that another process does not answer."""
    return _says(error, PEER_LOST)


def is_not_offered(error: BaseException) -> bool:
    """Whether torch says that a backend does not have what it was asked for."""
    return isinstance(error, NotImplementedError) or _says(error, NOT_OFFERED)


def _says(error: BaseException, patterns: dict[str, Pattern[str]]) -> bool:
    return isinstance(error, RuntimeError) and any(
        pattern.search(words_of_error(error)) for pattern in patterns.values()
    )
