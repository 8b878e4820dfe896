"""Telemetry of several machines as that of one cell."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from harness.engines.telemetry.columns import Columns
from harness.engines.telemetry.probe import Sample
from harness.engines.telemetry.sampler import Telemetry


def with_nodes(own: Telemetry, others: Mapping[int, tuple[float, Telemetry]]) -> Telemetry:
    """Return what was sampled on all nodes of a cell; what is not of the first node says which node it is of.

    A sum over devices needs readings of one moment: the samplers keep the same interval but not the same ticks, so each
    reading of another node goes to the first node's tick that is nearest. It is off by half an interval at most.

    Args:
        own: of the first node.
        others: by rank: seconds that the node's clock is ahead of the first one's, and what it sampled.
    """
    ticks = sorted(set(own.columns.time_s))
    columns = Columns(own.columns)
    merged = own
    for rank, (offset_s, there) in sorted(others.items()):
        columns.extend(_on_ticks(there, offset_s, ticks, rank))
        merged = replace(
            merged,
            unavailable={
                **merged.unavailable,
                **{f"{name} of node {rank}": why for name, why in there.unavailable.items()},
            },
            notes=[*merged.notes, *(f"node {rank}: {note}" for note in there.notes)],
            missed_ticks=merged.missed_ticks + there.missed_ticks,
            lost={**merged.lost, **{_named(name, rank): at_s - offset_s for name, at_s in there.lost.items()}},
        )
    order = sorted(columns, key=lambda sample: sample.time_s)
    return replace(merged, columns=Columns(order))


def _on_ticks(there: Telemetry, offset_s: float, ticks: Sequence[float], rank: int) -> Iterator[Sample]:
    """Yield a node's samples at the first node's ticks; of two readings for one tick the first."""
    taken: dict[float, float] = {}
    for sample in there.columns:
        tick = _nearest(ticks, sample.time_s - offset_s)
        if tick is not None and taken.setdefault(tick, sample.time_s) == sample.time_s:
            yield sample._replace(time_s=tick, device=_named(sample.device, rank))


def _nearest(ticks: Sequence[float], time_s: float) -> float | None:
    at = bisect.bisect(ticks, time_s)
    return min(ticks[max(0, at - 1) : at + 1], key=lambda tick: abs(tick - time_s), default=None)


def _named(device: str, rank: int) -> str:
    return f"{device} of node {rank}"
