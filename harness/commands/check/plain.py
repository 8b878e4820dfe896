"""A training loop of plain PyTorch, which `single` must equal: nothing of an engine is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.commands.check.trials import CHECKED_STEPS
from harness.core.outcome import Outcome
from harness.engines.processes.tasks import answers, started

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from harness.core.cell import Cell

LOOP_ANSWERS_S = 120.0
"""To wait for the loop; chosen: it takes a second, and importing torch may take a minute."""


def plain_weights(cell: Cell) -> Outcome:
    """Train as a script would, whole batches in the cell's order, in a process of its own.

    Raises:
        MachineError: the process did not answer.
    """
    with started([(_train, (cell,))], cell.threads_per_device, cell) as asked:
        (weights,) = answers(asked, "plain training", LOOP_ANSWERS_S)
    return Outcome(weights=weights)


def _train(cell: Cell, control: Connection) -> object:
    import torch

    from harness.engines.shared.replica import build_module
    from harness.engines.shared.sample_order import shared_batches
    from harness.engines.shared.setup import make_setup

    setup = make_setup(cell)
    module = build_module(setup.model, setup.model.Options(**cell.workload.model.options), setup.shape, cell.seed)
    module = module.to(torch.float64).train()
    optimizer = torch.optim.SGD(
        module.parameters(), lr=cell.learning_rate, momentum=cell.workload.optimizer.options["momentum"]
    )
    order = shared_batches(cell.seed, setup.num_train, cell.global_batch_size, 0, 1)
    for _, batch in zip(range(CHECKED_STEPS), order, strict=False):
        inputs, targets = setup.data.train.take(torch.from_numpy(batch.indices))
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(inputs), targets).backward()
        optimizer.step()
    return torch.cat([parameter.detach().reshape(-1) for parameter in module.parameters()]).numpy()
