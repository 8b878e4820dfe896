"""One cell over two machines, which are network namespaces with one core each, is the cell of one machine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cells import host, make_cell
from namespaces import nodes
from on_nodes import first, found, other

from harness.core.endings import Cause
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
