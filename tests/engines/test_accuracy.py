"""Known accuracies on the real MNIST, through the real engine: what says that training is training."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cells import make_cells

from harness.engines.processes.launch import run_cell

FOLDER = Path(os.environ.get("HARNESS_DATA", ""))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.dist,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (FOLDER / "mnist").is_dir(), reason="needs the MNIST files in HARNESS_DATA/mnist"),
]

MOMENTUM = {"optimizer": {"name": "sgd", "momentum": 0.9}}


@pytest.mark.parametrize(
    ("model", "rate", "optimizer", "epochs", "least"),
    [
        ("softmax", 0.01, {}, 5, 0.915),
        pytest.param("mlp", 0.05, {}, 10, 0.975, marks=pytest.mark.long),
        pytest.param("lenet5", 0.01, MOMENTUM, 5, 0.984, marks=pytest.mark.long),
    ],
)
def test_accuracy_on_mnist_is_what_the_literature_has(model, rate, optimizer, epochs, least):
    cells = make_cells(
        engine="real",
        workload={"model": model, "dataset": "mnist"} | optimizer,
        sweep={"strategy": "single", "gpus": [1], "global_batch_size": [64], "learning_rate": [rate], "seeds": 3},
        goal={"target_accuracy": "none", "max_epochs": epochs, "evaluate_every": "1 epoch"},
    )
    for cell in cells:
        result = run_cell(cell)
        assert result.finished, result.reason
        _, accuracy = result.outcome.test
        print(f"{model} seed {cell.seed}: test accuracy {accuracy:.4f} after {epochs} epochs")
        assert accuracy >= least
