"""How long a pipeline's table takes: every device works off its row in order, as soon as inputs have arrived."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from harness.api.schedules import execution_order, stashes
from harness.api.strategy import Action, Table
from harness.costs.steps.result import StreamTask

Recompute = Literal["none", "all", "all-but-last"]
"""Micro-batches whose activations are dropped and computed again. With "all-but-last" a single one is recomputed.

Source: torchgpipe's checkpoint modes never, always, except_last (Kim et al. 2020, "torchgpipe", section 3.2).
"""

MOST_PASSES = 8
"""Steps tried until all devices keep one period: chosen; two are enough for balanced stages. After so many the slowest
device's is taken, which the true period is not above."""

_ROUNDING = 1e-9
"""Relative difference below which two periods are one: chosen, as sums of floats differ by less."""


class StageTimes(NamedTuple):
    """Seconds that one micro-batch takes in one stage; a whole backward pass is the sum of its halves."""

    forward_s: float
    backward_input_s: float
    backward_weight_s: float = 0.0


@dataclass(frozen=True)
class PipelineTimes:
    """What a table came to.

    Attributes:
        makespan_s: from the first action's start to the last one's end, beginning with idle devices.
        period_s: from step to step where a device begins the next step as soon as it has finished its part of this one.
            Shorter than the makespan where the first device is done before others, as with zero-bubble schedules.
        busy_s: computing, by rank.
        exposed_s: by rank, neither computing nor waiting for another's computing, but for a message.
        link_s: by rank, messages on their way out, hidden or not.
        stash: most micro-batches that each stage keeps.
        tasks: what ran when, where it was asked for.
    """

    makespan_s: float
    period_s: float
    busy_s: tuple[float, ...]
    exposed_s: tuple[float, ...]
    link_s: tuple[float, ...]
    stash: tuple[int, ...]
    tasks: tuple[StreamTask, ...] = ()

    @property
    def bubble_fraction(self) -> float:
        """Share of the period in which devices do not compute, mean over devices."""
        return 1 - sum(self.busy_s) / (len(self.busy_s) * self.period_s) if self.period_s else 0.0


def pipeline_cost(
    table: Table,
    stages: Sequence[StageTimes],
    hop: Callable[[int], float],
    *,
    recompute: Recompute = "none",
    overlapped: bool = True,
    latency_s: float = 0.0,
    message_s: float = 0.0,
    overhead_s: float = 0.0,
    tasks: bool = False,
) -> PipelineTimes:
    """Interpret a pipeline table in time.

    Args:
        stages: times of each stage; stage k runs on rank k modulo the table's ranks.
        hop: seconds that a message holds the link from stage k to k + 1, or, in the other direction, back. A link
            carries one message at a time in each direction, in the order in which they were computed.
        recompute: micro-batches whose backward pass begins with another forward pass.
        overlapped: a device computes while its message leaves; otherwise it waits until it has left.
        latency_s: of a message, beyond `hop`; the link is free meanwhile.
        message_s: computing time that each message takes from its sender and from its receiver.
        overhead_s: what every action adds to its own time.
        tasks: also say when what ran where.

    Raises:
        ValueError: the table is not complete, or its ranks wait for each other; names the action.
    """
    ranks, microbatches = len(table), 1 + max((m for actions in table for _, _, m in actions), default=-1)
    order = execution_order(table, len(stages), microbatches)
    recomputed = {"none": 0, "all": microbatches, "all-but-last": max(1, microbatches - 1)}[recompute]
    seconds = _seconds(order, stages, recomputed, overhead_s)
    # Stages of a single device hand over without a message.
    hops = [hop(k) for k in range(len(stages) - 1)] if ranks > 1 else []
    moves = _moves(order, seconds, hops, _Shape(ranks, len(stages), microbatches))
    messages = _Messages(overlapped, latency_s, message_s)
    spans: list[_Span] | None = [] if tasks else None
    step = _run(moves, messages, [0.0] * ranks, spans)
    period_s = _period(lambda free: _run(moves, messages, free).ends, step.ends)
    return PipelineTimes(
        makespan_s=max(step.ends),
        period_s=period_s,
        busy_s=tuple(step.busy),
        exposed_s=tuple(min(e, period_s - b) for e, b in zip(step.exposed, step.busy, strict=True)),
        link_s=tuple(step.sending),
        stash=stashes(table, len(stages)),
        tasks=_tasks(order, spans, len(stages) > ranks) if spans else (),
    )


class _Messages(NamedTuple):
    """What holds for every message; the arguments of `pipeline_cost`."""

    overlapped: bool
    latency_s: float
    message_s: float


class _Shape(NamedTuple):
    ranks: int
    stages: int
    microbatches: int


class _Move(NamedTuple):
    """An action without its meaning: plain numbers, so that large tables are interpreted quickly.

    Attributes:
        need, give: slots of what it waits for and of what it hands on.
        receives: what it waits for is a message.
        hop_s: of the message that it hands on; below zero where it hands on none.
        link: that message's.
    """

    rank: int
    seconds: float
    need: int
    give: int
    receives: bool
    hop_s: float
    link: int


class _Span(NamedTuple):
    """When an action ran and when its message was on the link."""

    start_s: float
    end_s: float
    link_start_s: float
    link_end_s: float


