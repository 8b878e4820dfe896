"""Cells on a Ray cluster: by a stand-in for what talks to Ray, and, marked slow, by a real cluster of two nodes."""

from __future__ import annotations

import json
import pickle
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from multiprocessing import Pipe
from pathlib import Path

import pytest
from cells import host, make_cell, make_cells
from places import TESTS
from ray_cluster import ray_cluster

from harness.core.endings import Cause, Status
from harness.core.errors import InputError, MachineError
from harness.executors import extras, ray_executor
from harness.executors.protocol import CellTask
from harness.executors.ray_executor import AHEAD, MOST_ATTEMPTS, RayExecutor
from harness.executors.ray_words import Begun, Done, RayTrouble, Room, TaskLost, WholeNode
from harness.executors.travel import run_parcel

TIMED = {
    "workload": {"model": {"parameters": "1 M", "layers": 2}},
    "goal": {"max_steps": 2},
    "sweep": {"strategy": ["sync-ddp"], "gpus": [2]},
}


class Heard:
    """A watcher that remembers."""

    def __init__(self) -> None:
        self.started_ids: list[str] = []
        self.hosts: list[str] = []

    def started(self, task, place) -> None:
        self.started_ids.append(task.cell_id)
        self.hosts.append(place.host)

    def reached(self, task, reached) -> None:
        raise AssertionError("Ray tells no progress")


@pytest.fixture
def executor(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_executor, "require_extra", lambda *_: None)
    made = RayExecutor(host())
    made.log = tmp_path / "log.txt"
    made.log.write_text("one\ntwo\n")
    return made


def answer(executor: RayExecutor, room: Room, behave) -> None:
    """Let `behave(say, order, parcel, number)` stand for the cluster."""
    executor.pipe, theirs = Pipe()

    def serve() -> None:
        theirs.send(room)
        number = 0
        while True:
            try:
                order = theirs.recv()
            except (EOFError, OSError):
                return
            number += 1
            if behave(theirs.send, order, pickle.loads(order.parcel), number) == "close":
                return theirs.close()

    threading.Thread(target=serve, daemon=True).start()


def done(order, parcel) -> Done:
    return Done(order.key, pickle.dumps(run_parcel(parcel)))


def test_a_cell_that_goes_with_its_node_runs_again_and_says_so(executor):
    task, heard = CellTask(make_cell(**TIMED)), Heard()

    def behave(say, order, parcel, number):
        say(Begun(order.key, f"node{number}", 1))
        say(TaskLost(order.key, "NodeDiedError") if number < 3 else done(order, parcel))

    answer(executor, Room(1, 1), behave)
    (ended,) = executor.run([task], heard)
    assert ended.task is task
    assert (ended.record.status, ended.record.attempts) == (Status.OK, 3)
    assert "2 attempts went with the node" in ended.record.row["notes"]
    assert (heard.started_ids, heard.hosts) == ([task.cell_id], ["node1"])


def test_what_never_began_on_a_node_that_went_is_no_attempt(executor):
    def behave(say, order, parcel, number):
        say(TaskLost(order.key, "NodeDiedError") if number == 1 else done(order, parcel))

    answer(executor, Room(1, 1), behave)
    (ended,) = executor.run([CellTask(make_cell(**TIMED))], Heard())
    assert ended.record.attempts == 1
    assert "tried" not in ended.record.row["notes"]


def test_a_cell_that_takes_its_process_along_each_time_is_given_up(executor):
    def behave(say, order, parcel, number):
        say(Begun(order.key, "node", 1))
        say(TaskLost(order.key, "WorkerCrashedError"))

    answer(executor, Room(1, 1), behave)
    (ended,) = executor.run([CellTask(make_cell(**TIMED), attempts=1)], Heard())
    assert (ended.record.status, ended.record.cause) == (Status.CRASHED, Cause.KILLED)
    assert ended.record.attempts == 1 + MOST_ATTEMPTS
    assert "WorkerCrashedError" in ended.record.reason


