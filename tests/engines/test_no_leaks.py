"""Sixty cells in a row leave nothing behind, and a process that is killed never takes the supervisor with it."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import psutil
import pytest
from cells import make_cell
from supervised import child_of

from harness.core.budget import Decision
from harness.core.endings import Cause
from harness.core.failure import Failure
from harness.core.text import Text
from harness.engines.processes.forking import _first, fork_server
from harness.engines.processes.launch import Result, _Supervisor, run_cell
from harness.executors.make_record import make_record

pytestmark = pytest.mark.dist

TINY = {
    "workload": {
        "model": "softmax",
        "dataset": {"name": "synthetic", "samples": 128, "test_samples": 32, "size": 4, "classes": 3},
    },
    "goal": {"target_accuracy": "none", "max_steps": 3},
    "limits": {"cell_timeout": "60 s"},
}
ENDLESS = TINY | {"goal": {"target_accuracy": "none", "max_seconds": 600, "max_steps": 10**8}}

Targets = list[tuple[int, str, str]]


def descendants() -> set[int]:
    """Return all processes below this one: the fork server, which stays warm, and what it has forked."""
    return {child.pid for child in psutil.Process().children(recursive=True) if child.status() != "zombie"}


def listening() -> set[int]:
    """Return the TCP ports that this process or one below it listens on."""
    ports = set()
    for pid in {os.getpid(), *descendants()}:
        try:
            connections = psutil.Process(pid).net_connections("tcp")
        except psutil.Error:
            continue
        ports |= {c.laddr.port for c in connections if c.status == psutil.CONN_LISTEN}
    return ports


def shared_memory() -> set[str]:
    return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()


def settles(condition: Callable[[], bool]) -> bool:
    """Wait for what the system does in its own time; the condition decides, not the clock."""
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.05)
    return condition()


@pytest.fixture(scope="module", autouse=True)
def warm() -> None:
    """Bring the server up that processes fork from: it stays, whichever test comes first."""
    assert run_tiny().finished


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make this process's temporary files go to a folder of its own; those of cells lie beside the socket."""
    fork_server()
    _first.ensure_running()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def temporary(own_temp: Path) -> set[Path]:
    """Return what lies in both temporary folders; what other tests of this process still use is there before."""
    return {*own_temp.iterdir(), *Path(_first.folder).iterdir()}


def run_tiny(**changes: Any) -> Result:
    settings = {"engine": "real", "sweep__strategy": "sync-ddp", "sweep__gpus": [2], **TINY, **changes}
    return run_cell(make_cell(**settings))


