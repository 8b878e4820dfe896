"""Pipeline schedules: in which order each device passes micro-batches through its stages.

A schedule is a pure function of (ranks, micro-batches) that returns a Table. A strategy may bring its own; whatever
engines run must pass `check_table`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Literal

from pydantic import Field

from harness.api.strategy import Action, Layout, Options, RecomputeOption, Schedule, Table
from harness.api.zero_bubble import PassTimes, zero_bubble
from harness.core.errors import Impossible

ScheduleName = Literal["naive", "gpipe", "1f1b", "interleaved-1f1b", "zb-1p", "zb-2p", "pipedream"]

DEFAULT_CHUNKS = 2
"""Stages a device of interleaved 1F1B: chosen, because fewer do not interleave and more ask for more layers."""


def naive(ranks: int, microbatches: int) -> Table:
    """Send one micro-batch all the way there and back before the next: one device works at a time."""
    return [
        [Action(kind, rank, m) for m in range(microbatches) for kind in ("forward", "backward")]
        for rank in range(ranks)
    ]


def gpipe(ranks: int, microbatches: int) -> Table:
    """All forward passes, then all backward passes; every stage keeps all activations.

    Source: Huang et al. 2019, "GPipe", figure 2c.
    """
    return [
        [Action(kind, rank, m) for kind in ("forward", "backward") for m in range(microbatches)]
        for rank in range(ranks)
    ]


def one_forward_one_backward(ranks: int, microbatches: int) -> Table:
    """Fill the pipeline, then alternate: stage k keeps at most ranks - k activations.

    Source: Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", figure 4 (top).
    """
    table = []
    for rank in range(ranks):
        forward = [Action("forward", rank, m) for m in range(microbatches)]
        backward = [Action("backward", rank, m) for m in range(microbatches)]
        table.append(_alternate(forward, backward, ahead=ranks - rank))
    return table


def interleaved(chunks: int) -> Schedule:
    """Return 1F1B over `chunks` stages on each device, which divides the bubble by as many.

    Micro-batches pass in groups as large as there are ranks. Where the last group is smaller (the last batch of an
    epoch may be) its missing micro-batches are left out of the order: the others keep theirs, so nothing deadlocks.

    Source: Narayanan et al. 2021, section 2.2 and figure 4 (bottom); the order is Megatron-LM's,
    `forward_backward_pipelining_with_interleaving`.
    """

    def schedule(ranks: int, microbatches: int) -> Table:
        groups = range(0, microbatches, ranks)
        table = []
        for rank in range(ranks):
            visits = [(rank + ranks * c, first + m) for first in groups for c in range(chunks) for m in range(ranks)]
            returns = [
                (rank + ranks * c, first + m) for first in groups for c in reversed(range(chunks)) for m in range(ranks)
            ]
            order = _alternate(
                [Action("forward", stage, m) for stage, m in visits],
                [Action("backward", stage, m) for stage, m in returns],
                ahead=2 * (ranks - rank - 1) + (chunks - 1) * ranks + 1,
            )
            table.append([action for action in order if action.microbatch < microbatches])
        return table

    return schedule


def _alternate(forward: Sequence[Action], backward: Sequence[Action], ahead: int) -> list[Action]:
    """Return `ahead` forward passes, then one backward and one forward in turn until none is left."""
    order = list(forward[:ahead])
    for number, action in enumerate(backward):
        order.append(action)
        order += forward[ahead + number : ahead + number + 1]
    return order


def zb_1p(ranks: int, microbatches: int) -> Table:
    """1F1B with the gradients of weights put off: stage k waits with k of them, so that all stages keep `ranks`.

    Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.1 (ZB-H1).
    """
    return [_split(rank, microbatches, ahead=ranks - rank, behind=rank) for rank in range(ranks)]


def zb_2p(ranks: int, microbatches: int) -> Table:
    """Fill the pipeline until the first gradient is back, and put weights off for as long: no bubble, twice the stash.

    Source: Qi et al. 2023, "Zero Bubble Pipeline Parallelism", section 2.2 (ZB-H2).
    """
    return [_split(rank, microbatches, ahead=2 * (ranks - rank) - 1, behind=2 * rank) for rank in range(ranks)]


def _split(rank: int, microbatches: int, ahead: int, behind: int) -> list[Action]:
    """Return one stage's order: `ahead` forward passes before the first backward, `behind` weights put off."""
    order = [Action("forward", rank, m) for m in range(min(ahead, microbatches))]
    for m in range(microbatches):
        order.append(Action("backward_input", rank, m))
        if m >= behind:
            order.append(Action("backward_weight", rank, m - behind))
        if m + ahead < microbatches:
            order.append(Action("forward", rank, m + ahead))
    order += [Action("backward_weight", rank, m) for m in range(max(0, microbatches - behind), microbatches)]
    return order


