"""One cell over two machines, which are network namespaces with one core each, is the cell of one machine."""

from __future__ import annotations

import csv
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attacks import Tally
from cells import host, make_cell
from namespaces import Node, nodes
from on_nodes import STARTED, environment, first, found, other, pinned, wait_for
from slurm_cluster import slurm_cluster

from harness.core.endings import Cause, Status
from harness.core.errors import InputError
from harness.core.outcome import Outcome
from harness.engines.processes.launch import Result
from harness.engines.shared.setup import make_setup

pytestmark = [pytest.mark.dist, pytest.mark.slow]


def changes(strategy: str, gpus: int, engine: str = "real", **more: Any) -> dict[str, Any]:
    return {
        "engine": engine,
        "workload": {"model": "mlp", "dataset": "digits"},
        "goal": {"target_accuracy": 0.99, "max_epochs": 1},
        "sweep": {"strategy": [strategy], "gpus": [gpus], "learning_rate": [0.1], "global_batch_size": [64]},
        **more,
    }


SHAPES = {"2x1": 2, "2x2": 4}


def possible(strategy: str, gpus: int) -> bool:
    """Whether a strategy can use so many devices: hsdp needs several groups of several."""
    try:
        return bool(make_cell(**changes(strategy, gpus)))
    except InputError:
        return False


CASES = [
    (s, shape) for s in sorted(set(host().strategies) - {"single"}) for shape in SHAPES if possible(s, SHAPES[shape])
]


KINDS = ("sync-ddp", "async-ps", "fsdp", "model-split", "local-sgd")
"""One strategy for each way of talking: the short form of all."""
SHORT, REST = ([case for case in CASES if (case[0] in KINDS) is short] for short in (True, False))


@pytest.fixture(scope="module")
def some_on_two_nodes(tmp_path_factory) -> dict[str, Result]:
    """A strategy of each kind on one device a node and on two, run in one go."""
    return on_two_nodes(tmp_path_factory.mktemp("nodes"), SHORT)


@pytest.fixture(scope="module")
def rest_on_two_nodes(tmp_path_factory) -> dict[str, Result]:
    """All other strategies."""
    return on_two_nodes(tmp_path_factory.mktemp("nodes"), REST)


def on_two_nodes(folder: Path, cases: Sequence[tuple[str, str]]) -> dict[str, Result]:
    cells = {f"{s} {shape}": changes(s, SHAPES[shape]) for s, shape in cases}
    with nodes(2) as pair:
        agent = other(pair[1], 1, pair, 1, folder / "log-1")
        lead = first(pair, cells, folder, 0, "alone")
        assert lead.wait(900) == 0, (folder / "log-0").read_text()
        assert agent.wait(20) == 0, (folder / "log-1").read_text()
    return found(folder)


def replayed(strategy: str, gpus: int, measured: Outcome) -> np.ndarray:
    """Return the weights of the virtual cluster that is told who came when."""
    from harness.engines.virtual.engine import run_virtual

    cell = make_cell(**changes(strategy, gpus, "virtual"))
    return run_virtual(make_setup(cell, [], "cpu"), script=measured.deliveries).weights.numpy()


BY_ARRIVAL = {s for s, kind in host().strategies.items() if kind.synchrony != "synchronous"} | {"backup-workers"}
"""Strategies whose weights depend on whose message comes first: backup-workers leaves the last one's out."""

ROUNDING = 1e-6
"""Largest difference of two weights of fp32, which are below 1: sums of several processes have no fixed order."""


@pytest.mark.parametrize(("strategy", "shape"), SHORT)
def test_two_machines_train_what_one_does(some_on_two_nodes, strategy, shape):
    assert_the_same(some_on_two_nodes, strategy, shape)


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("strategy", "shape"), REST)
def test_two_machines_train_what_one_does_with_every_strategy(rest_on_two_nodes, strategy, shape):
    assert_the_same(rest_on_two_nodes, strategy, shape)


def assert_the_same(found: dict[str, Result], strategy: str, shape: str) -> None:
    result, alone = (found[f"{strategy} {shape}{where}"] for where in ("", " alone"))
    assert result.finished, result.reason
    over = result.outcome
    assert [node["node"] for node in over.facts["nodes"]] == [0, 1]
    assert "nodes" not in alone.outcome.facts
    if strategy in BY_ARRIVAL:
        expected = replayed(strategy, SHAPES[shape], over)
    else:
        expected = alone.outcome.weights
        assert over.updates == alone.outcome.updates
    # bf16-wire adds up in bf16, which more than two processes do in an order of their own.
    tolerance = max(ROUNDING, over.facts.get("sum_rounding", 0.0) * (SHAPES[shape] > 2))
    assert np.abs(over.weights - expected).max() <= tolerance


