"""Every wait has an end: words that stop in the middle, processes that cannot be ended, and who hangs where."""

from __future__ import annotations

import ast
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cells import host, make_cell
from supervised import Place, child_of

import harness
from harness.core.endings import Cause
from harness.core.failure import Failure, Hang, SourceLine
from harness.core.text import Text
from harness.engines.processes import hearing
from harness.engines.processes.hearing import Ear, Silent, how_ended, reap, receive, send
from harness.engines.processes.kernel_kills import kernel_kills
from harness.engines.processes.launch import DEADLOCK_S, Result, _hanging, _Supervisor
from harness.engines.processes.stacks import ask, is_at_rest, is_stopped, line_in
from harness.engines.processes.status import StatusBoard, StatusLine
from harness.engines.shared.waits import Wait
from harness.executors.make_record import make_record
from harness.executors.timed import run_in_this_process

# -- words -------------------------------------------------------------------------------------------------------------


def test_a_word_that_stops_in_its_middle_keeps_nobody_waiting():
    ours, theirs = Pipe()
    os.write(theirs.fileno(), struct.pack("!i", 1000) + b"x" * 100)
    with pytest.raises(Silent):
        receive(ours, 0.05)
    assert Ear(ours).words() == []


def test_a_word_that_comes_in_parts_is_whole_in_the_end_and_no_byte_of_the_next_is_lost():
    ours, theirs = Pipe()
    theirs.send("first")
    content = os.read(ours.fileno(), 1000)
    theirs.send(["second"])
    content += os.read(ours.fileno(), 1000)
    ear = Ear(ours)
    heard = []
    for byte in content:
        os.write(theirs.fileno(), bytes([byte]))
        heard += ear.words()
    assert heard == ["first", ["second"]]


def test_words_longer_than_a_pipe_holds_are_taken_in_with_what_follows():
    ours, theirs = Pipe()
    long = bytes(3_000_000)
    threading.Thread(target=lambda: [theirs.send(each) for each in (long, "after")], daemon=True).start()
    ear = Ear(ours)
    assert ear.word(20) == long
    assert ear.word(20) == "after"


@pytest.mark.parametrize("size", [struct.pack("!i", -1) + struct.pack("!Q", 5), struct.pack("!i", 5)])
def test_what_is_no_word_is_an_error_of_the_pipe_in_either_form_of_a_length(size):
    ours, theirs = Pipe()
    os.write(theirs.fileno(), size + b"chaos")
    with pytest.raises(OSError, match="no word"):
        receive(ours, 5)


def test_the_end_of_a_pipe_comes_after_the_words_before_it():
    ours, theirs = Pipe()
    theirs.send("last")
    theirs.close()
    ear = Ear(ours)
    assert ear.words() == ["last"]
    with pytest.raises(EOFError):
        ear.words()


def test_a_pipe_that_nobody_reads_takes_only_so_long():
    reading, writing = os.pipe()
    with pytest.raises(Silent):
        send(writing, bytes(10_000_000), 0.05)
    os.close(reading)
    with pytest.raises(BrokenPipeError):
        send(writing, b"x", 0.05)
    os.close(writing)


WAITING = {"recv", "recv_bytes", "recv_bytes_into"}
BOUNDED_ELSEWHERE = {
    ("real/messages.py", "recv_bytes"),  # in a cell's process, which the supervisor's deadline ends
}


def test_nothing_in_the_engines_waits_for_a_process_without_a_deadline():
    root = Path(harness.__file__).parent / "engines"
    found = set()
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if isinstance(node.func.value, ast.Name) and node.func.value.id == "dist":
                continue  # of torch's process group, which has a limit of its own
            bare = node.func.attr == "join" and not node.args and not node.keywords
            if node.func.attr in WAITING or bare:
                found.add((path.relative_to(root).as_posix(), node.func.attr))
    assert found == BOUNDED_ELSEWHERE


# -- ends --------------------------------------------------------------------------------------------------------------


def test_a_process_that_cannot_be_ended_is_left_and_named(monkeypatch):
    monkeypatch.setattr(hearing, "REAP_S", 0.05)
    waited: list[float] = []
    stuck: Any = SimpleNamespace(pid=1, exitcode=None, join=waited.append, kill=lambda: None)
    never: Any = SimpleNamespace(pid=None, exitcode=None)
    assert reap([stuck, never], 0.0) == [stuck]
    assert len(waited) == 2
    assert max(waited) <= 0.05


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "closed its connection and lives on"),
        (7, "ended with exit code 7 without a word"),
        (-11, "was killed by SIGSEGV"),
        (-40, "was killed by signal 40"),
        (-9, "was killed by SIGKILL"),
    ],
)
def test_a_process_that_said_nothing_is_told_by_its_exit_status(code, words):
    process: Any = SimpleNamespace(exitcode=code)
    assert how_ended(process, kernel_kills()) == words


