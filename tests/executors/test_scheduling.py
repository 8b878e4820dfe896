"""Which cells the local executor runs beside which: supervisors that compute nothing stand in for real ones."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest
from cells import host, make_cell

from harness.core.cell import Cell
from harness.core.endings import Cause, Status
from harness.core.interrupts import Uninterrupted
from harness.engines.processes.launch import Result
from harness.engines.processes.status import Reached
from harness.executors import local
from harness.executors.local import Local
from harness.executors.protocol import CellTask, Ended, Whereabouts
from harness.executors.run_one import without_running
from harness.executors.supervising import SupervisorLost

VIRTUAL, REAL = "virtual", "real"


def task(number: int, engine: str = VIRTUAL, **changes: object) -> CellTask:
    cell = replace(make_cell(sweep__strategy=["single"]), cell_id=f"{engine}-{number}", engine=engine, **changes)
    return CellTask(cell, environment={"id": "here"})


def ended(given: CellTask) -> Ended:
    return without_running(given, Result.ended_by(Cause.IMPOSSIBLE, "for the test"))


class Machine:
    """What runs at one moment, as the supervisors and this process tell it.

    Attributes:
        lose: how often a cell's supervisor dies, by its id.
        beside: of each cell, what ran when it started.
    """

    def __init__(self, lose: dict[str, int] | None = None) -> None:
        self.running: list[str] = []
        self.beside: dict[str, set[str]] = {}
        self.most = self.supervisors = self.swept = 0
        self.lose = Counter(lose or {})
        self.told: list[str] = []
        self.places: set[int] = set()

    def start(self, cell: Cell) -> None:
        self.beside[cell.cell_id] = set(self.running)
        self.running.append(cell.cell_id)
        self.most = max(self.most, len(self.running))

    def end(self, cell: Cell) -> None:
        self.running.remove(cell.cell_id)

    def here(self, given: CellTask, *_: object) -> Ended:
        self.start(given.cell)
        self.end(given.cell)
        return ended(given)

    # -- as a watcher

    def started(self, given: CellTask, place: Whereabouts) -> None:
        self.told.append(given.cell_id)
        self.places.add(place.process)

    def reached(self, given: CellTask, reached: Reached) -> None:
        assert given.cell_id in self.running


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    found = Machine()

    class FakeSupervisor:
        """Runs a cell until it is heard a second time."""

        def __init__(self, name: str) -> None:
            found.supervisors += 1
            self.place = Whereabouts(name, 1000 + found.supervisors)
            self.task: CellTask | None = None
            self.heard_before = False
            self.pipe = os.pipe()
            os.write(self.pipe[1], b"x")

        def fileno(self) -> int:
            return self.pipe[0]

        def give(self, given: CellTask) -> None:
            self.task, self.heard_before = given, False
            found.start(given.cell)

        def heard(self, ready: bool) -> Iterator[Reached | Ended]:
            assert ready
            assert self.task is not None
            if found.lose[self.task.cell_id]:
                found.lose[self.task.cell_id] -= 1
                raise SupervisorLost("was killed by SIGKILL")
            yield Reached(1, None)
            if self.heard_before:
                given, self.task = self.task, None
                found.end(given.cell)
                yield ended(given)
            self.heard_before = True

        def leave(self) -> None: ...

        def reap(self) -> None:
            for descriptor in self.pipe:
                with contextlib.suppress(OSError):
                    os.close(descriptor)

    monkeypatch.setattr(local, "Supervisor", FakeSupervisor)
    monkeypatch.setattr(local, "run_one", found.here)
    monkeypatch.setattr(local, "end_all", lambda: found.running.clear())
    monkeypatch.setattr(local, "sweep", lambda: None)
    return found


def run(machine: Machine, tasks: Sequence[CellTask], at_once: int = 3) -> list[Ended]:
    with Uninterrupted(), Local(host(), at_once) as executor:
        return list(executor.run(iter(tasks), machine))


def test_every_task_ends_once_and_as_many_run_as_may(machine):
    tasks = [task(n) for n in range(20)]
    assert Counter(e.task.cell_id for e in run(machine, tasks)) == Counter(t.cell_id for t in tasks)
    assert machine.most == machine.supervisors == 3
    assert machine.told == [t.cell_id for t in tasks]
    assert machine.places == {1001, 1002, 1003}


def test_what_measures_the_machine_runs_alone_and_in_its_turn(machine):
    tasks = [task(0), task(1), task(2, REAL), task(3, REAL), task(4), task(5)]
    found = run(machine, tasks)
    assert len(found) == 6
    assert machine.beside["real-2"] == machine.beside["real-3"] == set()
    assert machine.beside["virtual-1"] == {"virtual-0"}
    assert not {"real-2", "real-3"} & machine.beside["virtual-4"]
    assert machine.told == [t.cell_id for t in tasks]
    assert os.getpid() in machine.places


def test_what_is_timed_without_being_computed_runs_here_until_that_takes_long(machine, monkeypatch):
    clock = iter(range(0, 10_000, 2))
    monkeypatch.setattr(local.time, "monotonic", lambda: float(next(clock)))
    run(machine, [task(n, timing_only=True) for n in range(6)])
    assert machine.supervisors == 3
    assert [machine.beside[f"virtual-{n}"] for n in range(3)] == [set(), set(), set()]


@pytest.mark.parametrize(("threads", "most"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_cells_of_several_threads_take_as_many_cores(machine, threads, most):
    found = run(machine, [task(n, threads_per_device=threads) for n in range(8)], at_once=4)
    assert len(found) == 8
    assert machine.most == most


def test_what_cannot_run_is_not_handed_on(machine):
    (found,) = run(machine, [task(0, not_possible="too large")])
    assert machine.supervisors == 0
    assert found.task.cell_id == "virtual-0"


def test_a_task_is_taken_when_there_is_room_and_before_records_are_written(machine):
    taken: list[int] = []

    def feed() -> Iterator[CellTask]:
        for number in range(6):
            taken.append(number)
            yield task(number)

    with Uninterrupted(), Local(host(), 2) as executor:
        ending = executor.run(feed(), machine)
        next(ending)
        assert taken == [0, 1, 2, 3] or taken == [0, 1, 2]  # two run beside what has just ended
        assert len(machine.running) == 2
        ending.close()
    assert machine.running == []


def test_a_cell_that_loses_its_supervisor_runs_again_with_all_that_ran_beside_it(machine):
    machine.lose["virtual-1"] = 1
    tasks = [task(n) for n in range(5)]
    found = run(machine, tasks)
    assert Counter(e.task.cell_id for e in found) == Counter(t.cell_id for t in tasks)
    assert all(e.record.cause is Cause.IMPOSSIBLE for e in found)
    assert Counter(machine.told) == Counter(t.cell_id for t in tasks)  # told once, however often it began


def test_a_cell_that_loses_two_supervisors_was_killed(machine):
    machine.lose["virtual-1"] = 9
    found = {e.task.cell_id: e.record for e in run(machine, [task(n) for n in range(5)])}
    assert len(found) == 5
    assert found["virtual-1"].cause is Cause.KILLED
    assert found["virtual-1"].status is not Status.OK
    assert "SIGKILL" in found["virtual-1"].reason
    assert [r.cause for r in found.values()].count(Cause.KILLED) == 1


def test_an_interrupt_ends_all_that_runs(machine, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(local, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(machine, [task(n) for n in range(5)])
    assert machine.running == []
