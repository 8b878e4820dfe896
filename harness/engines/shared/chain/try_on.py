"""The micro-batches that a model is tried on before it is cut, and what they show of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from harness.costs.tracing import undisturbed
from harness.engines.shared.chain.events import Chain, Survey, chain_of, survey
from harness.engines.shared.pieces import Piece
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.workloads.batches import Inputs

LossOf = Callable[[torch.Tensor], torch.Tensor]
"""The loss of a micro-batch, from the model's output."""


@dataclass(frozen=True)
class Batches:
    """What a model is tried on.

    Attributes:
        inputs, loss: a micro-batch, and the loss from the outputs for it.
        larger: the same kind with another number of samples.
        other, other_loss: a micro-batch of other samples.
        autocast: makes the context that forward passes run in.
    """

    inputs: Inputs
    loss: LossOf
    larger: Inputs
    other: Inputs
    other_loss: LossOf
    autocast: Callable[[], AbstractContextManager[object]] = nullcontext


def find_chain(model: nn.Module, names: Sequence[str], batches: Batches) -> tuple[Chain, Survey]:
    """Return a model as a chain of the calls of these blocks, and what they returned.

    Raises:
        Impossible: the calls, or what they return, change from pass to pass.
    """
    with batches.autocast(), undisturbed(model):
        seen = survey(model, names, batches.inputs)
        return chain_of(seen, survey(model, names, batches.larger)), seen


def tried_on(setup: Setup, replica: Replica) -> Batches:
    """Return micro-batches of a cell's own data."""
    size, total = setup.cell.micro_batch_size, setup.num_train

    def gathered(first: int, samples: int) -> tuple[Inputs, LossOf]:
        indices = np.arange(first, first + samples, dtype=np.int64) % total
        inputs, targets, weight = replica.gather(Piece(indices, 1.0 / samples))
        return inputs, lambda outputs: replica.loss(outputs, targets, weight)

    (inputs, loss), (larger, _), (other, other_loss) = gathered(0, size), gathered(0, size + 1), gathered(size, size)
    return Batches(inputs, loss, larger, other, other_loss, replica.autocast)