def groups(folder: Path, lines: str, files: dict[str, str]) -> tuple[Path, Path]:
    (folder / "proc").mkdir()
    (folder / "proc" / "cgroup").write_text(lines)
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    return folder / "proc", folder / "groups"


@pytest.mark.parametrize(
    ("lines", "files", "count"),
    [
        ("0::/user/run\n", {"user/run/memory.events": "low 0\noom 3\noom_kill 2\n"}, 2),
        ("0::/\n", {"memory.events": "oom_kill 5\n"}, 5),
        ("0::/as/the/host/sees\n", {"memory.events": "oom_kill 4\n"}, 4),
        ("4:memory:/a\n3:cpuset:/b\n0::/\n", {"memory/a/memory.oom_control": "under_oom 0\noom_kill 1\n"}, 1),
        ("0::/\n", {}, None),
        ("0::/\n", {"memory.events": "torn"}, None),
    ],
)
def test_the_kernels_kills_are_counted_by_both_kinds_of_control_groups(tmp_path, lines, files, count):
    assert kernel_kills(*groups(tmp_path, lines, files)) == count
    assert kernel_kills(tmp_path / "nothing") is None


def test_a_kill_is_for_memory_only_where_the_count_has_grown(monkeypatch):
    killed: Any = SimpleNamespace(exitcode=-9)
    crashed: Any = SimpleNamespace(exitcode=-11)
    monkeypatch.setattr(hearing, "kernel_kills", lambda: 3)
    assert "memory ran out" in how_ended(killed, 2)
    assert how_ended(killed, 3) == how_ended(killed, None) == "was killed by SIGKILL"
    assert how_ended(crashed, 2) == "was killed by SIGSEGV"


# -- who hangs where ---------------------------------------------------------------------------------------------------

STACKS = """\
Thread 0x00007f0000000001 (most recent call first):
  File "/lib/threading.py", line 320 in wait

Current thread 0x00007f0000000002 (most recent call first):
  File "<frozen importlib._bootstrap>", line 241 in _call_with_frames_removed
  File "/lib/torch/distributed.py", line 99 in all_reduce
  File "/home/me/model.py", line 12 in forward
  File "/home/me/model.py", line 40 in step
  File "/lib/runpy.py", line 9 in <module>
"""


def test_a_process_is_in_the_innermost_line_of_the_users_in_its_main_thread():
    assert line_in(STACKS, ["/home/me/model.py"]) == (SourceLine("/home/me/model.py", 12), "forward")
    assert line_in(STACKS, []) == (SourceLine("/lib/torch/distributed.py", 99), "all_reduce")
    assert line_in("", []) is None


STOPS = """
import os, signal, sys, threading, time
from harness.engines.processes.stacks import answer_when_asked
file = answer_when_asked(sys.argv[1])
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def stopped_here():
    os.kill(os.getpid(), signal.SIGSTOP)
def goes_on():
    while True:
        pass
stopped_here()
goes_on()
"""


@pytest.mark.dist
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere any thread may take the signal")
def test_a_stopped_process_of_many_threads_tells_where_it_was_stopped_and_not_where_it_went_then(tmp_path):
    told = []
    for number in range(6):
        place = tmp_path / str(number)
        with subprocess.Popen([sys.executable, "-c", STOPS, str(place)]) as child:
            try:
                assert until(lambda child=child: is_stopped(child.pid))
                (stack,) = ask([(child.pid, place)])
            finally:
                child.kill()
        told.append(line_in(stack, []))
    assert [found and found[1] for found in told] == ["stopped_here"] * 6


def test_processes_in_the_same_place_are_told_together():
    line = SourceLine("m.py", 3)
    hangs = [
        Hang("rank 0", line=line, function="forward"),
        Hang("rank 1", line=line, function="forward"),
        Hang("rank 2", stopped=True, line=line, function="forward"),
        Hang("server", waits="receive()"),
        Hang("rank 4"),
    ]
    assert _hanging(hangs) == [
        "rank 0 and rank 1 are in m.py:3, forward",
        "rank 2 is stopped",
        "server waits in receive()",
        "rank 4 does not answer",
    ]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [sys.executable, "-c", "import time; print(flush=True); time.sleep(600)"], stdout=-1
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child
        child.kill()


