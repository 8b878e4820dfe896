"""What a scenario may say in [faults], and what a cell then carries."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TypeGuard, TypeVar

from harness.core.faults import Death, Jitter, Straggler
from harness.core.units import parse_seconds

LARGEST_SIGMA = 2.0
"""Chosen: at 2 one step in forty already takes seven times the mean, and a cell's length is that of a few steps."""


JITTER_FORMS = 'the sigma of a lognormal, 0 to 2, or { distribution = "exponential" }'


STRAGGLER_FORMS = "tables { rank = 1, slowdown = 3.0 } or { fraction = 0.1, slowdown = 2.0 }; slowdown is at least 1"


DEATH_FORMS = 'tables { rank = 1, after_steps = 50 } or { rank = 1, after = "2 s" }'


def read_jitter(value: object) -> Jitter | None:
    """Return `compute_jitter` as a cell carries it; None where there is none.

    Raises:
        ValueError: it is neither a sigma nor a distribution; the message says what is allowed.
    """
    if value is None:
        return None
    if not isinstance(value, Mapping):
        value = {"distribution": "lognormal", "sigma": value}
    distribution, sigma = value.get("distribution", "lognormal"), value.get("sigma", 0.0)
    allowed = {"lognormal": {"distribution", "sigma"}, "exponential": {"distribution"}}
    if not isinstance(distribution, str) or set(value) - allowed.get(distribution, set()):
        raise ValueError(JITTER_FORMS)
    if not _is_number(sigma) or not 0 <= sigma <= LARGEST_SIGMA:
        raise ValueError(JITTER_FORMS)
    if distribution == "lognormal" and sigma == 0:
        return None
    return Jitter("exponential" if distribution == "exponential" else "lognormal", float(sigma))


def read_stragglers(value: object) -> list[Straggler]:
    """Return `stragglers` as a cell carries it.

    Raises:
        ValueError: an entry is not one of the two forms, or names a rank again.
    """
    return _entries(value, _straggler, STRAGGLER_FORMS)


def _straggler(entry: Mapping[str, object]) -> Straggler | None:
    slowdown, rank, fraction = (entry.get(key) for key in ("slowdown", "rank", "fraction"))
    if not _is_number(slowdown) or slowdown < 1:
        return None
    if set(entry) == {"rank", "slowdown"} and _is_whole(rank, least=0):
        return Straggler(float(slowdown), rank=rank)
    if set(entry) == {"fraction", "slowdown"} and _is_number(fraction) and 0 < fraction <= 1:
        return Straggler(float(slowdown), fraction=float(fraction))
    return None


def read_deaths(value: object) -> list[Death]:
    """Return `deaths` as a cell carries it.

    Raises:
        ValueError: an entry is not one of the two forms, or names a rank again.
    """
    return _entries(value, _death, DEATH_FORMS)


def _death(entry: Mapping[str, object]) -> Death | None:
    rank, steps = entry.get("rank"), entry.get("after_steps")
    if not _is_whole(rank, least=0):
        return None
    if set(entry) == {"rank", "after_steps"} and _is_whole(steps, least=1):
        return Death(rank, after_steps=steps)
    if set(entry) == {"rank", "after"}:
        return Death(rank, after_s=parse_seconds(entry["after"]))
    return None


Fault = TypeVar("Fault", Straggler, Death)


def _entries(value: object, read: Callable[[Mapping[str, object]], Fault | None], forms: str) -> list[Fault]:
    """Read a table or a list of tables."""
    entries = [] if value is None else [value] if isinstance(value, Mapping) else value
    if not isinstance(entries, list):
        raise ValueError(forms)
    found: list[Fault] = []
    for number, entry in enumerate(entries, start=1):
        fault = read(entry) if isinstance(entry, Mapping) else None
        if fault is None:
            raise ValueError(f"{forms}; entry {number} is neither")
        if fault.rank is not None and any(fault.rank == other.rank for other in found):
            raise ValueError(f"{forms}; rank {fault.rank} is listed twice")
        found.append(fault)
    return found


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
