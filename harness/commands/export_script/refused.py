"""Which cells have a counterpart in plain PyTorch, and why the others have none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields

from harness.core.cell import Cell, Workload
from harness.scenario.optimizer_options import OPTIMIZERS
from harness.workloads.entries import LOSSES
from harness.workloads.user_files import is_user_function

EXPORTED = ("single", "sync-ddp", "fsdp", "zero-2", "hsdp", "model-split", "local-sgd")
"""Strategies with a script."""

WITHOUT_COUNTERPART: Mapping[str, str] = {
    "zero-1": "torch's ZeroRedundancyOptimizer sends other parts, and more; zero-2 trains the same",
    "sync-ps": "plain PyTorch has no parameter server; sync-ddp trains the same",
    "async-ps": "plain PyTorch has no parameter server, and what asynchronous workers do depends on their timing",
    "softsync": "plain PyTorch has no parameter server, and what asynchronous workers do depends on their timing",
    "hybrid": "its grid of data, pipeline and tensor parallelism has no short script yet; export one of its parts",
}

KNOWN_WORK = frozenset(
    {
        *("model", "dataset", "optimizer", "lr_schedule", "loss", "precision"),
        *("lr_warmup", "clip_norm", "step", "loading", "find_unused_parameters", "metric", "metric_better"),
    }
)
"""Keys of a workload that scripts follow; a cell in which another one is set is refused."""

RATE_SHAPES = ("constant", "cosine", "step")
PIPELINE_SCHEDULES: Mapping[str, tuple[str, str]] = {
    "gpipe": ("ScheduleGPipe", "ScheduleInterleaved1F1B"),
    "1f1b": ("Schedule1F1B", "ScheduleInterleaved1F1B"),
    "interleaved-1f1b": ("ScheduleInterleaved1F1B", "ScheduleInterleaved1F1B"),
    "zb-1p": ("ScheduleInterleavedZeroBubble", "ScheduleInterleavedZeroBubble"),
}
"""torch's classes: with enough micro-batches, and with fewer of them than stages, which some refuse."""


def why_not(cell: Cell) -> str | None:
    """Return why there is no script of a cell, as far as the cell itself tells; None where there is one."""
    return next(_reasons(cell), None)


def _reasons(cell: Cell) -> Iterator[str]:
    work = cell.workload
    if cell.strategy not in EXPORTED:
        own = f"{cell.strategy} is a program of its own, which cannot be turned into a script"
        yield f"{WITHOUT_COUNTERPART.get(cell.strategy, own)}; scripts are written for {', '.join(EXPORTED)}"
    if cell.timing_only:
        yield "it was timed and not trained"
    if cell.faults:
        yield "it has faults on purpose, which no script repeats"
    if not is_user_function(work.model.name):
        what = f"its model {work.model.name} ships with the harness"
        yield f"{what}; scripts are written for models of your own, FILE.py:FUNCTION"
    for field in fields(Workload):
        default = None if field.default is MISSING else field.default
        if field.name not in KNOWN_WORK and getattr(work, field.name) not in (default, None):
            yield f"workload.{field.name} is not written to scripts yet"
    named = {
        "optimizer": (work.optimizer.name, OPTIMIZERS),
        "lr_schedule": (work.lr_schedule.name, RATE_SHAPES),
        "loss": (work.loss, LOSSES),
        "step": (work.step, ("eager",)),
    }
    for key, (name, known) in named.items():
        if name not in known and not is_user_function(name):
            yield f'workload.{key} = "{name}" is not written to scripts yet'
    schedule = cell.options.get("schedule") if cell.strategy == "model-split" else None
    if schedule is not None and schedule not in PIPELINE_SCHEDULES:
        yield f"torch has no schedule {schedule}; choose one of {', '.join(PIPELINE_SCHEDULES)}"
