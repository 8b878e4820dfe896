"""What a run does with what an executor brings home: stored in order of ending, told by rounds, never lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import pytest
from cells import host, make_cells

from harness.commands.rounds import Summary, run_cells
from harness.core.cell import Cell, Plan
from harness.core.endings import Cause, Status
from harness.core.errors import InputError, MachineError
from harness.core.leases import Leases, held_cells
from harness.core.machine import Machine
from harness.engines.processes.launch import Result
from harness.engines.processes.status import Reached
from harness.executors.protocol import CellTask, Ended, Watcher, Whereabouts
from harness.executors.run_one import without_running
from harness.results.store import Record, Results


def ended(task: CellTask, cause: Cause = Cause.IMPOSSIBLE, **fields: Any) -> Ended:
    found = without_running(task, Result.ended_by(cause, f"for the test: {cause}"))
    return Ended(task, found.record, found.tables, **fields)


class Backwards:
    """Takes so many tasks at once, and brings home the last one first."""

    goes_on = ""

    def __init__(self, at_once: int = 3, made: Callable[[CellTask], Ended] = ended) -> None:
        self.at_once, self.made = at_once, made
        self.closed = 0

    def __enter__(self) -> Backwards:
        return self

    def __exit__(self, *_: object) -> None: ...

    def run(self, tasks: Iterable[CellTask], watcher: Watcher) -> Generator[Ended]:
        feed = iter(tasks)
        try:
            while batch := [task for _, task in zip(range(self.at_once), feed, strict=False)]:
                for task in batch:
                    watcher.started(task, Whereabouts("elsewhere", 7))
                    watcher.reached(task, Reached(5, None))
                for task in reversed(batch):
                    yield self.made(task)
        finally:
            self.closed += 1


class Told:
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.rounds: list[int] = []

    def started(self, cell: Cell, number: int, of: int) -> None:
        self.said.append(f"started {number} of {of}")

    def reached(self, cell: Cell, reached: Reached) -> None: ...

    def finished(self, record: Record, seconds: float) -> None:
        self.said.append(f"finished {record.cell.cell_id}")

    def elsewhere(self, record: Record, of: int) -> None:
        self.said.append(f"elsewhere {record.cell.cell_id}")

    def waiting(self, num_cells: int) -> None:
        self.said.append(f"waiting {num_cells}")

    def round_ended(self, results: Results) -> None:
        self.rounds.append(len(results.stored_cells()))


@pytest.fixture
def results(tmp_path: Path) -> Results:
    return Results(tmp_path / "results" / "test")


def plan_of(seeds: int = 2) -> Plan:
    cells = make_cells(sweep__strategy=["single"], sweep__learning_rate=[0.1, 0.2, 0.3], sweep__seeds=seeds)
    return Plan("test", "", Machine(cores=2), tuple(cells))


def run(results: Results, executor: Backwards, told: Told | None = None, **options: Any) -> Summary:
    plan = plan_of()
    results.write_plan(plan)
    return run_cells(plan, plan.cells, results, host(), (), told or Told(), executor=executor, **options)


def test_what_ends_first_is_stored_first_and_rounds_end_in_order(results):
    told, executor = Told(), Backwards(at_once=2)  # three cells a round: the second batch is of both rounds
    summary = run(results, executor, told)
    ids = [cell.cell_id for cell in plan_of().cells]
    assert [record.cell.cell_id for record in summary.ran] == [ids[n] for n in (1, 0, 3, 2, 5, 4)]
    assert told.rounds == [4, 6]  # the first round had ended when four cells were there
    assert told.said[:2] == ["started 1 of 6", "started 2 of 6"]
    assert executor.closed == 1


def test_a_log_and_a_trace_that_come_home_lie_beside_the_record(results):
    run(results, Backwards(made=lambda task: ended(task, log=b"said there", trace={"traceEvents": []})))
    for cell_id in results.stored_cells():
        folder = results.cell_folder(cell_id)
        assert (folder / "log.txt").read_bytes() == b"said there"
        assert json.loads((folder / "trace.json").read_text()) == {"traceEvents": []}


def test_an_interrupt_marks_what_ran_and_nothing_that_waited(results):
    def interrupted(task: CellTask) -> Ended:
        raise KeyboardInterrupt

    with Leases(results.folder) as leases:
        summary = run(results, Backwards(at_once=2, made=interrupted), leases=leases)
        assert held_cells(results.folder) == {}
    assert summary.interrupted
    stored = [results.record(cell_id) for cell_id in sorted(results.stored_cells())]
    assert [record and record.status for record in stored] == [Status.INTERRUPTED] * 2
    assert [record and record.attempts for record in stored] == [0, 0]


@pytest.mark.parametrize(
    ("cause", "error"), [(Cause.MACHINE, MachineError), (Cause.WORKLOAD, InputError)], ids=["machine", "workload"]
)
def test_what_no_cell_is_to_blame_for_ends_the_run_without_a_record(results, cause, error):
    executor = Backwards(made=lambda task: ended(task, cause))
    with pytest.raises(error, match="for the test"):
        run(results, executor)
    assert results.stored_cells() == set()
    assert executor.closed == 1


def test_a_budget_that_is_over_hands_out_nothing_more(results, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("harness.commands.rounds.time.monotonic", lambda: float(next(clock)))
    summary = run(results, Backwards(at_once=1), budget_s=8.0)
    assert summary.out_of_budget
    assert 1 <= len(summary.ran) < 6
    assert len(results.stored_cells()) == len(summary.ran)


def test_where_it_runs_and_how_far_it_is_stands_in_its_lease(results):
    seen: list[tuple[object, object]] = []

    def made(task: CellTask) -> Ended:
        for lease in leases._held:
            lease.touch()
        facts = held_cells(results.folder)[task.cell_id].facts
        seen.append((facts["where"], facts["step"]))
        return ended(task)

    with Leases(results.folder) as leases:
        run(results, Backwards(made=made), leases=leases)
    assert seen == [({"host": "elsewhere", "process": 7}, 5)] * 6


def test_a_result_for_a_cell_that_another_has_taken_over_and_finished_is_thrown_away(results, monkeypatch):
    monkeypatch.setattr("harness.core.leases.BEAT_S", 3600.0)
    monkeypatch.setattr("harness.commands.rounds.OTHERS_S", 0.01)
    victim = plan_of().cells[0].cell_id
    other = Leases(results.folder, joins=True)

    def made(task: CellTask) -> Ended:
        if task.cell_id == victim and not (results.cell_folder(victim) / "record.json").exists():
            (results.folder / "leases" / "cells" / f"{victim}.1").unlink()  # dead, and removed by who took it over
            theirs = other.take(victim)
            assert theirs is not None
            found = ended(task)
            results.write_record(found.record, found.tables, theirs.confirm)
            theirs.release()
        return ended(task, Cause.USER)

    with Leases(results.folder, joins=True) as leases, other:
        told = Told()
        summary = run(results, Backwards(made=made), told, leases=leases)
    record = results.record(victim)
    assert record is not None
    assert record.cause is Cause.IMPOSSIBLE
    assert (len(summary.ran), summary.elsewhere) == (5, 1)
    assert f"elsewhere {victim}" in told.said


def test_cells_that_others_run_are_waited_for_and_taken_over_when_they_die(results, monkeypatch):
    monkeypatch.setattr("harness.core.leases.BEAT_S", 3600.0)
    victim = plan_of().cells[2].cell_id
    waits = 0

    def sleep(_: float) -> None:
        nonlocal waits
        waits += 1
        if waits == 3 and lease is not None:
            lease.release()

    monkeypatch.setattr("harness.commands.rounds.time.sleep", sleep)
    with Leases(results.folder, joins=True) as leases, Leases(results.folder, joins=True) as other:
        lease = other.take(victim)
        told = Told()
        summary = run(results, Backwards(), told, leases=leases)
    assert waits == 3
    assert "waiting 1" in told.said
    assert [record.cell.cell_id for record in summary.ran][-1] == victim
    assert len(summary.ran) == 6
