"""What a record says about a model of the user's own, from the trial step: what was found, and what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.row import BATCH_NORM, DRAWS
from harness.core.words import counted, listed

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.api.strategy import Layout
    from harness.core.cell import Cell
    from harness.engines.shared.shown import Trial
    from harness.workloads.entries import DataShape, Model

NAMED_AT_MOST = 3
"""Names that a sentence lists; chosen."""

MOST_COMPARED = 50_000_000
"""Parameters of a model that is built again to compare; chosen: a second on one core. Larger ones are not compared."""


@dataclass(frozen=True)
class Tried:
    """A cell with what is known of its model.

    Attributes:
        trial: what a trial step showed; None where none was taken.
        draws: whether the model draws random numbers in training.
        shares_statistics: whether replicas normalise by the statistics of all.
    """

    cell: Cell
    layout: Layout
    model: Model
    shape: DataShape
    trial: Trial | None
    draws: bool
    shares_statistics: bool


def traits(tried: Tried) -> str:
    """Return why this cell's weights may differ from those that one device would train, as the column has it."""
    trial = tried.trial
    if trial is None:
        return DRAWS if tried.draws else ""
    normalises = bool(trial.norms) and not tried.shares_statistics and _cuts(tried)
    return " ".join(word for word, holds in ((BATCH_NORM, normalises), (DRAWS, trial.draws)) if holds)


def _cuts(tried: Tried) -> bool:
    """Whether a batch passes in parts."""
    cell = tried.cell
    return cell.workers * tried.layout.data > 1 or cell.micro_batch_size < cell.global_batch_size


def model_notes(tried: Tried) -> list[str]:
    """Return the sentences; none of a model that ships with the harness but of its BatchNorm."""
    trial = tried.trial
    if trial is None:
        return []
    notes = list(_about_statistics(tried, trial))
    if tried.model.file is not None:
        notes += [*_about_gradients(tried, trial), *_about_draws(tried, trial), *_about_builds(tried)]
    return notes


def _about_gradients(tried: Tried, trial: Trial) -> Iterator[str]:
    if trial.without_gradient:
        number = counted(len(trial.without_gradient), "parameter")
        some = listed(trial.without_gradient[:NAMED_AT_MOST])
        yield f"{number} had no gradient in a trial step ({some}); the optimizer leaves a parameter without one alone"
    if trial.keeps:
        yield (
            f"the model counts or keeps {listed(trial.keeps[:NAMED_AT_MOST])} from step to step, in no buffer: every "
            "device has its own, and evaluations leave it as it was"
        )
    ddp = tried.layout.data > 1 and not tried.layout.gathers and tried.layout.overlap
    if ddp and (trial.unused or tried.cell.workload.find_unused_parameters):
        yield "DDP looks for parameters without a gradient in every step (find_unused_parameters)"
    if trial.sparse:
        some = listed(trial.sparse[:NAMED_AT_MOST])
        yield f"the gradients of {some} are dense here: their rows all decay and keep momentum"


def _about_draws(tried: Tried, trial: Trial) -> Iterator[str]:
    if trial.draws and tried.cell.gpus > 1:
        yield "the model draws random numbers in training: every device has a stream of its own, so masks differ"


def _about_statistics(tried: Tried, trial: Trial) -> Iterator[str]:
    if not trial.norms:
        return
    layers = counted(len(trial.norms), "BatchNorm layer")
    if tried.shares_statistics:
        yield f"{layers} with the statistics of all {tried.layout.data} replicas together (sync_batchnorm)"
    elif _cuts(tried):
        alone = tried.cell.workers * tried.layout.data > 1
        whose = "each replica's own samples" if alone else "one micro-batch"
        alike = tried.layout.devices == tried.layout.data > 1 and tried.layout.reduce is None
        can = tried.cell.workers == 1 and alike
        instead = "; workload.sync_batchnorm = true makes them those of all replicas" if can else ""
        yield f"{layers} with the statistics of {whose}, not of the whole batch as on one device{instead}"


def _about_builds(tried: Tried) -> Iterator[str]:
    """Build again with the same seed and with another one: what seeds should make alike is alike, and nothing else."""
    first = _built(tried, tried.cell.seed)
    if sum(p.numel() for p in first.parameters()) > MOST_COMPARED:
        return
    name = tried.cell.workload.model.name
    if not _alike(first, _built(tried, tried.cell.seed)):
        yield (
            f"two builds of {name} with one seed differ, so this run cannot be repeated: draw initial values from "
            "torch, numpy.random or random, whose seeds are set for every run, or from a generator with a fixed seed"
        )
    elif _alike(first, _built(tried, tried.cell.seed + 1)):
        yield (
            f"seeds {tried.cell.seed} and {tried.cell.seed + 1} build the same {name}, so seeds differ in the order of "
            "samples only: it seeds itself, or reads its weights from somewhere"
        )


def _built(tried: Tried, seed: int) -> nn.Module:
    from harness.engines.shared.replica import build_module

    return build_module(tried.model, tried.model.Options(**tried.cell.workload.model.options), tried.shape, seed)


def _alike(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(_values(one), _values(other), strict=False)
    return all(a.shape == b.shape and bool((a == b).all()) for a, b in pairs)


def _values(module: nn.Module) -> list[torch.Tensor]:
    return [p.detach() for p in module.parameters()]
