"""Training loops without any harness, and the steps that a virtual run takes, to compare weights after some of them."""

from __future__ import annotations

from typing import Any

import numpy as np
from cells import make_cell
from lazy import lazy
from places import TESTS
from trained import FP64

from harness.engines.shared.setup import make_setup

torch = lazy("torch")
buffer_values = lazy("harness.engines.shared.buffer_values")
replicas = lazy("harness.engines.shared.replica")
executors = lazy("harness.engines.virtual.executor")
orders = lazy("harness.engines.shared.sample_order")
batches = lazy("harness.workloads.batches")

FILE = f"{TESTS}/models/own_models.py"
STEPS = 10
DECAYING = {"name": "sgd", "momentum": 0.9, "weight_decay": 0.1}


def workload(model: str, **changes: Any) -> dict[str, Any]:
    return FP64 | {"model": f"{FILE}:{model}", "optimizer": DECAYING} | changes


def points(model: str, gpus: int = 1, workload_changes: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    return {
        "workload": workload(model, **(workload_changes or {})),
        "sweep__gpus": [gpus],
        "sweep__learning_rate": [0.05],
        "sweep__global_batch_size": [32],
        "goal": {"target_accuracy": "none", "max_steps": STEPS, "evaluate_every": 100},
    } | changes


def plain(changes: dict[str, Any], make: Any, loss: Any = None, steps: int = STEPS, rates: Any = None) -> Any:
    """Train as a script without any harness would: whole batches in the cell's order."""
    setup = make_setup(make_cell(engine="virtual", sweep__strategy="single", **(changes | {"sweep__gpus": [1]})))
    cell = setup.cell
    module = replicas.build_module(setup.model, setup.model.Options(), setup.shape, cell.seed)
    module = replicas.convert(module, torch.device("cpu"), torch.float64).train()
    optimizer = make(module)
    loss = loss or torch.nn.functional.cross_entropy
    order = orders.shared_batches(cell.seed, setup.num_train, cell.global_batch_size, 0, 1)
    for batch, step in zip(order, range(steps), strict=False):
        inputs, targets = setup.data.train.take(torch.from_numpy(batch.indices))
        if rates is not None:
            for group in optimizer.param_groups:
                group["lr"] = rates(step)
        replicas.seed_step(("torch", "numpy", "random"), cell.seed, 0, step, 0)
        optimizer.zero_grad()
        loss(batches.outputs_of(batches.call(module, inputs)), targets).backward()
        optimizer.step()
    return module


def executed(strategy: str, changes: dict[str, Any], steps: int = STEPS) -> Any:
    """Take the same steps as a virtual run does, and return the weights; the clock and the counting are left out."""
    setup = make_setup(make_cell(engine="virtual", sweep__strategy=strategy, **changes))
    executor = executors.Executor(setup, merge=False)
    weights, state, seen = executor.initial_weights(), {}, 0
    for batch, step in zip(executor.course(0).batches(), range(steps), strict=False):
        gradient = executor.gradient(weights, batch.indices, batch.shares / batch.counted, (0, step))
        weights, state = executor.step(weights, gradient, state, setup.rate(seen))
        seen += batch.size
    return weights.tensor().numpy()


def sgd(module: Any) -> Any:
    return torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)


def trained(module: Any) -> Any:
    return np.concatenate(
        [buffer_values.as_real(p.detach()).reshape(-1).numpy() for p in module.parameters() if p.requires_grad]
    )


def apart(weights: Any, module: Any) -> float:
    """Largest difference of any weight, beside the largest weight."""
    wanted = trained(module)
    return float(np.abs(np.asarray(weights) - wanted).max() / np.abs(wanted).max())


SAME = 1e-9
"""Relative; every loop here adds up in the same order but for how a batch is cut."""
