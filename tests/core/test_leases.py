"""Leases: one of many takes a cell, the dead are taken over from, and who wakes up too late spoils nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.core import leases as module
from harness.core.errors import MachineError
from harness.core.leases import DEAD_S, Leases, held_by_harnesses, held_cells

CELLS = Path("leases") / "cells"


def grown_old(path: Path, seconds: float = DEAD_S + 5) -> None:
    """Make a lease look as if nobody had touched it for so long."""
    then = time.time() - seconds
    os.utime(path, (then, then))


@pytest.fixture(autouse=True)
def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be touched by itself: the holders of these tests are stopped."""
    monkeypatch.setattr(module, "BEAT_S", 3600.0)


def inodes(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in (folder / CELLS).iterdir()}


def two(folder: Path) -> tuple[Leases, Leases]:
    return Leases(folder, joins=True), Leases(folder, joins=True)


def test_of_many_who_try_one_takes_a_cell(tmp_path):
    took: list[object] = []
    barrier = threading.Barrier(8)
    with Leases(tmp_path, joins=True) as leases:

        def take() -> None:
            barrier.wait()
            took.append(leases.take("cell"))

        threads = [threading.Thread(target=take) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len([lease for lease in took if lease is not None]) == 1


def test_a_cell_is_free_again_when_it_is_released(tmp_path):
    one, other = two(tmp_path)
    with one, other:
        held = one.take("lr0.1-s0")
        assert held is not None
        assert other.take("lr0.1-s0") is None
        held.release()
        assert other.take("lr0.1-s0") is not None


def test_the_dead_are_taken_over_from_by_one(tmp_path):
    one, other = two(tmp_path)
    with one, other, Leases(tmp_path, joins=True) as third:
        assert one.take("cell") is not None
        grown_old(tmp_path / CELLS / "cell.1")
        assert other.take("cell") is not None
        assert third.take("cell") is None
        assert {path.name for path in (tmp_path / CELLS).iterdir()} == {"cell.2"}


def test_a_process_of_this_machine_that_is_gone_is_dead_at_once(tmp_path):
    code = (
        "import os, signal; from pathlib import Path; from harness.core.leases import Leases\n"
        f"with Leases(Path({str(tmp_path)!r}), joins=True) as leases:\n"
        "    leases.take('cell'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert not held_cells(tmp_path)["cell"].live
    with Leases(tmp_path, joins=True) as leases:
        assert leases.take("cell") is not None


def test_who_still_has_a_cell_may_write(tmp_path):
    one, other = two(tmp_path)
    with one, other:
        held = one.take("cell")
        assert held is not None
        assert held.confirm()
        grown_old(tmp_path / CELLS / "cell.2", 1.0)
        assert other.take("cell") is None
        held.release()
        assert not held_cells(tmp_path)


def finish(leases: Leases) -> None:
    taken = leases.take("cell")
    assert taken is not None
    assert taken.confirm()
    taken.release()


def still_run(leases: Leases) -> None:
    assert leases.take("cell") is not None


def give_up(leases: Leases) -> None:
    taken = leases.take("cell")
    assert taken is not None
    taken.release()


def give_up_and_take_again(leases: Leases) -> None:
    give_up(leases)
    still_run(leases)


@pytest.mark.parametrize("meanwhile", [finish, still_run, give_up, give_up_and_take_again])
def test_who_wakes_up_after_a_takeover_may_not_write(tmp_path, meanwhile: Callable[[Leases], None]):
    one, other = two(tmp_path)
    with one, other:
        stopped = one.take("cell")
        assert stopped is not None
        grown_old(tmp_path / CELLS / "cell.1")
        meanwhile(other)
        left = inodes(tmp_path)
        assert not stopped.confirm()
        stopped.release()
        assert inodes(tmp_path) == left  # what the other holds is as it was


def test_ages_are_measured_by_the_file_system_not_by_this_hosts_clock(tmp_path, monkeypatch):
    one, other = two(tmp_path)
    with one, other:
        assert one.take("cell") is not None
        monkeypatch.setattr("time.time", lambda: 4e9)
        assert other.take("cell") is None
        assert held_cells(tmp_path)["cell"].silent_s < DEAD_S


def test_what_is_told_is_read_with_the_next_touch(tmp_path):
    with Leases(tmp_path) as leases:
        held = leases.take("cell", colour="red")
        assert held is not None
        held.tell(step=7)
        held.touch()
        facts = held_cells(tmp_path)["cell"].facts
        assert (facts["colour"], facts["step"], facts["process"]) == ("red", 7, os.getpid())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\x00", b'{"process": "x", "host": 3}'])
def test_a_lease_that_cannot_be_read_counts_by_its_age(tmp_path, content):
    with Leases(tmp_path, joins=True) as leases:
        (tmp_path / CELLS).mkdir(parents=True)
        (tmp_path / CELLS / "cell.1").write_bytes(content)
        assert leases.take("cell") is None
        grown_old(tmp_path / CELLS / "cell.1")
        assert leases.take("cell") is not None


@pytest.mark.parametrize(("first", "second"), [(False, False), (False, True), (True, False)])
def test_who_wants_to_be_alone_is_refused_company_and_the_other_way_round(tmp_path, first, second):
    with Leases(tmp_path, joins=first):
        with pytest.raises(MachineError) as error, Leases(tmp_path, joins=second):
            pytest.fail("both work there")
        assert f"process {os.getpid()}" in str(error.value)
        assert ("--join" in str(error.value)) == (first or second)
        assert len(held_by_harnesses(tmp_path)) == 1
    assert not (tmp_path / "leases").exists()


def test_who_joins_has_the_same_plan(tmp_path):
    one, other = two(tmp_path)
    with one, other:
        one.agree("a", "lenet")
        other.agree("a", "lenet")
        with pytest.raises(MachineError, match="another plan"):
            other.agree("b", "lenet")


def test_the_last_to_leave_is_the_last(tmp_path):
    one, other = two(tmp_path)
    with one, other:
        assert not one.leave()
        assert other.leave()


def test_the_dead_hold_nobody_up(tmp_path):
    one, other = two(tmp_path)
    with one, other:
        for path in (tmp_path / "leases" / "harnesses").iterdir():
            if path.name == one._own.name:
                grown_old(path)
        assert other.leave()


def test_who_is_alone_removes_what_the_dead_have_left(tmp_path):
    (tmp_path / CELLS).mkdir(parents=True)
    (tmp_path / CELLS / "cell.3").write_text(json.dumps({"host": "gone", "process": 1}))
    grown_old(tmp_path / CELLS / "cell.3")
    with Leases(tmp_path) as leases:
        assert not held_cells(tmp_path)
        assert leases.take("cell") is not None
    assert not (tmp_path / "leases").exists()


def test_a_lease_is_kept_fresh(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    with Leases(tmp_path) as leases:
        held = leases.take("cell")
        assert held is not None
        grown_old(held.path)
        deadline = time.monotonic() + 10
        while not held_cells(tmp_path)["cell"].live and time.monotonic() < deadline:
            time.sleep(0.02)
        assert held_cells(tmp_path)["cell"].live


@pytest.mark.parametrize("place", ["leases", "leases/cells"])
def test_no_lease_is_written_through_a_link(tmp_path, place):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "results" / place).parent.mkdir(parents=True)
    (tmp_path / "results" / place).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(MachineError, match="a link leads out"), Leases(tmp_path / "results"):
        pytest.fail("it was written")
    assert not list((tmp_path / "elsewhere").iterdir())
