"""The sampler: a process of its own that reads every probe at a fixed cadence, and the handle that its parent holds.

Messages on the connection. Parent to sampler: ("watch", targets) and ("stop",). Sampler to parent: ("unavailable",
{probe: reason}) once its probes are open, and ("telemetry", Telemetry) as the answer to stop. A connection that closes
means that the other side died.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from harness.core.disturbances import Disturbance
from harness.engines.processes.hearing import Ear, Silent, reap
from harness.engines.telemetry.bench import Bench, probe_path
from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.probe import Probe, Sample, Target

if TYPE_CHECKING:
    from multiprocessing.context import ForkServerContext, SpawnContext
    from multiprocessing.process import BaseProcess

    from harness.engines.processes.forking import Forking


@dataclass
class Telemetry:
    """What a sampler hands back.

    Attributes:
        columns: the samples.
        unavailable: probe to reason, for the probes that gave nothing or stopped giving.
        notes: quantities that were left out, and why, in words.
        missed_ticks: ticks that were skipped because the one before took too long.
        interval_s: achieved mean seconds between ticks; None with fewer than two ticks.
        sampler_cpu_cores: CPU that the sampler itself used while it sampled, 1.0 = one core busy; None if it died.
        lost: device, or probe, that stopped to answer, to the first tick (seconds, monotonic) without its figures.
        around: what whoever started the sampler saw disturb the cell meanwhile.
    """

    columns: Columns = field(default_factory=Columns)
    unavailable: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missed_ticks: int = 0
    interval_s: float | None = None
    sampler_cpu_cores: float | None = None
    lost: dict[str, float] = field(default_factory=dict)
    around: Mapping[Disturbance, float | None] = field(default_factory=dict)

    @property
    def samples(self) -> list[Sample]:
        """The samples as a list; `columns` is the compact form."""
        return list(self.columns)


class Ticks:
    """Ticks on the grid start + k * interval: a late one delays no other, and those it swallowed are counted.

    Args:
        start_s: time of tick 0, seconds.
        interval_s: seconds between ticks, above 0.
    """

    def __init__(self, start_s: float, interval_s: float) -> None:
        self.start_s = start_s
        self.interval_s = interval_s
        self.num_missed = 0
        self._next = 0
        self._began: list[float] = []  # of the first tick and of the last one
        self._num_taken = 0

    @property
    def due_s(self) -> float:
        """When the next tick is due."""
        return self.start_s + self._next * self.interval_s

    def taken(self, began_s: float, ended_s: float) -> None:
        """Note that the tick that was due began and ended then, and move on to the first one that is still ahead."""
        self._began = [*self._began[:1], began_s]
        self._num_taken += 1
        ahead = max(self._next, int((ended_s - self.start_s) / self.interval_s)) + 1
        self.num_missed += ahead - self._next - 1
        self._next = ahead

    @property
    def achieved_s(self) -> float | None:
        """Mean seconds between the ticks taken; None with fewer than two."""
        if self._num_taken < 2:
            return None
        return (self._began[-1] - self._began[0]) / (self._num_taken - 1)


def run_sampler(
    connection: Connection, targets: Sequence[Target], interval_s: float, probes: Sequence[str | type[Probe]]
) -> None:
    """Sample until the connection says stop, then send the telemetry; end without a word when the parent died.

    The main function of the sampler process.

    Args:
        connection: to the parent; the messages stand at the top of this file.
        targets: the processes to sample.
        interval_s: seconds between ticks.
        probes: built-in names, "module:Class", "file.py:Class", or classes.
    """
    # Ctrl-C goes to every process of the terminal's group; what it means for this cell is the parent's to decide.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    bench = Bench(probes)
    bench.open(targets)
    try:
        connection.send(("unavailable", bench.unavailable))
        connection.send(("telemetry", _telemetry(connection, bench, interval_s)))
    except (EOFError, OSError):
        pass  # the parent is gone: nobody is left to tell
    finally:
        bench.close()
        connection.close()


def _telemetry(connection: Connection, bench: Bench, interval_s: float) -> Telemetry:
    """Sample until told to stop, and return all there is to hand back.

    Raises:
        EOFError: the parent died.
    """
    ticks = Ticks(time.monotonic(), interval_s)
    cpu_before_s = time.process_time()
    _sample_until_stop(connection, bench, ticks)
    cpu_cores = (time.process_time() - cpu_before_s) / max(time.monotonic() - ticks.start_s, 1e-9)
    bench.close()
    return Telemetry(
        bench.columns, bench.unavailable, bench.notes, ticks.num_missed, ticks.achieved_s, cpu_cores, bench.lost
    )


def _sample_until_stop(connection: Connection, bench: Bench, ticks: Ticks) -> None:
    """Sample at each tick, asleep in between; targets that are named on the way replace those before.

    The first tick comes before any message and a last reading after the stop, off the grid: a cell shorter than the
    interval has its memory on record, and energy counts to the end.

    Raises:
        EOFError: the parent died.
    """
    _tick(bench, ticks)
    ear = Ear(connection)
    while True:
        message = _message_before(ear, ticks.due_s)
        if message is None:
            _tick(bench, ticks)
        elif message[0] == "stop":
            bench.sample(time.monotonic())
            return
        else:
            bench.open(message[1])


def _tick(bench: Bench, ticks: Ticks) -> None:
    """Sample once, on the grid."""
    began_s = time.monotonic()
    bench.sample(began_s)
    ticks.taken(began_s, time.monotonic())


def _message_before(ear: Ear, due_s: float) -> tuple[Any, ...] | None:
    """Return the parent's next message, or None once `due_s` (seconds, monotonic) has come.

    Raises:
        EOFError: the parent died.
    """
    # The sentinel is watched too: where processes were forked, others may hold copies of the parent's end open.
    parent = multiprocessing.parent_process()
    watched: list[Any] = [ear] if parent is None else [ear, parent.sentinel]
    while ready := wait(watched, max(0.0, due_s - time.monotonic())):
        if not any(isinstance(each, Ear) for each in ready):
            raise EOFError
        for message in ear.words()[:1]:  # the parent says one thing at a time, and begins none that it does not end
            return tuple(message)
    return None


class Sampler:
    """The parent's handle on the sampler process of one cell.

    Args:
        context: multiprocessing context that starts the process.
        targets: the processes to sample; `watch` names others later.
        interval_s: seconds between ticks, above 0; down to 0.02 is what the probes are made for.
        probes: built-in names, "module:Class", "file.py:Class", or classes.

    Raises:
        ValueError: the interval is not above 0.
    """

    def __init__(
        self,
        context: Forking | ForkServerContext | SpawnContext,
        targets: Iterable[Target],
        interval_s: float,
        probes: Iterable[str | type[Probe]] = ("nvml", "host"),
    ) -> None:
        if not interval_s > 0:
            raise ValueError(f"interval_s: got {interval_s}; allowed are seconds above 0")
        self.probes = [probe_path(probe) for probe in probes]
        self._telemetry: Telemetry | None = None
        self._unavailable: dict[str, str] | None = None
        self._connection, self._far_end = context.Pipe()
        self._ear = Ear(self._connection)
        # A daemon, so that a parent that leaves without stop() takes it along; a killed one is noticed by its pipe.
        self._process: BaseProcess = context.Process(
            target=run_sampler,
            args=(self._far_end, list(targets), interval_s, self.probes),
            name="telemetry",
            daemon=True,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the sampler; None before `start`."""
        return self._process.pid

    def start(self) -> None:
        """Start the process without waiting for its probes to open."""
        self._process.start()
        self._far_end.close()  # or the end of the sampler would never show on the connection

    def watch(self, targets: Iterable[Target]) -> None:
        """Sample these processes from now on, in place of those before; a sampler that died is reported by `stop`."""
        self._send(("watch", list(targets)))

    def ready(self, timeout_s: float) -> bool:
        """Wait until the probes are open; answer False after `timeout_s` or where the sampler died."""
        with contextlib.suppress(Silent, EOFError, OSError):
            if self._unavailable is None:
                self._unavailable = self._ear.word(timeout_s)[1]
        return self._unavailable is not None

    def stop(self, timeout_s: float) -> Telemetry:
        """End the sampler and return what it sampled; where it died or is silent, the reason instead of samples.

        Args:
            timeout_s: seconds to wait for the answer; a process that is still there afterwards is killed.
        """
        if self._process.pid is None:
            return Telemetry(unavailable=dict.fromkeys(self.probes, "the sampler process was never started"))
        if self._telemetry is None:
            self._telemetry = self._stopped(time.monotonic() + timeout_s, timeout_s)
        return self._telemetry

    def _stopped(self, deadline_s: float, timeout_s: float) -> Telemetry:
        telemetry = self._answer(deadline_s)
        silent = telemetry is None and time.monotonic() >= deadline_s
        self._reap(deadline_s)
        return telemetry or self._lost(timeout_s if silent else None)

    def _answer(self, deadline_s: float) -> Telemetry | None:
        """Ask the sampler to stop and return its answer; None where it died or stays silent."""
        self._send(("stop",))
        with contextlib.suppress(Silent, EOFError, OSError):
            while True:
                kind, content = self._ear.word(max(0.0, deadline_s - time.monotonic()))
                if kind == "telemetry":
                    answer: Telemetry = content
                    return answer
                self._unavailable = content
        return None

    def _send(self, message: tuple[Any, ...]) -> None:
        """Tell the sampler something; one that died is found out by `stop`."""
        with contextlib.suppress(OSError):
            self._connection.send(message)

    def _reap(self, deadline_s: float) -> None:
        """See the process off: what does not leave by the deadline is killed; never wait longer than that."""
        self._connection.close()
        reap([self._process], max(0.0, deadline_s - time.monotonic()))

    def _lost(self, silent_s: float | None) -> Telemetry:
        """Return telemetry without samples that says of each probe why: silent for so long, or dead."""
        if silent_s is not None:
            reason = f"the sampler process gave no answer within {silent_s:g} s and was ended; its samples are lost"
        else:
            reason = f"the sampler process {_how_ended(self._process.exitcode)}; its samples are lost"
        return Telemetry(unavailable=dict.fromkeys(self.probes, reason) | (self._unavailable or {}))


def _how_ended(exit_code: int | None) -> str:
    """Return in words how a process ended."""
    if exit_code is None:
        return "does not answer and cannot be ended"
    if exit_code < 0:
        return f"was ended by signal {-exit_code}"
    return f"ended early with exit code {exit_code}"