def test_no_more_is_taken_than_there_is_room_for(executor):
    cells = make_cells(**{**TIMED, "sweep": {"strategy": ["sync-ddp"], "gpus": list(range(1, 13)), "batch_size": [8]}})
    taken, most = [], []

    def tasks():
        for cell in cells:
            taken.append(cell)
            yield CellTask(cell)

    waiting = []

    def behave(say, order, parcel, number):
        waiting.append((order, parcel))
        most.append(len(waiting))
        if len(waiting) == 2 + AHEAD or number == len(cells):
            while waiting:
                say(done(*waiting.pop()))

    answer(executor, Room(2, 1), behave)
    ended = []
    for each in executor.run(tasks(), Heard()):
        ended.append(each.record.cell.cell_id)
        assert len(taken) - len(ended) <= 2 + AHEAD + 1
    assert Counter(ended) == Counter(cell.cell_id for cell in cells)
    assert max(most) <= 2 + AHEAD


def test_a_measured_cell_asks_for_a_node_that_is_large_enough(executor):
    executor.machine = executor.machine.__class__(cores=4)
    real = {"engine": "real", "goal": {"max_steps": 2}, "cluster": {}}
    single, served = (
        make_cell(**real, sweep={"strategy": [strategy], "gpus": [gpus], "learning_rate": [0.1]})
        for strategy, gpus in (("single", 1), ("async-ps", 2))
    )
    assert executor._needs(CellTask(single)) == WholeNode(1, 0)
    assert executor._needs(CellTask(served)) == WholeNode(2 + served.servers, 0)
    assert served.servers > 0
    assert executor._needs(CellTask(make_cell(**TIMED))) is None


def test_what_the_cluster_cannot_do_is_said_and_ends_the_run(executor):
    answer(executor, Room(1, 1), lambda say, *_: say(RayTrouble("node 10.0.0.2 has no parallelism-harness")))
    with pytest.raises(MachineError, match=r"10\.0\.0\.2 has no parallelism-harness"):
        list(executor.run([CellTask(make_cell(**TIMED))], Heard()))


def test_a_connection_that_ends_is_told_with_the_last_lines_of_ray(executor):
    answer(executor, Room(1, 1), lambda *_: "close")
    with pytest.raises(MachineError, match=r"(?s)connection to Ray has ended.*one\ntwo"):
        list(executor.run([CellTask(make_cell(**TIMED))], Heard()))


def test_without_ray_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setattr(extras, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=r"needs ray.*pip install 'parallelism-harness\[ray\]'"):
        RayExecutor(host())


def test_an_address_where_nothing_listens_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(ray_executor, "require_extra", lambda *_: None)
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and does not listen
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(MachineError, match=f"ray://{address}: nothing answers there"):
            list(RayExecutor(host(), address).run([CellTask(make_cell(**TIMED))], Heard()))


def test_the_port_of_ray_client_is_refused(monkeypatch):
    monkeypatch.setattr(ray_executor, "require_extra", lambda *_: None)
    with pytest.raises(InputError, match=r"10001 is that of Ray Client"):
        RayExecutor(host(), "head:10001")
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    with pytest.raises(InputError, match=r"RAY_ADDRESS=ray://head:10001 is that of Ray Client"):
        RayExecutor(host())
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    RayExecutor(host())


# -- a real cluster ----------------------------------------------------------------------------------------------------

TINY = """\
[workload]
model = {{ parameters = "1 M", layers = 2, sequence = 16 }}

[sweep]
strategy = ["sync-ddp"]
batch_size = {batches}
gpus = {gpus}

[goal]
max_steps = 2

[cluster]
preset = "dgx-a100"
"""


