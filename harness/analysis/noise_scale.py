"""Gradient noise scale: how many samples a step may average before more of them stop helping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class NoiseScale:
    """What gradients of two batch sizes say.

    Attributes:
        signal: squared length of the true gradient; an estimate, and below 0 by chance where steps are few.
        noise: trace of the covariance of one sample's gradient.
        steps: that it rests on.
    """

    signal: float
    noise: float
    steps: int

    @property
    def batch(self) -> float | None:
        """The noise scale in samples, tr(S) / |G|^2; None where the signal was not told from 0."""
        return self.noise / self.signal if self.signal > 0 and self.noise > 0 else None


def noise_scale(
    small_squares: Sequence[float], big_squares: Sequence[float], batch_size: int, workers: int
) -> NoiseScale:
    """Estimate the noise scale from squared lengths of gradients, before clipping, momentum and weight decay.

    Both sums are unbiased step by step, their quotient is not: it is taken once, last. With two workers some hundred
    steps are needed: of single steps 10 % have a negative signal.

    Args:
        small_squares: of each step, mean over workers of |g_i|^2, each over `batch_size` samples.
        big_squares: of each step, |mean of g_i|^2.
        batch_size: samples behind the gradient of one worker.
        workers: at least 2.

    Source: S. McCandlish et al. 2018, An empirical model of large-batch training, appendix A.1.

    Raises:
        ValueError: there is one worker or no step.
    """
    if workers < 2 or not small_squares or len(small_squares) != len(big_squares):
        raise ValueError(
            f"{workers} workers, {len(small_squares)} and {len(big_squares)} steps: needs 2 workers, and both squares "
            "of every step"
        )
    steps, small_batch, big_batch = len(small_squares), batch_size, batch_size * workers
    small, big = sum(small_squares) / steps, sum(big_squares) / steps
    signal = (big_batch * big - small_batch * small) / (big_batch - small_batch)
    noise = (small - big) / (1 / small_batch - 1 / big_batch)
    return NoiseScale(signal, noise, steps)
