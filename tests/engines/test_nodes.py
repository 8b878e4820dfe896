"""One cell over two machines, which are network namespaces with one core each, is the cell of one machine."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cells import host, make_cell
from namespaces import Node, nodes
from on_nodes import STARTED, first, found, other, wait_for

from harness.core.endings import Cause, Status
from harness.core.errors import InputError
from harness.core.outcome import Outcome
from harness.engines.processes.launch import Result
from harness.engines.shared.setup import make_setup
from harness.engines.virtual.engine import run_virtual

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


@pytest.fixture(scope="module")
def of_two_nodes(tmp_path_factory) -> dict[str, Result]:
    """Every strategy on one device a node and on two, run in one go."""
    folder = tmp_path_factory.mktemp("nodes")
    cells = {f"{s} {shape}": changes(s, SHAPES[shape]) for s, shape in CASES}
    with nodes(2) as pair:
        agent = other(pair[1], 1, pair, 1, folder / "log-1")
        lead = first(pair, cells, folder, 0, "alone")
        assert lead.wait(900) == 0, (folder / "log-0").read_text()
        assert agent.wait(20) == 0, (folder / "log-1").read_text()
    return found(folder)


def replayed(strategy: str, gpus: int, measured: Outcome) -> np.ndarray:
    """Return the weights of the virtual cluster that is told who came when."""
    cell = make_cell(**changes(strategy, gpus, "virtual"))
    return run_virtual(make_setup(cell, [], "cpu"), script=measured.deliveries).weights.numpy()


BY_ARRIVAL = {s for s, kind in host().strategies.items() if kind.synchrony != "synchronous"} | {"backup-workers"}
"""Strategies whose weights depend on whose message comes first: backup-workers leaves the last one's out."""

ROUNDING = 1e-6
"""Largest difference of two weights of fp32, which are below 1: sums of several processes have no fixed order."""


@pytest.mark.parametrize(("strategy", "shape"), CASES)
def test_two_machines_train_what_one_does(of_two_nodes, strategy, shape):
    result, alone = (of_two_nodes[f"{strategy} {shape}{where}"] for where in ("", " alone"))
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
        left = [pid for node in pair for pid in node.processes()]
        assert not left, left
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
    more = {"goal": {"target_accuracy": "none", "max_epochs": 60, "evaluate_every": "20 epochs"}}
    result, _, _, _ = after(tmp_path, "async-ps", lambda pair: pair[1].kill(), **more)
    assert result.status in (None, Status.OK)
    (note,) = [note for note in result.outcome.notes if "node 1" in note]
    assert "worker 1 had done" in note
    assert "the others went on" in note


def test_a_server_that_evaluates_stops_the_other_machine_too(tmp_path):
    """Else workers there would get the time of the evaluation as a present: steps are counted by their clocks."""
    slow = {"goal": {"target_accuracy": "none", "max_epochs": 4, "evaluate_every": "1/8 epoch"}}
    with nodes(2) as pair:
        agent = other(pair[1], 1, pair, 1, tmp_path / "log-1")
        lead = first(pair, {"async-ps": changes("async-ps", 2, **slow)}, tmp_path, 0)
        assert lead.wait(90) == 0
        agent.wait(20)
    outcome = found(tmp_path)["async-ps"].outcome
    steps = outcome.steps
    of_worker = [np.array(steps["start_s"])[np.array(steps["worker"]) == worker] for worker in (0, 1)]
    assert outcome.evaluation_s > 0.1
    for starts in of_worker:
        assert (np.diff(starts) > 0).all()
        assert starts[-1] <= outcome.training_s + 0.1  # the clocks of both machines agree, standstills left out
