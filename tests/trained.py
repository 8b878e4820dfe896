"""One cell run on either clock, and how far two outcomes lie apart."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from cells import make_cell
from lazy import lazy
from places import TESTS

from harness.core.outcome import Outcome
from harness.engines.processes.launch import run_cell
from harness.engines.shared.setup import make_setup

virtual_engine = lazy("harness.engines.virtual.engine")

BATCHNORM = f"{TESTS}/models/small.py:batchnorm"

DROPOUT = f"{TESTS}/models/small.py:dropout"

FP64 = {"precision": "fp64"}


def frozen(changes: dict[str, Any]) -> str:
    return repr(sorted(changes.items()))


@cache
def _real(strategy: str, changes: str) -> Outcome:
    cell = make_cell(engine="real", sweep__strategy=strategy, **dict(eval(changes)))
    result = run_cell(cell, options={"keep_weights": True})
    assert result.finished, result.reason
    return result.outcome


def real(strategy: str, **changes: Any) -> Outcome:
    """Run on gloo processes; the same cell is run once a session."""
    return _real(strategy, frozen(changes))


def virtual(strategy: str, *, merge: bool = False, script: Any = None, **changes: Any) -> Outcome:
    """Run on the virtual cluster, in this process."""
    setup = make_setup(make_cell(engine="virtual", sweep__strategy=strategy, **changes))
    return virtual_engine.run_virtual(setup, merge=merge, script=script)


def difference(a: Outcome, b: Outcome) -> float:
    return float(np.abs(np.asarray(a.weights) - np.asarray(b.weights)).max())


def seen(outcome: Outcome) -> list[tuple[int, int, float | None]]:
    """What was evaluated when, and how it came out; times left out."""
    return [(e.samples, e.updates, e.validation_metric) for e in outcome.evaluations]


# 1,293 training samples in batches of 32: 41 steps an epoch, the last one of 13 samples, so every shard is uneven.
FIFTY_STEPS = {"workload": FP64 | {"optimizer": {"name": "sgd", "momentum": 0.9}}, "sweep__learning_rate": [0.02]}
