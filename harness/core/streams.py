"""One named random stream per purpose, so that adding a worker or a strategy changes no other stream."""

from __future__ import annotations

import hashlib
import random

import numpy as np


def stream_seed(seed: int, *purpose: str | int) -> int:
    """Return 63 bits that depend on the run's seed and the stream's name, on nothing else."""
    text = "/".join(str(part) for part in (seed, *purpose))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def numpy_stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """Return the numpy generator of a purpose."""
    return np.random.default_rng(stream_seed(seed, *purpose))


def python_stream(seed: int, *purpose: str | int) -> random.Random:
    """Return the standard library's generator of a purpose: what `worker.random(name)` hands to a strategy."""
    return random.Random(stream_seed(seed, *purpose))
