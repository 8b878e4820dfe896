"""While one process of a cell evaluates, the others stand still, and no clock goes on."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import psutil
import pytest
from lazy import lazy

from harness.core.cell import Loading
from harness.engines.processes.standstill import Standstill
from harness.engines.processes.status import StatusBoard, StatusLine

torch = lazy("torch")
streamed = lazy("harness.workloads.streamed")


def count(descriptor: int) -> None:
    line, steps = StatusLine(descriptor, 1, 2), 0
    while True:
        steps += 1
        line.stepped(steps)
        time.sleep(0.0005)


@pytest.fixture
def board() -> Iterator[StatusBoard]:
    board = StatusBoard(2)
    counter = multiprocessing.get_context("fork").Process(target=count, args=(board.descriptor,), daemon=True)
    counter.start()
    soon(lambda: board.reached(1).steps > 0)
    yield board
    counter.kill()
    counter.join()
    board.close()


def soon(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not condition() and time.monotonic() < until:
        time.sleep(0.001)
    assert condition()


def test_others_stop_and_go_on(board: StatusBoard) -> None:
    line = StatusLine(board.descriptor, 0, 2)
    with Standstill(line).kept():
        time.sleep(0.02)  # a signal takes microseconds
        before = board.reached(1).steps
        time.sleep(0.05)
        assert board.reached(1).steps == before
    soon(lambda: board.reached(1).steps > before)


def test_who_the_others_are_may_be_found_before(board: StatusBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    line = StatusLine(board.descriptor, 0, 2)
    standstill = Standstill(line)
    standstill.find_others()
    monkeypatch.setattr(line, "other_processes", None)
    with standstill.kept():
        time.sleep(0.02)
        before = board.reached(1).steps
        time.sleep(0.02)
        assert board.reached(1).steps == before


def test_others_go_on_after_an_error(board: StatusBoard) -> None:
    with pytest.raises(ValueError, match="broken model"), Standstill(StatusLine(board.descriptor, 0, 2)).kept():
        raise ValueError("broken model")
    before = board.reached(1).steps
    soon(lambda: board.reached(1).steps > before)


def test_the_clock_of_every_process_leaves_a_standstill_out(board: StatusBoard) -> None:
    mine, other = (StatusLine(board.descriptor, number, 2) for number in (0, 0))
    before = time.monotonic() - other.clock()
    for _ in range(2):
        with Standstill(mine).kept():
            time.sleep(0.05)
    assert mine.stood_s() == other.stood_s() >= 0.1
    assert time.monotonic() - other.clock() - before == pytest.approx(mine.stood_s(), abs=1e-3)


# -- processes that read ahead -----------------------------------------------------------------------------------------


class Zeros:
    def __len__(self) -> int:
        return 100

    def read(self, rows: Any, *_: object) -> Any:
        return np.zeros((len(rows), 4), dtype=np.float32), np.zeros(len(rows), dtype=np.int64)


def read_ahead(said: Any) -> None:
    def convert(inputs: Any, targets: Any) -> Any:
        return torch.from_numpy(inputs), torch.from_numpy(targets)

    loading = Loading(workers=2, prefetch=2)
    split = streamed.Streamed(Zeros(), torch.zeros(100), convert, torch.device("cpu"), loading)
    split.follow([(np.arange(10), 0)] * 50)
    said.send([child.pid for child in psutil.Process().children()])
    time.sleep(60)


def test_readers_that_are_held_end_with_whoever_they_read_for() -> None:
    mine, theirs = multiprocessing.Pipe()
    reader = multiprocessing.get_context("fork").Process(target=read_ahead, args=(theirs,))
    reader.start()
    held = [psutil.Process(pid) for pid in mine.recv()]
    soon(lambda: all(process.status() == psutil.STATUS_STOPPED for process in held))
    assert len(held) == 2
    reader.kill()
    reader.join()
    soon(lambda: not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in held))