_SINGLE: dict[ScheduleName, Schedule] = {
    "naive": naive,
    "gpipe": gpipe,
    "1f1b": one_forward_one_backward,
    "zb-1p": zb_1p,
    "zb-2p": zb_2p,
    "pipedream": one_forward_one_backward,
}

KEPT: Mapping[ScheduleName, float] = {"zb-1p": 1.0, "zb-2p": 2.0}
"""Activations that a device may keep, in those of the first stage of 1F1B. Source: Qi et al. 2023, section 3."""

WEIGHT_MEMORY = 0.4
"""Share of a transformer layer's activations that weights' gradients need: 32 of 34 + 5 as/h bytes per token and unit.

Source: Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", section 4.1; 0.37 to
0.43 for sequences of 1024 tokens.
"""


@lru_cache(maxsize=256)
def find_schedule(name: ScheduleName, chunks: int | None = None, weight: float | None = None) -> tuple[Schedule, int]:
    """Return the schedule of that name and how many stages it puts on a device.

    Tables that take long to make are kept.

    Args:
        chunks: stages on each device; None for what the schedule is usually run with.
        weight: time of a backward pass for weights, in forward passes, that a zero-bubble schedule is made for, as its
            authors make it; None for the fixed tables, which suit equal times.

    Raises:
        Impossible: the schedule puts one stage on a device, and `chunks` asks for more; or it does not tell passes for
            weights apart, and `weight` says how long they take.
    """
    if weight is not None and name not in KEPT:
        raise Impossible(f"weight_time = {weight:g} is for {' and '.join(KEPT)}; {name} has one backward pass")
    if name == "interleaved-1f1b":
        chunks = DEFAULT_CHUNKS if chunks is None else chunks
        return lru_cache(maxsize=32)(interleaved(chunks)), chunks
    if chunks not in (None, 1):
        raise Impossible(f"chunks = {chunks} is for interleaved-1f1b; {name} puts one stage on each device")
    if weight is not None:
        return lru_cache(maxsize=32)(zero_bubble(PassTimes(1.0, 1.0, weight), KEPT[name], WEIGHT_MEMORY)), 1
    return _SINGLE[name], 1


class PipelineOptions(Options):
    """What a strategy whose layers are spread over stages lets one set."""

    schedule: ScheduleName = Field("1f1b", description="order of the micro-batches")
    chunks: int | None = Field(
        None,
        ge=1,
        description=f"stages on each device, of interleaved-1f1b only; default {DEFAULT_CHUNKS}",
    )
    placement: Literal["time", "parameters"] | tuple[tuple[str, ...], ...] = Field(
        "time", description="balance stages by measured time or by parameters, or layer names for each stage"
    )
    recompute: RecomputeOption = Field(
        False,
        description='drop activations and compute them again in the backward pass; "all-but-last": keep those of '
        "the last micro-batch where there are several (timing only)",
    )
    weight_time: float | None = Field(
        None,
        gt=0,
        description="seconds of a backward pass for weights for each second of a forward pass, which zb-1p and "
        "zb-2p are then made for; default: their fixed tables, made for equal times",
    )

    def in_stages(self, layout: Layout) -> Layout:
        """Return a layout whose stages run as these options say.

        Args:
            layout: how many devices each axis has, and whatever else these options do not say.

        Raises:
            Impossible: an option is for another schedule than the one that is set.
        """
        schedule, chunks = find_schedule(self.schedule, self.chunks, self.weight_time)
        staged = layout.pipeline > 1
        return replace(
            layout,
            schedule=schedule if staged else None,
            chunks=chunks if staged else 1,
            placement=self.placement,
            recompute=self.recompute,
        )


# -- what a table must be ----------------------------------------------------------------------------------------------


def check_table(table: Table, stages: int, microbatches: int) -> None:
    """Refuse a table that does not pass every micro-batch once through every stage, there and back.

    Raises:
        ValueError: an action is unknown, missing, there twice, on the wrong rank or before what it needs; or the ranks
            wait for each other. The message names the action.
    """
    execution_order(table, stages, microbatches)


