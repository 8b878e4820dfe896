"""Tell listeners of a run, those of plugins and the trackers that were asked for: none of them can end it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from harness.api.host import describe
from harness.api.listeners import Listener, ScenarioRun, StoredCell, Tracker
from harness.commands.terminal import say
from harness.core.cell import Cell, Plan
from harness.core.deadlines import OutOfTime, ended_after
from harness.core.endings import Status
from harness.core.errors import HarnessError, InputError, MachineError, one_of
from harness.core.records import Json
from harness.core.row import Row
from harness.results.store import Record, Results
from harness.results.tables import read_columns

HEARS_S, ENDS_S = 300.0, 3600.0
"""Longest that a listener may take to hear of a cell or of the run's start, and of its end; chosen: trackers wait a
minute for a server that does not answer, and log at the end what earlier runs have left."""


class Audience:
    """Those who listen to one run.

    Attributes:
        say: says what became of one.
    """

    def __init__(self, listeners: Iterable[tuple[str, Listener]], run: ScenarioRun) -> None:
        self.run = run
        self.say: Callable[[str], object] = say
        self.listeners = [_Guarded(name, listener, self) for name, listener in listeners]

    @contextmanager
    def saying(self, say: Callable[[str], object]) -> Iterator[None]:
        """Say what is to be said in another way for a while: above a live display."""
        before, self.say = self.say, say
        try:
            yield
        finally:
            self.say = before

    def started(self) -> None:
        """Tell that the run begins."""
        for listener in self.listeners:
            listener.run_started(self.run)

    def finished(self, answer: Json, again: bool = True) -> None:
        """Tell that the run has ended.

        Args:
            answer: of the scenario, as a document.
            again: whether those that failed are told too: not where somebody waits for the command to end.
        """
        for listener in self.listeners:
            if again or not listener.failed:
                listener.run_finished(self.run, answer)


class _Guarded(Listener):
    """Passes on what it is told, and outlives what the other raises: a cell's result matters more than who hears it.

    After a failure the other hears nothing until the run ends, so that a server that does not answer is waited for
    twice, not once a cell.
    """

    def __init__(self, name: str, listener: Listener, audience: Audience) -> None:
        self.name, self.listener, self.audience = name, listener, audience
        self.failed = False

    def run_started(self, run: ScenarioRun) -> None:
        self._pass_on(partial(self.listener.run_started, run))

    def cell_started(self, cell: Cell) -> None:
        self._pass_on(partial(self.listener.cell_started, cell))

    def cell_finished(self, cell: Cell, record: Row) -> None:
        self._pass_on(partial(self.listener.cell_finished, cell, record))

    def run_finished(self, run: ScenarioRun, answer: Json) -> None:
        before, self.failed = self.failed, False
        self._pass_on(partial(self.listener.run_finished, run, answer), before)

    def _pass_on(self, call: partial[None], before: bool = False) -> None:
        """Tell the other, unless it has failed.

        Args:
            call: what it is told.
            before: whether it has failed earlier in this run, which was said then.
        """
        if self.failed:
            return
        method = call.func.__name__
        seconds = ENDS_S if method == "run_finished" else HEARS_S
        try:
            with ended_after(seconds):
                call()
        except OutOfTime:
            self._fail(method, f"it has not returned after {seconds:g} s", before)
        except HarnessError as error:
            self._fail(method, str(error), before)
        except (Exception, SystemExit) as error:
            self._fail(method, describe(error), before)

    def _fail(self, method: str, problem: str, before: bool) -> None:
        self.failed = True
        end = "" if method == "run_finished" else f", and {self.name} is told again when it ends"
        words = f"{self.name}.{method}: {problem}; the run goes on{end}"
        self.audience.say(f"note: {f'{self.name} failed again when the run ended' if before else words}")


def audience_of(
    plan: Plan, results: Results, listeners: Sequence[Listener], trackers: Mapping[str, Listener]
) -> Audience:
    """Return who listens to a run of a plan.

    Args:
        listeners: of plugins.
        trackers: that were asked for, by name.
    """
    run = ScenarioRun(
        name=plan.name,
        description=plan.description,
        folder=results.folder,
        read_cell=partial(_stored_cell, results),
        read_stored=partial(_stored, results),
    )
    named = [(type(listener).__name__, listener) for listener in listeners]
    return Audience([*named, *trackers.items()], run)


def _stored(results: Results) -> Iterator[StoredCell]:
    kept = (_as_stored(results, record) for record in results.records().values())
    yield from (cell for cell in kept if cell is not None)


def _stored_cell(results: Results, cell_id: str) -> StoredCell | None:
    record = results.record(cell_id)
    return None if record is None else _as_stored(results, record)


def _as_stored(results: Results, record: Record) -> StoredCell | None:
    if record.status is Status.INTERRUPTED:
        return None
    folder = results.cell_folder(record.cell.cell_id)
    return StoredCell(
        cell=record.cell,
        row=record.row,
        environment=record.environment,
        notes=record.notes,
        started=record.started,
        took_s=record.took_s,
        read=lambda name: read_columns(folder / name),
    )


def trackers_asked_for(asked: Sequence[str], known: Mapping[str, Tracker]) -> dict[str, Listener]:
    """Return the listeners that `--track` names.

    Args:
        asked: NAME or NAME=WHERE each.
        known: trackers by name.

    Raises:
        InputError: there is none of that name, or one is named twice.
        MachineError: what it needs is not installed, or it raises.
    """
    made: dict[str, Listener] = {}
    for text in asked:
        name, _, where = text.partition("=")
        if name not in known:
            raise InputError([f"--track {text}: no such tracker; {one_of(name, known, 'harness plugins')}"])
        if name in made:
            raise InputError([f"--track {text}: {name} is named twice; name each tracker once"])
        tracker = known[name]
        if tracker.module and not _is_installed(tracker.module):
            raise MachineError(
                f"--track {name}: the package {tracker.module} is not installed: pip install '{tracker.install}'"
            )
        try:
            made[name] = tracker.listen(where)
        except HarnessError:
            raise
        except (Exception, SystemExit) as error:
            raise MachineError(f"--track {text}: {describe(error)}") from error
    return made


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # what it lies in is not there, or is broken
        return False
