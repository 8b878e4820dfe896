"""What a run's losses are read with; how far the weights moved tells a network that never started from a dead one."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.core.records import Json

if TYPE_CHECKING:
    import torch

    from harness.engines.shared.setup import Setup


def learning_facts(setup: Setup, final: torch.Tensor | None) -> Json:
    """Return what the learning rate is judged by, besides the losses.

    Args:
        final: the trained parameters as one vector, wherever it lies; None where nothing was trained.

    Returns:
        `batches`, whether workers share them: then the plain mean of their losses is that of the batch.
        `displacement`, relative to the length of the initial weights; `chance_loss`, of a guess, where the loss is the
        cross-entropy. The latter two are missing without evaluations: such cells run for their speed.
    """
    facts: Json = {"batches": setup.strategy.batches}
    if final is None or not setup.budget.evaluates:
        return facts
    import math

    facts["displacement"] = _moved(setup, final)
    if setup.cell.workload.loss == "cross-entropy" and setup.data.classes:
        facts["chance_loss"] = math.log(setup.data.classes)
    return facts


def early_displacement(setup: Setup, weights: Callable[[], torch.Tensor], evaluations: int) -> float | None:
    """Return how far the weights moved up to the first evaluation, where rounding has hardly grown yet.

    Args:
        weights: returns the trained parameters as one vector, wherever it lies.
        evaluations: so far.

    Returns:
        None at every later evaluation, without evaluations, and where nothing promises to train what one device trains.
    """
    if evaluations or not setup.budget.evaluates or setup.cell.equals != "single":
        return None
    return _moved(setup, weights())


def _moved(setup: Setup, final: torch.Tensor) -> float:
    import torch

    from harness.engines.shared.buffer_values import as_real
    from harness.engines.shared.replica import build_module

    options = setup.model.Options(**setup.cell.workload.model.options)
    # Built once more from its stream: keeping a copy through training would show in the memory that is measured.
    module = build_module(setup.model, options, setup.shape, setup.cell.seed)
    trained = [as_real(p.detach()).reshape(-1) for p in module.parameters() if p.requires_grad]
    initial = torch.cat(trained).to(final.dtype)
    return float(torch.linalg.vector_norm(final.cpu() - initial) / torch.linalg.vector_norm(initial))
