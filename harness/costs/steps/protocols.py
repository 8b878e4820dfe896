"""What an all-reduce inside a machine takes between two measured sizes: libraries change protocol with the size."""

from __future__ import annotations

import math
from typing import NamedTuple

from harness.costs.profiles.constants import Constants


class MeasuredAllReduce(NamedTuple):
    """One measured all-reduce."""

    num_bytes: float
    seconds: float


def between_s(
    ranks: int, small: MeasuredAllReduce, large: MeasuredAllReduce, num_bytes: float, constants: Constants
) -> float:
    """Return the seconds of an all-reduce from measurements of a smaller and of a larger one.

    Below the size where the library takes its ring, time is a floor (launching and meeting) or the bytes of a protocol
    that is quick to start and slow to move; above it bytes at the measured rate, which rises slowly. The library
    changes where it reckons that the latency of the ring's 2 (n - 1) hops is saved by its rate.

    Source: NCCL 2.8, src/graph/tuning.cc, for the protocols and the choice between them.
    """
    span = large.num_bytes - small.num_bytes
    plain_byte_s = (large.seconds - small.seconds) / span

    def filling_s(size: float) -> float:
        return constants.filling * math.sqrt(size / plain_byte_s)

    byte_s = (large.seconds - small.seconds - filling_s(large.num_bytes) + filling_s(small.num_bytes)) / span
    slower = constants.short_factor - 1
    switch_bytes = 2 * (ranks - 1) * constants.ring_hop_s / (slower * byte_s) if slower else 0.0
    if num_bytes >= switch_bytes:
        ring_s = small.seconds + (num_bytes - small.num_bytes) * byte_s
        return ring_s + filling_s(num_bytes) - filling_s(small.num_bytes)
    short_byte_s = constants.short_factor * byte_s
    # Where bytes alone explain less than the smaller message took, the rest is a floor; otherwise it is latency.
    latency_s = min(constants.short_latency_s, small.seconds - small.num_bytes * short_byte_s)
    return max(small.seconds, latency_s + num_bytes * short_byte_s)