def until(condition: Any) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def supervised(children: list[Any]) -> _Supervisor:
    supervisor = _Supervisor(make_cell(engine="real", sweep__strategy="async-ps", sweep__gpus=[2]), [], "", {}, None)
    supervisor.children = children
    return supervisor


def test_a_stopped_process_is_no_deadlock_of_the_strategy(sleeper):
    board = StatusBoard(1)
    supervisor = supervised([child_of("worker 0", Place(pid=sleeper.pid, board=board))])
    supervisor.started_s = time.monotonic() - 60
    line = StatusLine(board.descriptor, 0, 1)
    line.waiting(Wait.RECEIVE, -1)
    line._map[10:18] = b"\0" * 8  # it has waited since the machine was started
    status = board.read(0)
    assert status is not None
    assert time.monotonic() - status.since_s > DEADLOCK_S
    assert until(lambda: is_at_rest(sleeper.pid))
    found = supervisor._deadlock()
    assert found is not None
    assert found.cause is Cause.DEADLOCK
    sleeper.send_signal(signal.SIGSTOP)
    assert until(lambda: is_stopped(sleeper.pid))
    assert not is_at_rest(sleeper.pid)
    assert supervisor._deadlock() is None
    board.close()


def test_of_several_failures_the_first_in_time_is_told_and_complaints_are_not():
    def of(cause: Cause, words: str, at_s: float, follows: bool = False) -> Failure:
        return Failure(cause, Text(words), at_s=at_s, follows=follows)

    later = child_of("worker 0", failure=of(Cause.USER, "later", 3.0), gone=True)
    complains = child_of("worker 1", failure=of(Cause.USER, "no value", 1.0, follows=True), gone=True)
    peer = child_of("worker 2", failure=of(Cause.PEER, "closed by peer", 0.5), gone=True)
    first = child_of("server", failure=of(Cause.MEMORY, "first", 2.0), gone=True)
    supervisor = supervised([later, complains, peer, first])
    assert supervisor._first_failure().reason == "server: first"
    supervisor.children = [complains, peer, child_of("server", code=7, gone=True, gone_s=9.0)]
    assert supervisor._first_failure().reason == "server ended with exit code 7 without a word"


def test_who_hangs_is_on_record_as_data():
    cell = make_cell(engine="real", sweep__strategy="single")
    hang = Hang("worker 0", True, line=SourceLine("m.py", 3), function="forward")
    record, _ = make_record(
        cell, Result(failure=Failure(Cause.TIMEOUT, Text("late"), hangs=(hang,))), None, {"id": "e"}, 1
    )
    expected = {"process": "worker 0", "stopped": True, "waits": "", "function": "forward"}
    expected["line"] = {"file": "m.py", "number": 3}
    assert json.loads(json.dumps(record.detail)) == {"failure": {"raised_at": None, "hangs": [expected]}}


ENDLESS = """
from harness import Strategy, hookimpl


class Mine(Strategy):
    name = "mine"
    synchrony = "synchronous"

    async def work(self, worker):
        for batch in worker.batches():
            while True:
                pass


@hookimpl
def harness_strategies():
    return [Mine]
"""


def test_a_program_that_never_ends_has_its_time_in_this_process_too(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(ENDLESS)
    cell = make_cell(
        workload={"model": {"parameters": "1 M", "layers": 2}},
        goal={"max_steps": 3},
        cluster={"device": {"samples_per_second": 52, "batch_size": 16}, "inter_node": "25 Gb/s"},
        plugins=(str(path),),
        sweep={"strategy": "mine", "gpus": [2]},
        limits={"cell_timeout": "0.5 s"},
    )
    result = run_in_this_process(cell, host((str(path),)), [str(path)], tmp_path / "log")
    assert result is not None
    assert result.failure is not None
    (hang,) = result.failure.hangs
    lines = ENDLESS.splitlines()
    assert hang.line in [
        SourceLine(str(path), lines.index(text) + 1) for text in lines if "while" in text or "pass" in text
    ]
    assert (result.cause, hang.function) == (Cause.TIMEOUT, "work")
    assert "not finished after 0.5 s (limits.cell_timeout); virtual cluster is in " in result.reason
    assert "OutOfTime" in (tmp_path / "log").read_text()
