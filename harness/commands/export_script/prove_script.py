"""Run the parts of a script beside what the cell ran: data, first weights, loss, order, rate. Imports torch."""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from harness.core.errors import InputError
from harness.engines.shared.chain.proof import (
    TOLERANCE,
    Step,
    largest_difference,
    nudged,
    pass_through,
    summed_gradients,
)
from harness.engines.shared.replica import seeded
from harness.engines.shared.sample_order import shared_batches
from harness.workloads.batches import Inputs, Samples, as_written, call, outputs_of, tensors_of
from harness.workloads.losses import weighted_loss

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.engines.shared.setup import Setup
    from harness.workloads.entries import Arrays
    from harness.workloads.streamed import Streamed

SavedFiles = dict[str, dict[str, "Arrays"]]
"""Arrays by the name of the file that holds them."""

CLOSE = 1e-6
"""Largest difference of what is computed twice in another order, relative to its size; chosen."""
ROWS = 4
"""Samples whose loss is compared."""


@dataclass(frozen=True)
class Wanted:
    """What a script must make.

    Attributes:
        module: with its first weights, in the cell's precision.
    """

    setup: Setup
    module: nn.Module

    @property
    def cell(self) -> Cell:
        """The cell that is repeated."""
        return self.setup.cell


def prove_parts(text: str, target: Path, wanted: Wanted, arrays: SavedFiles) -> None:
    """Compare a script's parts with what the cell ran.

    Raises:
        InputError: one of them differs; the message says which.
    """
    with tempfile.TemporaryDirectory() as folder:
        for name, content in arrays.items():
            np.savez_compressed(Path(folder) / name, **content)  # type: ignore[arg-type]
        try:
            script = _run(text, Path(folder) / target.name if arrays else target)
            compared = list(_comparisons(script, wanted))
        except Exception as error:
            name = type(error).__name__
            raise InputError([f"a script of {wanted.cell.cell_id} would not run: {name}: {error}"]) from error
        for what, same in compared:
            if not same:
                raise InputError([f"a script would not repeat {wanted.cell.cell_id}: {what} would differ"])


def _run(text: str, place: Path) -> ModuleType:
    script = ModuleType("exported_script")
    script.__file__ = str(place)
    sys.modules[script.__name__] = script
    exec(compile(text, str(place), "exec"), script.__dict__)
    return script


def _comparisons(script: ModuleType, wanted: Wanted) -> Iterator[tuple[str, bool]]:
    """Yield (what was compared, whether it is the same)."""
    setup, cell = wanted.setup, wanted.cell
    data = setup.data
    inputs, targets, *_ = script.samples(torch.device("cpu"))
    yield "the training inputs", _same_inputs(inputs, data.train.inputs)
    yield "the training targets", _same(targets, data.train.targets)
    first = script.make_model().state_dict()
    mine = wanted.module.state_dict()
    alike = first.keys() == mine.keys() and all(_same(first[name], mine[name]) for name in mine)
    yield "the first weights (does the model draw them from a generator of its own?)", alike
    yield "the loss", _same_loss(script, wanted, data.train)
    size, number = cell.global_batch_size, data.num_train
    count = 2 * -(-number // size)
    order = zip(shared_batches(cell.seed, number, size, 0, 1), script.batches(number), strict=False)
    pairs = itertools.islice(order, count)
    yield "the order", all(a.samples_before == b and (a.indices == rows).all() for a, (b, rows) in pairs)
    rate = getattr(script, "learning_rate", lambda _: script.LEARNING_RATE)
    places = range(0, 4 * number, max(1, number // 7))
    yield "the learning rate", all(abs(rate(k) - setup.rate(k)) <= CLOSE * cell.learning_rate for k in places)
    if hasattr(script, "Stage"):
        difference = _difference_of_step(script, wanted)
        yield f"a step of the pipeline: {difference}", not difference


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point():
        return bool((one == other).all())
    return bool(torch.allclose(one, other, rtol=CLOSE, atol=CLOSE))


def _same_inputs(one: Inputs, other: Inputs) -> bool:
    if isinstance(one, dict) != isinstance(other, dict):
        return False
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() != other.keys():
        return False
    return all(_same(a, b) for a, b in zip(tensors_of(one), tensors_of(other), strict=True))


def _same_loss(script: ModuleType, wanted: Wanted, samples: Samples | Streamed) -> bool:
    setup = wanted.setup
    inputs, targets = samples.block(0, min(ROWS, len(samples)))
    with torch.no_grad(), seeded(wanted.cell.seed, "trial"), as_written():
        outputs = outputs_of(call(wanted.module, inputs))
        weights = torch.ones(len(targets), dtype=torch.float64)
        expected = weighted_loss(setup.loss, setup.counts is not None)(outputs, targets, weights)
        got = script.loss_sum(outputs, targets)
    return not got.dim() and _same(got.double(), expected.double())


def _difference_of_step(script: ModuleType, wanted: Wanted) -> str:
    """Say how a step of the stages, one behind the other, differs from one of the whole model; nothing: in nothing."""
    setup, cell, cpu = wanted.setup, wanted.cell, torch.device("cpu")
    size = min(cell.micro_batch_size or cell.batch_size, len(setup.data.train))
    inputs, targets = setup.data.train.block(0, size)
    given = {"rows": torch.arange(size)} | ({"micro": torch.zeros(1)} if hasattr(script, "drawing") else {})

    def model() -> nn.Module:
        # What is drawn depends on where a model is cut: without it.
        made: nn.Module = script.make_model().train(not setup.draws)
        return nudged(made, torch.Generator().manual_seed(0))

    def loss(outputs: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = script.loss_sum(outputs, targets) / size
        return found

    def stage(number: int) -> tuple[nn.Module, dict[str, nn.Parameter]]:
        part = model()
        own: dict[str, nn.Parameter] = script.own_parameters(part, [number])
        script.move(part, own, cpu)
        script.answer_calls(part)
        return script.Stage(part, number, inputs, cpu, few, more, size), own

    with seeded(cell.seed, "trial"), as_written(), setup.replica().autocast():
        whole = model()
        value = loss(script.forward(whole, inputs))
        value.backward()  # type: ignore[no-untyped-call]
        few, more = (script.returned(model(), script.take(inputs, torch.arange(n))) for n in (2, 3))
        stages, kept = zip(*map(stage, range(len(script.STAGES))), strict=True)
        staged = Step(pass_through(stages, given, loss), summed_gradients(kept))
    gradients = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    return largest_difference(Step(value.detach(), gradients), staged, TOLERANCE[cell.workload.precision])