def execution_order(table: Table, stages: int, microbatches: int) -> list[tuple[int, Action]]:
    """Return all actions with their ranks, each behind everything that it needs.

    Raises:
        ValueError: as `check_table`.
    """
    _check_actions(table, stages, microbatches)
    # Row 0 of forward is the input, row s + 1 what stage s puts out; row s of backward is what stage s hands back, the
    # last row is the loss.
    forward = bytearray(b"\1" * microbatches + bytes(stages * microbatches))
    backward = bytearray(bytes(stages * microbatches) + b"\1" * microbatches)
    order: list[tuple[int, Action]] = []
    positions = [0] * len(table)
    pending, queued = deque(range(len(table))), [True] * len(table)
    while pending:
        rank = pending.popleft()
        queued[rank] = False
        actions, position = table[rank], positions[rank]
        while position < len(actions):
            action = actions[position]
            at = action[1] * microbatches + action[2]
            if action[0] == "forward":
                if not forward[at]:
                    break
                forward[at + microbatches], served = 1, rank + 1
            elif action[0] == "backward_weight":
                served = rank
            else:
                if not backward[at + microbatches]:
                    break
                backward[at], served = 1, rank - 1
            order.append((rank, action))
            position += 1
            served %= len(table)
            if not queued[served] and served != rank:
                queued[served] = True
                pending.append(served)
        positions[rank] = position
    for actions, position in zip(table, positions, strict=True):
        if position < len(actions):
            raise ValueError(f"the pipeline table deadlocks: {actions[position]} waits for an input that never comes")
    return order


def _check_actions(table: Table, stages: int, microbatches: int) -> None:
    if not table or microbatches < 1:
        raise ValueError("the pipeline table is empty: there is no rank or no micro-batch")
    done = [bytearray(stages * microbatches) for _ in _NAMES]
    for rank, actions in enumerate(table):
        for action in actions:
            kind, stage, m = action
            if kind not in _MARKS:
                raise ValueError(f"{action} is of no known kind; there are {', '.join(_MARKS)}")
            if not (0 <= stage < stages and 0 <= m < microbatches):
                raise ValueError(f"{action} is outside of {stages} stages and {microbatches} micro-batches")
            if stage % len(table) != rank:
                raise ValueError(f"{action} is on rank {rank}; stage {stage} lives on rank {stage % len(table)}")
            at = stage * microbatches + m
            needs, marks = _MARKS[kind]
            if needs is not None and not done[needs][at]:
                raise ValueError(f"{action} is not behind the {_NAMES[needs]} on its rank")
            for mark in marks:
                if done[mark][at]:
                    raise ValueError(f"{action} is there twice")
                done[mark][at] = 1
    for name, marked in zip(_NAMES, done, strict=True):
        stage, m = divmod(marked.find(0), microbatches)
        if stage >= 0:
            raise ValueError(f"the {name} of micro-batch {m} through stage {stage} is missing")


_NAMES = ("forward pass", "backward pass for inputs", "backward pass for weights")
_MARKS: dict[str, tuple[int | None, tuple[int, ...]]] = {
    "forward": (None, (0,)),
    "backward": (0, (1, 2)),
    "backward_input": (0, (1,)),
    "backward_weight": (1, (2,)),
}
"""By kind of action: which of _NAMES must come before it on its rank, and which it is."""


def most_kept(
    actions: Iterable[Action], size: Callable[[int], float] = lambda stage: 1, weight_share: float = 1.0
) -> float:
    """Return the largest sum of activations that one rank keeps at once.

    They are kept from the forward pass until the backward pass has used them up, its half for the weights included.

    Args:
        size: of the activations of one micro-batch in a stage; default: count micro-batches.
        weight_share: of them, what only that half still needs, 0..1.
    """
    used_up = {"forward": -1.0, "backward": 1.0, "backward_input": 1 - weight_share, "backward_weight": weight_share}
    most = held = 0.0
    for kind, stage, _ in actions:
        held -= used_up[kind] * size(stage)
        most = max(most, held)
    return most


def stashes(table: Table, stages: int) -> tuple[int, ...]:
    """Return the most micro-batches that each stage keeps at once."""
    held, most = [0] * stages, [0] * stages
    for actions in table:
        for kind, stage, _ in actions:
            if kind == "forward":
                held[stage] += 1
                if held[stage] > most[stage]:
                    most[stage] = held[stage]
            elif kind != "backward_input":
                held[stage] -= 1
    return tuple(most)
