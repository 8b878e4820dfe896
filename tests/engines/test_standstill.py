"""While one process of a cell evaluates, the others stand still, and no clock goes on."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable, Iterator

import pytest

from harness.engines.processes.standstill import Standstill
from harness.engines.processes.status import StatusBoard, StatusLine


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
