"""The random generators that a model or a data set may draw from: torch's, numpy's and Python's own."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from harness.workloads.accelerator import generator_state, has_queue


@contextmanager
def generators_kept(device: torch.device | None = None) -> Iterator[None]:
    """Put the generators back as they were, that of a device included."""
    kept = np.random.get_state(), random.getstate()
    own = device if device is not None and has_queue(device) else None
    with torch.random.fork_rng(devices=[own] if own else [], device_type=own.type if own else None):
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


def generator_states(device: torch.device) -> tuple[object, ...]:
    """Return the states of all generators that a model may draw from, to be compared: torch, random, numpy, the device.

    No device is asked but the one that the model is on: asking a GPU starts CUDA in this process.
    """
    drawn = str(np.random.get_state(legacy=False))
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), drawn, generator_state(device)
