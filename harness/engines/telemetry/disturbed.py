"""What telemetry tells of disturbances: load of others, processes of others on a GPU, clocks that were held back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from harness.core.clock_reasons import REASONS, THROTTLED
from harness.core.disturbances import Disturbance
from harness.engines.telemetry.probe import Sample
from harness.engines.telemetry.readings import OTHER_PROCESSES


def disturbances_sampled(samples: Iterable[Sample], other_cores: float | None) -> dict[Disturbance, float | None]:
    """Return what disturbed during these samples, each in the unit of its kind; None where nobody looked.

    Args:
        samples: of one cell's training.
        other_cores: that other processes used on average.
    """
    found = list(samples)
    others = [sample.value for sample in found if sample.quantity.endswith(OTHER_PROCESSES)]
    clocks = sorted((s for s in found if s.quantity in REASONS), key=lambda sample: sample.device)
    held_back = [_held_back(list(own)) for _, own in groupby(clocks, key=lambda sample: sample.device)]
    return {
        Disturbance.OTHER_LOAD: other_cores,
        Disturbance.SHARED_GPU: max(others, default=None),
        Disturbance.THROTTLED: max(held_back, default=None),
    }


def _held_back(clocks: Sequence[Sample]) -> float:
    """Return the fraction of samples in which heat or the power supply held a device's clocks back."""
    return sum(bool(int(sample.value) & THROTTLED) for sample in clocks) / len(clocks)