class _Step(NamedTuple):
    """What one step came to, by rank."""

    ends: list[float]
    busy: list[float]
    exposed: list[float]
    sending: list[float]


def _seconds(
    order: Sequence[tuple[int, Action]], stages: Sequence[StageTimes], recomputed: int, overhead_s: float
) -> list[float]:
    """Return how long each action computes."""
    once = {
        "forward": [overhead_s + s.forward_s for s in stages],
        "backward": [overhead_s + s.backward_input_s + s.backward_weight_s for s in stages],
        "backward_input": [overhead_s + s.backward_input_s for s in stages],
        "backward_weight": [overhead_s + s.backward_weight_s for s in stages],
    }
    again = {kind: [t + s.forward_s for t, s in zip(times, stages, strict=True)] for kind, times in once.items()}
    again |= {kind: once[kind] for kind in ("forward", "backward_weight")}
    return [(again if m < recomputed else once)[kind][stage] for _, (kind, stage, m) in order]


def _moves(
    order: Sequence[tuple[int, Action]], seconds: Sequence[float], hops: Sequence[float], shape: _Shape
) -> list[_Move]:
    """Return the actions as numbers; slots are stages' inputs, their outputs' gradients, one always there, one sink."""
    ranks, stages, row = shape
    gradients, nothing = (stages + 1) * row, 2 * (stages + 1) * row
    moves = []
    for (rank, (kind, stage, m)), time_s in zip(order, seconds, strict=True):
        at, hop_s, receives, link = stage * row + m, -1.0, False, 2 * rank
        if kind == "forward":
            need, give, receives = at, at + row, stage > 0
            if stage < len(hops):
                hop_s = hops[stage]
        elif kind == "backward_weight":
            need, give = nothing, nothing + 1
        else:
            need, give, receives = gradients + at + row, gradients + at, stage < stages - 1
            if 0 < stage <= len(hops):
                hop_s = hops[stage - 1]
            # Of two ranks each is before and behind the other: one way to it, not two.
            link += ranks > 2
        moves.append(_Move(rank, time_s, need, give, receives and ranks > 1, hop_s, link))
    return moves


def _run(moves: Sequence[_Move], messages: _Messages, free: Sequence[float], spans: list[_Span] | None = None) -> _Step:
    """Let every move start when its rank is free and its input is there.

    Args:
        free: when each rank may begin.
        spans: to be filled, one for each move.
    """
    overlapped, latency_s, message_s = messages
    slots = 1 + max(max(move.need, move.give) for move in moves)
    sent, arrived, link_free = [0.0] * slots, [0.0] * slots, [0.0] * (2 * len(free))
    ends = list(free)
    busy, exposed, sending = [0.0] * len(ends), [0.0] * len(ends), [0.0] * len(ends)
    for rank, seconds, need, give, receives, hop_s, link in moves:
        start = ends[rank]
        if arrived[need] > start:
            exposed[rank] += min(arrived[need] - start, arrived[need] - sent[need])
            start = arrived[need]
        if receives:
            exposed[rank] += message_s
            start += message_s
        busy[rank] += seconds
        leaves = begins = end = start + seconds
        ends[rank] = sent[give] = arrived[give] = end
        if hop_s >= 0.0:
            begins = max(end, link_free[link])
            leaves = link_free[link] = begins + hop_s
            arrived[give] = leaves + latency_s
            sending[rank] += hop_s
            ends[rank] = end + message_s if overlapped else max(leaves, end + message_s)
            exposed[rank] += ends[rank] - end
        if spans is not None:
            spans.append(_Span(start, end, begins, leaves))
    return _Step(ends, busy, exposed, sending)


def _period(step: Callable[[Sequence[float]], list[float]], ends: list[float]) -> float:
    """Return the time from step to step, one directly behind the other on every rank.

    The order of a step is fixed, so its ends are a (max, +) linear function of the ends before: their differences
    approach the period, and the largest is never below it.

    Source: Baccelli, Cohen, Olsder and Quadrat 1992, "Synchronization and Linearity", section 3.7.

    Args:
        step: from when ranks are free to when they have ended their part.
        ends: of the first step.
    """
    # Everything waits for the first rank's first action: where that rank is last, nobody begins the next step earlier.
    if ends[0] == max(ends):
        return ends[0]
    longest = max(ends)
    for _ in range(MOST_PASSES):
        later = step(ends)
        gains = [after - before for before, after in zip(ends, later, strict=True)]
        ends, longest = later, max(gains)
        if longest - min(gains) <= _ROUNDING * longest:
            break
    return longest


def _tasks(order: Sequence[tuple[int, Action]], spans: Sequence[_Span], chunked: bool) -> tuple[StreamTask, ...]:
    tasks = []
    for (rank, (kind, stage, m)), span in zip(order, spans, strict=True):
        which = f"{m} of stage {stage}" if chunked else f"{m}"
        tasks.append(StreamTask(rank, "compute", f"{kind.replace('_', ' ')} {which}", span.start_s, span.end_s))
        if span.link_end_s > span.link_start_s:
            what = "activation" if kind == "forward" else "gradient"
            tasks.append(StreamTask(rank, "communication", f"send {what} {which}", span.link_start_s, span.link_end_s))
    return tuple(tasks)