@pytest.mark.parametrize("cells", [20, pytest.param(60, marks=pytest.mark.long)])
def test_many_cells_in_a_row_leave_nothing_behind(own_temp, cells):
    assert run_tiny().finished  # brings the fork server up
    processes, ports, shared, files = descendants(), listening(), shared_memory(), psutil.Process().num_fds()
    before = temporary(own_temp)
    seen: set[int] = set()
    for number in range(cells):
        result = run_tiny()
        assert result.finished, f"cell {number}: {result.reason}"
        assert result.outcome.updates == 3
        seen |= {pid for pid, _, _ in result.targets}
    assert len(seen) == 2 * cells
    assert settles(lambda: descendants() <= processes)
    assert not [pid for pid in seen if psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie"]
    assert listening() <= ports
    assert temporary(own_temp) <= before
    # Other programs on this machine come and go: only names that speak of our processes are ours.
    left = shared_memory() - shared
    assert not [name for name in left if any(str(pid) in name for pid in seen)]
    assert psutil.Process().num_fds() <= files


@pytest.mark.parametrize("strategy", ["async-ps", "sync-ps", "local-sgd", "model-split"])
def test_other_strategies_leave_nothing_behind_either(own_temp, strategy):
    run_tiny()
    processes, ports, files, before = descendants(), listening(), psutil.Process().num_fds(), temporary(own_temp)
    for _ in range(3):
        model = {"model": {"name": "mlp", "hidden": [4]}} if strategy == "model-split" else {}
        result = run_tiny(sweep__strategy=strategy, workload=TINY["workload"] | model)
        assert result.finished, result.reason
    assert settles(lambda: descendants() <= processes)
    assert listening() <= ports
    assert temporary(own_temp) <= before
    assert psutil.Process().num_fds() <= files


# -- killed processes --------------------------------------------------------------------------------------------------


def kill(label: str, after_s: float) -> Callable[[Targets], None]:
    """Return an `on_start` that kills one process of the cell once training is under way."""

    def on_start(targets: Targets) -> None:
        (pid,) = [pid for pid, name, _ in targets if name == label]
        threading.Timer(after_s, os.kill, (pid, signal.SIGKILL)).start()

    return on_start


@pytest.mark.timed  # each has trained half a second after all had started
def test_a_killed_asynchronous_worker_does_not_stop_the_others(own_temp):
    changes = ENDLESS | {"goal": {"target_accuracy": "none", "max_seconds": 2, "max_steps": 10**8}}
    cell = make_cell(engine="real", sweep__strategy="async-ps", sweep__gpus=[3], **changes)
    result = run_cell(cell, on_start=kill("worker 1", 0.5))
    assert result.finished, result.reason
    record, _ = make_record(cell, result, None, {"id": "env"}, 1)
    assert "worker 1 was killed by SIGKILL; the others went on" in record.notes
    log = result.outcome.updates_log
    dead = [k for k, worker in enumerate(log["worker"]) if worker == 1]
    assert dead, "it was killed before it had done anything; the machine is too busy for this test"
    assert {0, 2} <= set(log["worker"][dead[-1] + 1 :])
    assert result.outcome.decision is Decision.SECONDS


def test_all_workers_killed_is_a_crash_and_not_a_wait(own_temp):
    cell = make_cell(engine="real", sweep__strategy="async-ps", sweep__gpus=[2], **ENDLESS)
    first, second = kill("worker 0", 0.3), kill("worker 1", 0.3)
    result = run_cell(cell, on_start=lambda targets: (first(targets), second(targets)))
    assert (result.status, result.cause) == ("crashed", "killed")
    assert "was killed by SIGKILL" in result.reason


def test_a_killed_server_ends_the_cell_and_is_named(own_temp):
    cell = make_cell(engine="real", sweep__strategy="async-ps", sweep__gpus=[2], **ENDLESS)
    result = run_cell(cell, on_start=kill("server", 0.3))
    assert (result.status, result.cause) == ("crashed", "killed")
    assert "server was killed by SIGKILL" in result.reason


@pytest.mark.parametrize(("code", "reason"), [(-9, "server was killed by SIGKILL"), (1, "worker 0: no value")])
def test_a_worker_that_is_heard_before_the_server_it_lost_is_not_the_cause(own_temp, code, reason):
    def child(label: str, exit_code: int | None, **fields):
        ours, theirs = Pipe()
        made = child_of(label, code=exit_code, **fields)
        return replace(made, control=ours), theirs

    worker, open_end = child("worker 0", None, failure=Failure(Cause.USER, Text("no value")))
    server, closed_end = child("server", code)
    supervisor = _Supervisor(make_cell(engine="real", sweep__strategy="async-ps", sweep__gpus=[2]), [], "", {}, None)
    supervisor.children = [worker, server]
    closed_end.close()
    result = supervisor._first_failure()
    open_end.close()
    assert result.reason == reason


@pytest.mark.timed
@pytest.mark.parametrize(
    ("strategy", "label"),
    [("sync-ddp", "rank 1"), ("sync-ddp", "rank 0"), ("local-sgd", "worker 1"), ("sync-ps", "worker 1")],
)
def test_a_killed_synchronous_process_ends_the_cell_within_ten_seconds_and_is_named(own_temp, strategy, label):
    processes, before = descendants(), temporary(own_temp)
    killed_s: list[float] = []
    cell = make_cell(engine="real", sweep__strategy=strategy, sweep__gpus=[2], **ENDLESS)

    def on_start(targets: Targets) -> None:
        killed_s.append(time.monotonic() + 0.5)
        kill(label, 0.5)(targets)

    result = run_cell(cell, on_start=on_start)
    assert time.monotonic() - killed_s[0] < 10
    assert (result.status, result.cause) == ("crashed", "killed")
    assert f"{label} was killed by SIGKILL" in result.reason
    assert settles(lambda: descendants() <= processes)
    assert temporary(own_temp) <= before


def test_a_process_killed_before_training_starts_is_named(own_temp, monkeypatch):
    from harness.engines.processes import launch

    start = launch.Here.start

    def start_and_kill(self: Any, job: Any, control: Any) -> Any:
        process = start(self, job, control)
        if job.line == 1:
            os.kill(process.pid, signal.SIGKILL)
        return process

    monkeypatch.setattr(launch.Here, "start", start_and_kill)
    result = run_tiny()
    assert (result.status, result.cause) == ("crashed", "killed")
    assert "rank 1 was killed by SIGKILL" in result.reason


def test_a_cell_that_takes_too_long_is_a_timeout_that_leaves_no_process(own_temp):
    run_tiny()
    processes = descendants()
    cell = make_cell(
        engine="real", sweep__strategy="sync-ddp", sweep__gpus=[2], **ENDLESS | {"limits": {"cell_timeout": "3 s"}}
    )
    result = run_cell(cell)
    assert (result.status, result.cause) == ("timeout", "timeout")
    assert " after 3 s (limits.cell_timeout); rank 0" in result.reason
    assert settles(lambda: descendants() <= processes)


def test_a_peers_complaint_never_hides_who_was_killed(own_temp):
    """However late the supervisor looks: the one that is gone without a word is the cause, not who misses it."""
    supervisor = _Supervisor(
        make_cell(engine="real", sweep__strategy="sync-ddp", sweep__gpus=[2], **TINY), [], "", {}, None
    )
    complaint = Failure(Cause.PEER, Text("RuntimeError: connection closed by peer"))
    first = child_of("rank 0", code=-signal.SIGKILL, failure=complaint)
    second = child_of("rank 1", code=-signal.SIGKILL, gone=True)
    first.gone = True
    supervisor.children = [first, second]
    assert supervisor._first_failure().reason == "rank 1 was killed by SIGKILL"
