"""Run one cell from its task to what came of it. Knows no results folder, so that it can be called on any machine."""

from __future__ import annotations

import contextlib
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path

from harness.api.host import Host, load_host
from harness.core.cell import Cell
from harness.core.cells_here import measuring_here
from harness.core.disturbances import Disturbance
from harness.core.endings import Cause
from harness.core.environment import describe_environment
from harness.core.held_files import only_these
from harness.core.interrupts import Interruptible, what_came
from harness.core.machine_counters import MachineCounters
from harness.core.outside_text import bounded
from harness.core.records import Json
from harness.engines.processes.blame import explain, own_files
from harness.engines.processes.forking import fork_server
from harness.engines.processes.launch import Result, Sampling, run_cell
from harness.engines.processes.status import Reached
from harness.engines.telemetry.bench import probe_path
from harness.engines.telemetry.of_nodes import with_nodes
from harness.engines.telemetry.probe import Probe
from harness.engines.telemetry.sampler import Sampler, Telemetry
from harness.executors.admission import admit, with_memory, with_utilisation
from harness.executors.make_record import make_record
from harness.executors.protocol import CellTask, Ended
from harness.executors.timed import run_in_this_process
from harness.results.logs import bound_log
from harness.results.trace_files import TRACED, document_of, steps_to_record

OnReached = Callable[[Reached], None]


def run_elsewhere(task: CellTask, reached: OnReached | None = None) -> Ended:
    """Run a task in a process that knows nothing of its run yet: hold its files, load its plugins.

    Raises:
        KeyboardInterrupt: a signal came; nothing is left running.
    """
    with only_these(task.sources):
        return run_one(task, host_of(task.plugins), reached)


@lru_cache(maxsize=4)
def host_of(plugins: tuple[str, ...]) -> Host:
    """Return what these plugins and the built-in ones register, loaded once in this process."""
    return load_host(plugins)


def run_one(task: CellTask, host: Host, reached: OnReached | None = None) -> Ended:
    """Run a cell to its end: whether it may start, its processes with telemetry beside them, its record.

    Whatever goes wrong with the cell is its record.

    Args:
        host: with the task's plugins.
        reached: called twice a second with how far the cell is.

    Raises:
        KeyboardInterrupt: a signal came; nothing is left running.
    """
    began_s, started = time.monotonic(), datetime.now(UTC)
    with _log_of(task) as log:
        with Interruptible():
            watched = _watched(task, host, log, reached)
        environment = task.environment or environment_here()
        record, tables = make_record(watched.cell, watched.result, watched.telemetry, environment, task.attempts + 1)
        record = replace(
            with_utilisation(with_memory(record, host), host),
            started=started.isoformat(timespec="seconds"),
            took_s=time.monotonic() - began_s,
        )
        written = b"" if task.log or not log.is_file() else log.read_bytes()
    return Ended(task, record, tables, written, _trace_of(task, watched))


def interrupted(task: CellTask) -> Ended:
    """Return what is left of a task that a signal ended: a record that says so."""
    reason = f"stopped by {what_came()}; run the same command to continue"
    return without_running(task, Result.ended_by(Cause.INTERRUPT, reason), tried=False)


def without_running(task: CellTask, result: Result, *, tried: bool = True) -> Ended:
    """Return the record of a task of which nothing else came home than how it ended.

    Args:
        tried: whether it counts as an attempt.
    """
    environment = task.environment or environment_here()
    return Ended(task, *make_record(task.cell, result, None, environment, task.attempts + tried))


def environment_here() -> Json:
    """Return the facts of this machine and its versions."""
    from harness.scenario.plan import detect_machine

    return describe_environment(detect_machine())


@contextlib.contextmanager
def _log_of(task: CellTask) -> Iterator[Path]:
    if task.log:
        yield Path(task.log)
        return
    with tempfile.TemporaryDirectory(prefix="harness-") as folder:
        yield Path(folder) / "log.txt"


@dataclass
class _Watched:
    """A cell as it ran, and how it ended."""

    cell: Cell
    result: Result
    telemetry: Telemetry | None = None


def _trace_of(task: CellTask, watched: _Watched) -> Json | None:
    outcome = watched.result.outcome
    return document_of(watched.cell, outcome, task.trace) if task.trace and outcome is not None else None


def _watched(task: CellTask, host: Host, log: Path, reached: OnReached | None) -> _Watched:
    """Run the cell where it may start; what ends it before is its result, and ends this cell only."""
    cell = task.cell
    if cell.not_possible:
        return _Watched(cell, Result.ended_by(Cause.IMPOSSIBLE, cell.not_possible))
    try:
        cell, verdict = admit(cell, host, task.plugins)
    except Exception as error:
        log.write_text(bounded("".join(traceback.format_exception(error))), encoding="utf-8")
        return _Watched(cell, Result(failure=explain(error, own_files(cell, task.plugins))))
    if verdict:
        return _Watched(cell, Result.ended_by(Cause.MEMORY, verdict))
    watch = _Watch(cell, list(host.probes.values()))
    options = {"trace": steps_to_record(cell, task.trace)} if task.trace else {}
    try:
        timed = run_in_this_process(cell, host, task.plugins, log, options.get("trace")) if cell.timing_only else None
        result = timed or run_cell(
            cell,
            task.plugins,
            log=str(log),
            options=options,
            sampling=Sampling(cell.measure.telemetry_interval_s, tuple(map(probe_path, watch.probes))),
            on_start=watch.start,
            on_progress=reached,
        )
    finally:
        watch.stop()
        bound_log(log)
    if task.trace and cell.engine == "real" and result.outcome is not None:
        result.outcome.notes.append(TRACED)
    telemetry = watch.telemetry
    return _Watched(
        cell, result, with_nodes(telemetry, result.elsewhere) if telemetry and result.elsewhere else telemetry
    )


class _Watch:
    """The sampler of one cell; virtual cells have none, since this machine's DRAM is not the virtual cluster's."""

    def __init__(self, cell: Cell, probes: Sequence[str | type[Probe]]) -> None:
        self.cell, self.probes = cell, probes
        self.sampler: Sampler | None = None
        self.telemetry: Telemetry | None = None
        self.around = ExitStack()
        self.others: Callable[[], int | None] = lambda: None
        self.before: MachineCounters | None = None

    def start(self, processes: list[tuple[int, str, str]]) -> None:
        """Begin to sample; called when the processes are ready and training has not started."""
        from harness.engines.telemetry import Target

        if self.cell.engine == "virtual":
            return
        if self.cell.device == "cpu":
            self.others = self.around.enter_context(measuring_here())
        targets = [Target(pid, label, device) for pid, label, device in processes]
        self.sampler = Sampler(fork_server(self.cell), targets, self.cell.measure.telemetry_interval_s, self.probes)
        self.sampler.start()
        self.sampler.ready(timeout_s=5.0)
        self.before = MachineCounters.now()

    def stop(self) -> None:
        """End the sampler and keep what it saw, and what else went on."""
        with self.around:
            around = MachineCounters.now().since(self.before) if self.before else {}
            around |= {Disturbance.OTHER_RUN: self.others()}
            if self.sampler is not None:
                self.telemetry = replace(self.sampler.stop(timeout_s=5.0), around=around)
                self.sampler = None