def harness(folder: Path, *words: str) -> subprocess.Popen[str]:
    code = [sys.executable, "-m", "harness", *words]
    return subprocess.Popen(code, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def records_of(folder: Path, scenario: str) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "results" / scenario).glob("cells/*/record.json")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_thousand_cells_on_two_nodes_of_which_one_is_killed_midway(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.format(batches=list(range(1, 51)), gpus=list(range(1, 21))))
    with ray_cluster() as cluster:
        run = harness(tmp_path, "run", "tiny.toml", "--executor", f"ray://{cluster.address}")
        cells = tmp_path / "results" / "tiny" / "cells"
        while len(list(cells.glob("*/record.json"))) < 300:
            assert run.poll() is None, run.communicate()
            time.sleep(0.2)
        cluster.lose_a_node()
        out, err = run.communicate(timeout=600)
    assert run.returncode == 0, out + err
    assert err == ""  # twenty lines of Ray's stay off the terminal
    finished = [line for line in out.splitlines() if "] sync-ddp-" in line]
    told = Counter(line.split("] ")[1].split(" ")[0] for line in finished)
    assert len(told) == 1000
    assert set(told.values()) == {1}
    records = records_of(tmp_path, "tiny")
    assert len(records) == 1000
    assert {record["status"] for record in records} == {"ok"}
    assert all(record["environment"]["cores"] for record in records)
    again = subprocess.run(
        [sys.executable, "-m", "harness", "run", "tiny.toml", "--executor", "ray"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "1,000 cells, 0 to run" in again.stdout, again.stderr  # and no cluster is looked for


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_that_measures_runs_nothing_else(tmp_path):
    text = (TESTS.parent / "scenarios" / "softmax-mnist.toml").read_text()
    (tmp_path / "both.toml").write_text(text)
    sets = ["engine=both", "strategy=single", "gpus=1", "seeds=0,1", "dataset=digits", "max_epochs=1"]
    words = [word for each in sets for word in ("--set", each)]
    with ray_cluster(cpus=1) as cluster:
        run = harness(tmp_path, "run", "both.toml", *words, "--executor", f"ray://{cluster.address}")
        out, err = run.communicate(timeout=500)
    assert run.returncode == 0, out + err
    records = records_of(tmp_path, "both")
    assert Counter(record["cell"]["engine"] for record in records) == {"real": 2, "virtual": 2}

    def span(record):
        began = datetime.fromisoformat(record["started"])
        return began, began + timedelta(seconds=record["took_s"])

    for real in (record for record in records if record["cell"]["engine"] == "real"):
        began, ended = span(real)
        beside = [each for each in records if each is not real and span(each)[0] < ended and span(each)[1] > began]
        assert len(beside) <= 1  # one CPU is left, on the other node


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nodes_of_a_group_are_different_ones_and_run_a_command_each(tmp_path):
    script = tmp_path / "group.py"
    script.write_text(GROUP)
    with ray_cluster() as cluster:
        ran = subprocess.run([sys.executable, script, cluster.address], capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    places, (first, second) = json.loads(ran.stdout)
    assert len({node for node, _ in places}) == 2
    assert [code for code, _ in (first, second)] == [0, 3]
    assert (first[1], second[1]) == ("rank 0 of 2\n", "rank 1 of 2\n")


GROUP = """\
import json, sys
import ray
from harness.executors.ray_driver import connect
from harness.executors.ray_nodes import spread

connect(sys.argv[1])
code = "import os, sys; print('rank', sys.argv[1], 'of', os.environ['OF']); sys.exit(3 * int(sys.argv[1]))"
with spread(2, cpus=1, timeout_s=30) as group:
    ended = ray.get(group.start([("-c", code, str(rank)) for rank in range(2)], {"OF": "2"}))
places = [(place.node_id, place.address) for place in group.places]
print(json.dumps([places, [(status, printed.decode()) for status, printed in ended]]))
"""


OVER_NODES = """
engine = "real"
[workload]
model = "mlp"
dataset = "digits"
[sweep]
strategy = ["sync-ddp", "async-ps"]
global_batch_size = [64]
learning_rate = [0.1]
gpus = [4]
[goal]
target_accuracy = "none"
max_epochs = 1
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_measured_cell_takes_a_placement_group_of_two_nodes(tmp_path):
    """Four devices on nodes of two cores: neither node holds them."""
    (tmp_path / "over.toml").write_text(OVER_NODES)
    with ray_cluster(cpus=3) as cluster:
        words = ["over.toml", "--nnodes", "2", "--set", "gpus=4", "--executor", f"ray://{cluster.address}"]
        run = harness(tmp_path, "run", *words)
        out, err = run.communicate(timeout=500)
    assert run.returncode == 0, out + err
    assert "2 nodes of " in out
    records = records_of(tmp_path, "over")
    assert {record["status"] for record in records} == {"ok"}
    for record in records:
        assert [node["node"] for node in record["detail"]["facts"]["nodes"]] == [0, 1]
        assert record["row"]["nodes"] == 2
