"""What a group of processes measures together: collectives, meetings after computing, and DDP's own share."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from harness.core.records import Json
from harness.engines.calibration.single_times import typical
from harness.engines.processes.foreign import is_not_offered
from harness.engines.processes.network import Meeting, join_group
from harness.workloads.accelerator import has_queue, module_of, wait_for

SIZES = tuple(4**k * 2**10 for k in range(9))
"""Bytes: 1 KiB, 4 KiB, ... 64 MiB."""

GAPS_S = (0.0003, 0.001, 0.003, 0.01, 0.03, 0.1)
"""Computing between two meetings; chosen: from below a scheduler's slice (some ms) to well above it."""

BUCKETS = (2**16, 2**20, 2**22, 2**24)
"""Bytes of gradient that DDP is measured with; chosen: below and above its first bucket of 1 MiB."""

SHARE_S = 0.25
"""Least time spent on one figure; chosen: the whole of it stays below half a minute for two processes."""

FEWEST = 8
"""Least repeats of one figure, whatever it takes; chosen: the least that a quartile makes sense of."""

STALL_ROUNDS = 5
"""Times that all gaps are measured in turn; chosen: the median of five leaves out two that others disturbed."""

LONGEST_COLLECTIVE_S = 120.0
"""For one collective; chosen: a peer that is gone is noticed at once, this is for one that hangs."""

ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""What torch calls them: the first names from torch 2.13 on."""

Timed = Callable[[Callable[[], object]], float]


def measure_group(rank: int, ranks: int, store: str, device: str, _: Connection) -> Json:
    """Return this group's tables, as rank 0 sees them.

    Args:
        store: file through which the processes meet.
        device: "cpu" or "cuda".
    """
    place = torch.device("cpu" if device == "cpu" else f"{device}:{rank}")
    if has_queue(place):
        module_of(place).set_device(place)
    join_group(Meeting(Path(store)), rank, ranks, place, LONGEST_COLLECTIVE_S)
    timed = _timer(place)
    collectives = {}
    for name, make in COLLECTIVES.items():
        table = [(size, seconds) for size in SIZES if (seconds := _collective(make, size, place, timed)) is not None]
        if table:
            collectives[name] = table
    small = dict(collectives["all-reduce"])[SIZES[0]]
    stall = _stall(small, place) if device == "cpu" else []
    wrapper = [(size, *_wrapper(size, place, timed)) for size in BUCKETS]
    dist.barrier()
    dist.destroy_process_group()
    return {"collectives": collectives, "stall": stall, "wrapper": wrapper}


def _timer(place: torch.device) -> Timed:
    """Return a function that measures one call; all processes measure it equally often."""

    def now() -> float:
        wait_for(place)
        return time.perf_counter()

    def timed(call: Callable[[], object]) -> float:
        call()
        dist.barrier()
        first = _agreed(_seconds(call, now), place)
        repeats = max(FEWEST, min(200, int(SHARE_S / max(first, 1e-6))))
        return typical([_seconds(call, now) for _ in range(repeats)])

    return timed


def _seconds(call: Callable[[], object], now: Callable[[], float]) -> float:
    start = now()
    call()
    return now() - start


def _agreed(seconds: float, place: torch.device) -> float:
    """Return the largest of all processes' figures."""
    largest = torch.tensor([seconds], device=place)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return float(largest)


# -- collectives -------------------------------------------------------------------------------------------------------


