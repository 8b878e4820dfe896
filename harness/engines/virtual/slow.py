"""What a step costs where devices compute slower, or faster, than they are said to: a step waits for its slowest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from harness.api.strategy import Layout
from harness.costs.steps import ReducedBucket, StepCost

if TYPE_CHECKING:
    from harness.engines.virtual.prices import Costs

MOST_KNOWN = 256
"""Kinds of step that are kept; chosen: without jitter there are a few, with it none comes back."""


_Kind = tuple[int, tuple[float, ...], bool, tuple[ReducedBucket, ...]]


class StepCosts:
    """Costs of one cell's gradients; each kind of step is worked out once.

    Args:
        waiting_s: of computing, by which a worker waits for the slowest of all workers; None: it meets nobody.
    """

    def __init__(
        self,
        costs: Costs,
        layout: Layout,
        micro_batch_size: int,
        waiting_s: Callable[[float], float] | None = None,
    ) -> None:
        self.costs, self.layout, self.micro_batch_size = costs, layout, micro_batch_size
        self.waiting_s = waiting_s
        self._known: dict[_Kind, StepCost] = {}

    def of(
        self, samples: int, factors: tuple[float, ...], tasks: bool = False, reduced: tuple[ReducedBucket, ...] = ()
    ) -> StepCost:
        """Return what a gradient costs where device k of the worker computes `factors[k]` times as long.

        Stages of a pipeline are slowed one by one. Replicas and parts of a layer meet in every step, so that their
        pace is the slowest one's; what the others computed less than it, they waited.

        Args:
            samples: of the worker.
            factors: of its devices; none where nothing is slowed.
            tasks: also say when what runs.
            reduced: what the layout's own `reduce` did with each bucket.
        """
        key = samples, factors, tasks, reduced
        if key not in self._known:
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            part = self._work_out(*key)
            waited = self.waiting_s(part.compute_s) if self.waiting_s else 0.0
            self._known[key] = replace(part, idle_s=part.idle_s + waited)
        return self._known[key]

    def _work_out(
        self, samples: int, factors: tuple[float, ...], tasks: bool, reduced: tuple[ReducedBucket, ...]
    ) -> StepCost:
        layout, size = self.layout, self.micro_batch_size
        if all(factor == 1.0 for factor in factors):
            return self.costs.step(layout, samples, size, tasks, reduced)
        if layout.pipeline > 1:
            return self.costs.slowed(by_stage(layout, factors)).step(layout, samples, size, tasks, reduced)
        part = self.costs.slowed((max(factors),)).step(layout, samples, size, tasks, reduced)
        waited = part.compute_s * (1 - fmean(factors) / max(factors))
        return replace(part, compute_s=part.compute_s - waited, idle_s=part.idle_s + waited)


def by_stage(layout: Layout, factors: Sequence[float]) -> tuple[float, ...]:
    """Return the slowest factor of each pipeline rank; devices are numbered data first, then pipeline, then tensor."""
    ranks = range(layout.pipeline)
    stage_of = [number // layout.tensor % layout.pipeline for number in range(layout.devices)]
    return tuple(max(f for f, stage in zip(factors, stage_of, strict=True) if stage == rank) for rank in ranks)