# -- what goes wrong ---------------------------------------------------------------------------------------------------

LONG = {"goal": {"target_accuracy": "none", "max_epochs": 1000, "evaluate_every": "1000 epochs"}}
SPEAKS_WITHIN_S = 30.0
"""Of the loss of a node: ten seconds of silence, and the end of all processes on a busy machine."""

GONE_WITHIN_S = 5.0
"""Of the end of both agents, all of their processes: two seconds are promised, and the machine is busy."""


def after(
    folder: Path, strategy: str, harm: Callable[[Sequence[Node]], object], **more: Any
) -> tuple[Result, float, int, str]:
    """Harm the nodes while a cell trains; return its result, how long that took, and how the other agent ended."""
    with nodes(2) as pair:
        agent = other(pair[1], 1, pair, 1, folder / "log-1")
        lead = first(pair, {strategy: changes(strategy, 2, **more)}, folder, 0)
        wait_for(STARTED, folder)
        time.sleep(2.0)
        harm(pair)
        began = time.monotonic()
        lead.wait(90)
        took_s = time.monotonic() - began
        code = agent.wait(60)
        gone_by = time.monotonic() + GONE_WITHIN_S
        while left := [pid for node in pair for pid in node.processes()]:
            assert time.monotonic() < gone_by, left
            time.sleep(0.1)
    return found(folder)[strategy], took_s, code, (folder / "log-1").read_text()


def test_a_killed_node_is_named_with_what_its_ranks_were_doing(tmp_path):
    result, took_s, _, _ = after(tmp_path, "sync-ddp", lambda pair: pair[1].kill(), **LONG)
    assert result.cause is Cause.KILLED
    assert "node 1 (node1) closed its connection" in result.reason
    assert "rank 1 had done" in result.reason
    assert took_s < SPEAKS_WITHIN_S


def test_a_cut_link_ends_in_words_on_both_sides(tmp_path):
    result, took_s, code, said = after(tmp_path, "sync-ddp", lambda pair: pair[1].cut(), **LONG)
    assert result.cause is Cause.KILLED
    assert "node 1 (node1) gave no sign for 10 s" in result.reason
    assert took_s < SPEAKS_WITHIN_S
    assert code == 3
    assert "node 0 is gone" in said


def test_asynchronous_workers_go_on_without_a_lost_node(tmp_path):
    more = {"goal": {"target_accuracy": "none", "max_seconds": 6, "evaluate_every": "1000 epochs"}}
    result, _, _, _ = after(tmp_path, "async-ps", lambda pair: pair[1].kill(), **more)
    assert result.status in (None, Status.OK)
    (note,) = [note for note in result.outcome.notes if "node 1" in note]
    assert "worker 1 had done" in note
    assert "the others went on" in note


def listening(node: Node) -> list[int]:
    """Return the ports on which something listens on a node."""
    ports = []
    for file in ("tcp", "tcp6"):
        lines = node.run(["cat", f"/proc/self/net/{file}"]).stdout.splitlines()[1:]
        ports += [int(line.split()[1].rpartition(":")[2], 16) for line in lines if line.split()[3] == "0A"]
    return sorted(set(ports))


