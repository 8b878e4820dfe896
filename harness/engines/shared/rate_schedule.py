"""The learning rate as a function of samples seen, so that it means the same for every strategy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.core.cell import Named

Rate = Callable[[int], float]
"""From samples behind the weights to the learning rate of the next update."""


def make_rate(
    base: float,
    schedule: Named,
    warmup_epochs: float,
    num_train: int,
    total: int | None,
    own: Callable[[int], float] | None = None,
    batch_size: int = 1,
) -> Rate:
    """Build the rate of a cell.

    Args:
        base: learning rate of the cell, rules applied.
        schedule: "constant", "cosine" or "step"; step has `epochs` and `factor`.
        warmup_epochs: the rate rises linearly from 0 to `base` over these (Goyal et al. 2017, section 2.2).
        total: samples of the whole run, which cosine falls over (Loshchilov and Hutter 2017, equation 5).
        own: the user's function from the number of updates to a factor, instead of a named schedule.
        batch_size: samples behind one update, which `own` counts; the last one of an epoch may have fewer.
    """
    warmup = warmup_epochs * num_train
    shape = _shape(schedule, num_train, total) if own is None else _by_updates(own, num_train, batch_size)

    def rate(samples: int) -> float:
        ramp = min(1.0, (samples + 1) / warmup) if warmup else 1.0
        return base * ramp * shape(samples)

    return rate


def _shape(schedule: Named, num_train: int, total: int | None) -> Callable[[int], float]:
    if schedule.name == "cosine":
        span = total or num_train
        return lambda samples: 0.5 * (1 + math.cos(math.pi * min(1.0, samples / span)))
    if schedule.name == "step":
        length, factor = schedule.options["epochs"] * num_train, schedule.options["factor"]
        return lambda samples: float(factor ** (samples // length))
    return lambda samples: 1.0


def _by_updates(own: Callable[[int], float], num_train: int, batch_size: int) -> Callable[[int], float]:
    an_epoch = -(-num_train // batch_size)

    def shape(samples: int) -> float:
        epochs, rest = divmod(samples, num_train)
        return own(epochs * an_epoch + rest // batch_size)

    return shape
