"""Counters of this machine that tell, from before and after, what held a measurement up: clocks, heat, memory."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from harness.core.disturbances import Disturbance

PRESSURE = Path("/proc/pressure/memory")
"""Source: Linux, Documentation/accounting/psi.rst: total= counts microseconds in which some task was stalled."""

THROTTLING = Path("/sys/devices/system/cpu")
"""Source: Linux, Documentation/ABI/testing/sysfs-devices-system-cpu: core_throttle_total_time_ms (Intel, since 5.5)."""


@dataclass(frozen=True)
class MachineCounters:
    """What the counters said at one moment; None where this machine does not tell.

    Attributes:
        steady_s: seconds that the machine was awake: what training is timed by.
        wall_s: seconds of the calendar, which somebody may set.
        with_sleep_s: seconds since the machine started, sleep included.
        waiting_s: seconds in which some process waited for memory.
        throttled_s: seconds in which heat held the processor back, of the core where it was longest.
    """

    steady_s: float
    wall_s: float
    with_sleep_s: float | None
    waiting_s: float | None
    throttled_s: float | None

    @classmethod
    def now(cls) -> MachineCounters:
        """Read all counters; it takes less than a millisecond."""
        return cls(time.monotonic(), time.time(), _with_sleep_s(), _waiting_s(PRESSURE), _throttled_s(THROTTLING))

    def since(self, before: MachineCounters) -> dict[Disturbance, float | None]:
        """Return what disturbed between two moments, each in the unit of its kind; None where nobody can tell."""
        awake_s = max(self.steady_s - before.steady_s, 1e-9)
        slept_s = _difference(self.with_sleep_s, before.with_sleep_s)
        slept_s = None if slept_s is None else slept_s - awake_s
        waited_s = _difference(self.waiting_s, before.waiting_s)
        throttled_s = _difference(self.throttled_s, before.throttled_s)
        return {
            # The calendar goes on while the machine sleeps: that is no jump.
            Disturbance.CLOCK_JUMP: abs(self.wall_s - before.wall_s - awake_s - (slept_s or 0.0)),
            Disturbance.SUSPENDED: slept_s,
            Disturbance.MEMORY_PRESSURE: None if waited_s is None else waited_s / awake_s,
            Disturbance.THROTTLED: None if throttled_s is None else throttled_s / awake_s,
        }


def _difference(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before


def _with_sleep_s() -> float | None:
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else None


def _waiting_s(path: Path) -> float | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        some = path.read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    return None


def _throttled_s(folder: Path) -> float | None:
    longest = None
    for path in folder.glob("cpu[0-9]*/thermal_throttle/core_throttle_total_time_ms"):
        with contextlib.suppress(OSError, ValueError):
            longest = max(longest or 0.0, int(path.read_text()) / 1e3)
    return longest
