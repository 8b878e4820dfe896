"""The random generators that a model or a data set may draw from: torch's, numpy's and Python's own."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_kept(devices: Sequence[torch.device | int] = ()) -> Iterator[None]:
    """Put the generators back as they were.

    Args:
        devices: GPUs whose generators are put back too.
    """
    kept = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=devices):
        try:
            yield
        finally:
            np.random.set_state(kept[0])
            random.setstate(kept[1])


@contextmanager
def drawing_from(number: int, devices: Sequence[torch.device | int] = ()) -> Iterator[None]:
    """Draw from the stream of a seed, whichever generator is asked; see `generators_kept`."""
    with generators_kept(devices):
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        yield
