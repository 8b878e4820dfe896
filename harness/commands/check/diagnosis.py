"""What lies behind weights that should be equal and are not: the first update tells most mistakes apart."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.commands.check.ended import apart, run_to_end
from harness.commands.check.trials import FIRST_EPOCH, LAST, TRIAL_BATCH, Trials

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.core.outcome import Outcome

ROUNDING = 1e-9
"""Relative difference of weights in fp64 up to which numbers were only added in another order; chosen: rounding is at
1e-12 after sixty steps (tests/engines/test_two_clocks.py), and mistakes are above 1e-4."""

NO_STEP = 1e-30
"""A rate at which weights stay where they begin."""

RATE = 0.02
ALONG = 0.999
"""Cosine above which two updates point the same way; chosen."""


class FirstUpdate(NamedTuple):
    """The first update beside that of plain training: how long it is, and the cosine between the two."""

    times: float
    cosine: float


def cause_of_difference(trials: Trials, engine: str, gpus: int) -> str:
    """Return what most likely makes a strategy train otherwise than `single`, from runs of one step and of an epoch."""
    first = _first_update(trials, engine, gpus)
    told = _of_first_update(first, trials, gpus)
    return told or _of_later_updates(trials, engine, gpus)


def _first_update(trials: Trials, engine: str, gpus: int) -> FirstUpdate:
    start = _weights(trials, "virtual", 1, "single", 1, NO_STEP)
    plain = _weights(trials, "virtual", 1, "single", 1, RATE) - start
    ours = _weights(trials, engine, gpus, "", 1, RATE) - start
    length = float(np.linalg.norm(ours))
    cosine = float(ours @ plain) / max(length * float(np.linalg.norm(plain)), 1e-300)
    return FirstUpdate(length / float(np.linalg.norm(plain)), cosine)


def _weights(trials: Trials, engine: str, gpus: int, strategy: str, steps: int, rate: float) -> npt.NDArray[np.float64]:
    return np.asarray(_after(trials, engine, gpus, strategy, steps, rate).weights, dtype=np.float64)


def _after(trials: Trials, engine: str, gpus: int, strategy: str, steps: int, rate: float = RATE) -> Outcome:
    # Without momentum an update is the gradient times the rate, however often it was applied.
    sets = (f"goal.max_steps={steps}", f"sweep.learning_rate={rate}", 'workload.optimizer={ name = "sgd" }')
    return run_to_end(trials, trials.cell(engine, gpus, *sets, strategy=strategy))


def _of_first_update(first: FirstUpdate, trials: Trials, gpus: int) -> str:
    """Return what the first update betrays; empty where it is right."""
    times, workers = first.times, gpus // trials.layout(gpus).devices
    if times < 1e-6:
        return "the first update changes nothing: what is applied or loaded does not reach the model that is judged"
    size = f"the first update is {times:.3g} times as large as it should be"
    if first.cosine < -ALONG:
        return "the first update goes uphill: a sign is wrong (`apply` goes down along a gradient by itself)"
    if first.cosine < ALONG:
        return (
            f"the first update points elsewhere (cosine {first.cosine:.2g}): something other than the mean gradient of "
            "the whole batch is applied: weights in a gradient's place, or the gradient of a part of the batch"
        )
    if abs(times - 1) < 1e-3:
        return ""
    if workers > 1 and abs(times - workers) < 1e-3:
        return f"{size}: gradients of {workers} workers are summed where they should be averaged, or applied one by one"
    if workers > 1 and abs(times * workers - 1) < 1e-3:
        return f"{size}: it is divided by the {workers} workers though `mean` and `average` have done so"
    if abs(times - 2) < 1e-3:
        return f"{size}: it is applied twice"
    pieces = round(1 / times)
    if pieces > 1 and abs(times * pieces - 1) < 1e-3:
        return f"{size}: the gradient is divided by {pieces}, or applied in {pieces} smaller steps where one is meant"
    return f"{size}: it is scaled by a number that is neither 1 nor the workers'"


def _of_later_updates(trials: Trials, engine: str, gpus: int) -> str:
    """Return from where on the two differ; the first update is right."""
    whole = [
        _after(trials, engine, gpus, "", FIRST_EPOCH),
        _after(trials, "virtual", 1, "single", FIRST_EPOCH),
    ]
    if apart(*whole) < ROUNDING:
        return (
            f"all updates are right up to the last batch of the first epoch, which has {LAST} samples in place of "
            f"{TRIAL_BATCH}: shares of it differ in size, and `gradient` has scaled for that: take the plain mean"
        )
    return (
        "the first update is right and later ones are not: something is carried over from step to step (an old "
        "gradient, weights that were not loaded, momentum kept twice)"
    )