GARBAGE = (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x7f\xff\xff\xff" + b"x" * 99, b"\xff" * 64, b"\0" * 4096)


@pytest.mark.fault
@pytest.mark.parametrize(("strategy", "epochs"), [("sync-ddp", 60), ("async-ps", 400)])
def test_garbage_on_every_port_of_a_run_disturbs_nobody(strategy, epochs, tmp_path):
    """Whatever listens while a cell trains, torch's store and gloo's pairs too, is called by who says anything."""
    draw, tally = random.Random(14), Tally(f"callers of all ports, {strategy}")

    def garbage(pair: Sequence[Node]) -> None:
        for node, port, _ in itertools.product(pair, {p for each in pair for p in listening(each)}, range(40)):
            with pair[0].socket() as caller, suppress(OSError):
                caller.settimeout(2.0)
                caller.connect((node.address, port))
                caller.sendall(draw.choice((*GARBAGE, draw.randbytes(300))))
                tally.count(f"{node.host}:{port}", "")

    goal = {"target_accuracy": "none", "max_epochs": epochs, "evaluate_every": "20 epochs"}
    result, _, code, said = after(tmp_path, strategy, garbage, goal=goal)
    tally.count("the cell", "" if result.finished and result.status in (None, Status.OK) else result.reason)
    tally.count("the other node", "" if code == 0 else said)
    tally.close()
    assert tally.tried > 80


def test_a_server_that_evaluates_stops_the_other_machine_too(tmp_path):
    """Else workers there would get the time of the evaluation as a present: steps are counted by their clocks."""
    slow = {"goal": {"target_accuracy": "none", "max_epochs": 4, "evaluate_every": "0.125 epoch"}}
    with nodes(2) as pair:
        agent = other(pair[1], 1, pair, 1, tmp_path / "log-1")
        lead = first(pair, {"async-ps": changes("async-ps", 2, **slow)}, tmp_path, 0)
        assert lead.wait(90) == 0
        agent.wait(20)
    outcome = found(tmp_path)["async-ps"].outcome
    steps = outcome.steps
    of_worker = [np.array(steps["start_s"])[np.array(steps["worker"]) == worker] for worker in (0, 1)]
    assert outcome.evaluation_s > 0.005  # 32 of them: as much as a clock that went on would be ahead by
    for starts in of_worker:
        assert (np.diff(starts) > 0).all()
        # The clocks of both machines agree, standstills left out: one that went on would be ahead by all of them.
        assert starts[-1] <= outcome.training_s + outcome.evaluation_s / 2


# -- as launchers start it ---------------------------------------------------------------------------------------------

SCENARIO = """
engine = "real"
[workload]
model = "mlp"
dataset = "digits"
[sweep]
strategy = ["sync-ddp"]
global_batch_size = [64]
learning_rate = [0.1]
gpus = [2]
[goal]
target_accuracy = "none"
max_epochs = 1
evaluate_every = "0.25 epoch"
"""


def losses(results: Path) -> list[float]:
    """Return what the only cell of a run came to at each evaluation."""
    (table,) = results.glob("*/cells/*/evals.csv")
    with table.open(newline="") as file:
        return [float(row["validation_loss"]) for row in csv.DictReader(file)]


def of_one_machine(folder: Path) -> list[float]:
    words = [sys.executable, "-m", "harness", "run", str(folder / "two.toml"), "--results", str(folder / "alone")]
    subprocess.run(words, check=True, env={**os.environ, **environment()}, stdout=subprocess.DEVNULL)
    return losses(folder / "alone")


def test_torchrun_on_two_machines_trains_what_one_does(tmp_path):
    (tmp_path / "two.toml").write_text(SCENARIO)
    with nodes(2) as pair:
        agents = []
        for core, node in enumerate(pair):
            words = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
            words += ["--rdzv-backend", "c10d", "--rdzv-id", "t", "--local-addr", node.address]
            words += ["--rdzv-conf", f"is_host={int(node is pair[0])}"]  # else torchrun looks the host's name up
            words += ["--rdzv-endpoint", f"{pair[0].address}:29500", "-m", "harness", "run", str(tmp_path / "two.toml")]
            # Where torchrun puts rank 0 is its own choice: whichever it is writes.
            words += ["--results", str(tmp_path / "over")]
            with (tmp_path / f"log-{core}").open("w") as file:
                env = {**environment(), "GLOO_SOCKET_IFNAME": node.interface}
                agents.append(node.start(pinned(words, core), env, stdout=file, stderr=subprocess.STDOUT))
        codes = [agent.wait(180) for agent in agents]
    said = [(tmp_path / f"log-{core}").read_text() for core in (0, 1)]
    assert codes == [0, 0], said
    (record,) = (tmp_path / "over").glob("*/cells/*/record.json")
    assert len(json.loads(record.read_text())["detail"]["facts"]["nodes"]) == 2
    assert losses(tmp_path / "over") == of_one_machine(tmp_path)
    assert sum("node 0 of 2: waits" in text for text in said) == 1


def test_srun_on_two_machines_trains_what_one_does(tmp_path):
    (tmp_path / "two.toml").write_text(SCENARIO)
    harness = f"{sys.executable} -m harness run {tmp_path / 'two.toml'} --results {tmp_path / 'over'}"
    with slurm_cluster(tmp_path / "slurm") as slurm:
        # One core each, or the first node would hold the cell: this Slurm binds no task to its cores.
        words = ["srun", "-N2", "--ntasks-per-node", "1", "sh", "-c", f"exec taskset -c $SLURM_NODEID {harness}"]
        run = slurm.start(words, environment())
        said, _ = run.communicate(timeout=180)
    assert run.returncode == 0, said
    (record,) = (tmp_path / "over").glob("*/cells/*/record.json")
    assert len(json.loads(record.read_text())["detail"]["facts"]["nodes"]) == 2
    assert losses(tmp_path / "over") == of_one_machine(tmp_path)
