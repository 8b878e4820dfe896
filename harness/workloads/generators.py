"""The random generators that a model or a data set may draw from: torch's, numpy's and Python's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
import torch

from harness.workloads.accelerator import has_queue


def torch_generators_kept(device: torch.device | None = None) -> AbstractContextManager[None]:
    """Put torch's generator back as it was, and that of a device which has one of its own."""
    if device is None or not has_queue(device):
        kept: AbstractContextManager[None] = torch.random.fork_rng(devices=())
    else:
        kept = torch.random.fork_rng(devices=(device,), device_type=device.type)
    return kept


@contextmanager
def generators_kept(device: torch.device | None = None) -> Iterator[None]:
    """Put the generators back as they were, that of a device included."""
    kept = np.random.get_state(), random.getstate()
    with torch_generators_kept(device):
        try:
            yield
        finally:
            np.random.set_state(kept[0])
            random.setstate(kept[1])


@contextmanager
def drawing_from(number: int, device: torch.device | None = None) -> Iterator[None]:
    """Draw from the stream of a seed, whichever generator is asked; see `generators_kept`."""
    with generators_kept(device):
        torch.manual_seed(number)
        np.random.seed(number % 2**32)
        random.seed(number)
        yield
