"""What else went on while a cell was measured: kinds that records and answers decide by, each with its amount."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum

from harness.core.words import counted, listed, share_in_percent, three

NOISY = "noisy"
"""What `--retry` calls cells that were disturbed, and the column of cells.csv that says whether one was."""


class Disturbance(StrEnum):
    """A reason why a measured time may not be what the code takes; each with the unit of its amount.

    Attributes:
        OTHER_LOAD: cores that other processes used on average; time that a hypervisor took counts.
        OTHER_RUN: cells of other runs that were measured on this machine's CPU meanwhile.
        SHARED_GPU: processes of others on a GPU of the cell, at most.
        THROTTLED: fraction of the time in which heat or the power supply held a GPU or the processor back.
        MEMORY_PRESSURE: fraction of the time in which some process waited for memory.
        CLOCK_JUMP: seconds by which the wall clock was set, on top of what passed.
        SUSPENDED: seconds for which the machine slept.
    """

    OTHER_LOAD = "other-load"
    OTHER_RUN = "other-run"
    SHARED_GPU = "shared-gpu"
    THROTTLED = "throttled"
    MEMORY_PRESSURE = "memory-pressure"
    CLOCK_JUMP = "clock-jump"
    SUSPENDED = "suspended"

    @property
    def words(self) -> str:
        """What disturbed, for a sentence."""
        return _WORDS[self]

    def of(self, amount: float) -> str:
        """Say how much it was."""
        return f"{self.words}, {_AMOUNTS[self](amount)}"

    @property
    def limit(self) -> float:
        """Amount above which a cell counts as disturbed."""
        return _LIMITS[self]


_WORDS = {
    Disturbance.OTHER_LOAD: "other processes",
    Disturbance.OTHER_RUN: "another run",
    Disturbance.SHARED_GPU: "another process on the GPU",
    Disturbance.THROTTLED: "throttling",
    Disturbance.MEMORY_PRESSURE: "lack of memory",
    Disturbance.CLOCK_JUMP: "a clock that was set",
    Disturbance.SUSPENDED: "a machine that slept",
}

_AMOUNTS: dict[Disturbance, Callable[[float], str]] = {
    Disturbance.OTHER_LOAD: lambda cores: f"{three(cores)} cores on average",
    Disturbance.OTHER_RUN: lambda cells: counted(int(cells), "cell"),
    Disturbance.SHARED_GPU: lambda processes: f"{processes:.0f} at most",
    Disturbance.THROTTLED: lambda part: f"{share_in_percent(part)} of the time",
    Disturbance.MEMORY_PRESSURE: lambda part: f"{share_in_percent(part)} of the time",
    Disturbance.CLOCK_JUMP: lambda seconds: f"by {three(seconds)} s",
    Disturbance.SUSPENDED: lambda seconds: f"{three(seconds)} s",
}

_LIMITS = {
    Disturbance.OTHER_LOAD: 0.5,  # chosen: a quarter of the smallest machine that CI systems lend
    Disturbance.OTHER_RUN: 0.0,
    Disturbance.SHARED_GPU: 0.0,
    Disturbance.THROTTLED: 0.05,  # chosen: the smallest growth of a time that a comparison counts
    Disturbance.MEMORY_PRESSURE: 0.05,
    Disturbance.CLOCK_JUMP: 1.0,  # chosen: a correction of 500 ppm, the most that NTP slews, needs half an hour for it
    Disturbance.SUSPENDED: 0.5,
}

Disturbances = Mapping[Disturbance, float]
"""What disturbed a cell, with its amount in the unit of its kind."""


def above_limits(amounts: Mapping[Disturbance, float | None]) -> dict[Disturbance, float]:
    """Return those amounts that disturb, in the order of their kinds."""
    found = {kind: amount for kind in Disturbance if (amount := amounts.get(kind)) is not None}
    return {kind: amount for kind, amount in found.items() if amount > kind.limit}


def disturbed_columns(found: Disturbances) -> dict[str, object]:
    """Return the columns of a measured cell that say whether it was disturbed, and by what."""
    return {NOISY: bool(found)} | ({"disturbed": " ".join(found)} if found else {})


REPEAT = f"`harness run SCENARIO --retry {NOISY}` repeats them."
"""What to do about cells that were disturbed."""


def was_disturbed(count: int) -> str:
    """Return the verb for so many cells."""
    return "was disturbed" if count == 1 else "were disturbed"


def kinds_of(rows: Iterable[Mapping[str, object]]) -> tuple[str, ...]:
    """Return what disturbed cells, most often first; of cells of before kinds were kept it was other processes."""
    noisy = [str(row.get("disturbed") or Disturbance.OTHER_LOAD) for row in rows if row.get(NOISY)]
    return tuple(kind for kind, _ in Counter(kind for kinds in noisy for kind in kinds.split()).most_common())


def by_what(kinds: Iterable[str]) -> str:
    """Say what disturbed; a kind that a newer version noted stands as it is."""
    known = {str(kind): kind.words for kind in Disturbance}
    return listed(known.get(kind, kind) for kind in kinds)
