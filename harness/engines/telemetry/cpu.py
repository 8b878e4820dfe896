"""The host through psutil: memory and CPU of each target, and what everybody else on the machine takes from them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from harness.engines.telemetry.probe import Probe, ProbeUnavailable, Sample, Target

# Chosen: Linux counts CPU time of a process in ticks of 10 ms, so over less than this a share is off by more than 0.1.
CPU_WINDOW_S = 0.1


class Meter:
    """Cores that were busy between two readings of a counter of CPU seconds."""

    def __init__(self) -> None:
        self._last: tuple[float, float] | None = None

    def cores(self, now: float, cpu_s: float) -> float | None:
        """Return the mean number of cores busy since the last call; None at the first one.

        Args:
            now: seconds, monotonic.
            cpu_s: CPU seconds counted so far.
        """
        before, self._last = self._last, (now, cpu_s)
        if before is None or now <= before[0]:
            return None
        return max(0.0, cpu_s - before[1]) / (now - before[0])


def host_busy_s(psutil: Any) -> float:
    """Return the CPU seconds that all cores of the machine were busy since it started.

    Waiting for a disk is idle. Time stolen by other virtual machines counts as busy: it is a neighbour, too.
    """
    times = psutil.cpu_times()._asdict()
    # Linux counts guests' time inside user and nice already.
    not_busy = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(seconds for kind, seconds in times.items() if kind not in not_busy))


class HostProbe(Probe):
    """Memory of each process at every tick; CPU time of the processes and of the host every 0.1 s."""

    name = "host"

    def __init__(self) -> None:
        self._psutil: Any = None
        self._processes: dict[Target, Any] = {}
        self._meters: dict[Target, Meter] = {}
        self._host = Meter()
        self._own = Meter()
        self._cpu_read_s: float | None = None

    def open(self, targets: Sequence[Target]) -> None:
        """Find the targets; one that is gone already has no series.

        Raises:
            ProbeUnavailable: psutil is not installed.
        """
        try:
            import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types
        except ImportError as error:
            raise ProbeUnavailable("the Python package psutil is not installed") from error
        self._psutil = psutil
        for target in targets:
            try:
                self._processes[target] = psutil.Process(target.pid)
                self._meters[target] = Meter()
            except psutil.NoSuchProcess:
                continue

    def sample(self, now: float) -> Iterable[Sample]:
        """Yield the resident memory of each target and, where the window has passed, the CPU shares."""
        for target in tuple(self._processes):
            yield from self._memory(now, target)
        if self._cpu_read_s is None or now - self._cpu_read_s >= CPU_WINDOW_S:
            self._cpu_read_s = now
            yield from self._cpu(now)

    def _memory(self, now: float, target: Target) -> Iterator[Sample]:
        """Yield the resident memory of a target; one that has ended leaves."""
        try:
            rss = self._processes[target].memory_info().rss
        except self._psutil.Error:
            rss = 0
        if rss > 0:
            yield Sample(now, self.name, target.label, "host_rss", float(rss), "bytes")
        else:  # a process that ended and was not waited for yet has no memory any more
            del self._processes[target]

    def _cpu(self, now: float) -> Iterator[Sample]:
        """Yield the cores that each target used, and the state of the whole host."""
        used = {target: self._target_cores(now, target) for target in tuple(self._processes)}
        for target, cores in used.items():
            if cores is not None:
                yield Sample(now, self.name, target.label, "host_cpu", cores, "cores")
        yield from self._whole_host(now, sum(cores or 0.0 for cores in used.values()))

    def _target_cores(self, now: float, target: Target) -> float | None:
        """Return the cores that a target used since the last reading, None where that is not known."""
        try:
            times = self._processes[target].cpu_times()
        except self._psutil.Error:
            del self._processes[target]
            return None
        return self._meters[target].cores(now, times.user + times.system)

    def _whole_host(self, now: float, targets_cores: float) -> Iterator[Sample]:
        """Yield cores busy in all, cores busy for others than the targets and this process, and memory left.

        The counters are read one after another and tick every 10 ms, so that others may come out just below none:
        that is none. A target that ended since the last reading counts as another for one window.
        """
        available = float(self._psutil.virtual_memory().available)
        yield Sample(now, self.name, "host", "host_memory_available", available, "bytes")
        busy = self._host.cores(now, host_busy_s(self._psutil))
        own = self._own.cores(now, time.process_time())
        if busy is not None and own is not None:
            yield Sample(now, self.name, "host", "host_cpu_all", busy, "cores")
            yield Sample(now, self.name, "host", "host_cpu_other", max(0.0, busy - targets_cores - own), "cores")

    def close(self) -> None:
        """Forget the targets."""
        self._processes.clear()
        self._meters.clear()