def _all_reduce(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    return lambda: dist.all_reduce(vector)


def _all_gather(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    part = vector[: vector.numel() // ranks].clone()
    whole = torch.empty(part.numel() * ranks, device=vector.device)
    return lambda: ALL_GATHER(whole, part)


def _reduce_scatter(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    part = vector[: vector.numel() // ranks].clone()
    whole = vector[: part.numel() * ranks].clone()
    return lambda: REDUCE_SCATTER(part, whole)


def _all_to_all(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    sent = vector[: vector.numel() // ranks * ranks].clone()
    got = torch.empty_like(sent)
    return lambda: dist.all_to_all_single(got, sent)


def _broadcast(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    return lambda: dist.broadcast(vector, src=0)


def _there_and_back(vector: torch.Tensor, ranks: int) -> Callable[[], object]:
    """Send between the first two; twice the time of one message."""
    rank, back = dist.get_rank(), torch.empty_like(vector)

    def call() -> None:
        if rank == 0:
            dist.send(vector, 1)
            dist.recv(back, 1)
        elif rank == 1:
            dist.recv(back, 0)
            dist.send(vector, 0)

    return call


COLLECTIVES = {
    "all-reduce": _all_reduce,
    "all-gather": _all_gather,
    "reduce-scatter": _reduce_scatter,
    "all-to-all": _all_to_all,
    "broadcast": _broadcast,
    "point-to-point": _there_and_back,
}


def _collective(make: Any, size: int, place: torch.device, timed: Timed) -> float | None:
    """Return the seconds of one collective over vectors of `size` bytes; None where the backend does not offer it."""
    call = make(torch.zeros(size // 4, device=place), dist.get_world_size())
    try:
        seconds = timed(call)
    except RuntimeError as error:
        if is_not_offered(error):
            return None
        raise
    return seconds / 2 if make is _there_and_back else seconds


# -- meetings ----------------------------------------------------------------------------------------------------------


def _stall(meeting_s: float, place: torch.device) -> list[tuple[float, float]]:
    """Return what meeting adds to a cycle of computing and meeting, beyond `meeting_s`, by the length of computing.

    A process that is woken is put beside the one that wakes it, and both share a core until the system moves one away.
    """
    amounts = {gap: _work_for(gap, place) for gap in GAPS_S}
    blocks = [[_lost_by_meeting(gap, amounts[gap]) for gap in GAPS_S] for _ in range(STALL_ROUNDS)]
    return [
        (gap, max(0.0, statistics.median(found) - meeting_s))
        for gap, found in zip(GAPS_S, zip(*blocks, strict=True), strict=True)
    ]


def _lost_by_meeting(gap_s: float, amount: int) -> float:
    """Return how much longer cycles of so much work take with a meeting at their end than without.

    Both beside the same busy neighbours, and one after the other: what strangers take from the machine cancels.
    """
    number, cycles = torch.zeros(256), max(FEWEST, min(40, int(SHARE_S / gap_s)))
    with_meeting = _median_cycle(cycles, amount, lambda: dist.all_reduce(number))
    dist.barrier()
    return with_meeting - _median_cycle(cycles, amount, lambda: None)


def _median_cycle(cycles: int, amount: int, meet: Callable[[], object]) -> float:
    times = []
    for _ in range(cycles):
        start = time.perf_counter()
        _work(amount)
        meet()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def _work(amount: int) -> None:
    for _ in range(amount):
        pass


def _work_for(seconds: float, place: torch.device) -> int:
    """Return how much work takes so long on an idle core, the same for all processes."""
    probe = 20000
    took = []
    for _ in range(20):
        start = time.perf_counter()
        _work(probe)
        took.append(time.perf_counter() - start)
    return max(1, int(probe * seconds / _agreed(min(took), place)))


# -- DDP ---------------------------------------------------------------------------------------------------------------


class Parameters(nn.Module):
    """Parameters of so many bytes, and hardly any computing."""

    def __init__(self, size: int, place: torch.device) -> None:
        """Make four tensors."""
        super().__init__()
        self.parts = nn.ParameterList([nn.Parameter(torch.zeros(size // 16, device=place)) for _ in range(4)])

    def forward(self, factor: float) -> torch.Tensor:
        """Return a sum in which every parameter takes part."""
        return torch.stack([(part * factor).sum() for part in self.parts]).sum()


def _wrapper(size: int, place: torch.device, timed: Timed) -> tuple[float, float, float]:
    """Return the seconds of a step without DDP, wrapped but without an exchange, and with it."""
    plain = Parameters(size, place)
    wrapped = nn.parallel.DistributedDataParallel(
        plain, device_ids=[place.index] if has_queue(place) else None, gradient_as_bucket_view=True
    )
    alone = timed(lambda: _step(plain, plain))
    silent = timed(lambda: _step(wrapped, plain, exchange=False))
    return alone, silent, timed(lambda: _step(wrapped, plain))


def _step(module: Any, plain: nn.Module, exchange: bool = True) -> None:
    with nullcontext() if exchange else module.no_sync():
        module(1.0).backward()
    for parameter in plain.parameters():
        parameter.grad = None
