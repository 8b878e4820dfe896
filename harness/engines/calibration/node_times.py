"""What processes of one machine or several measure together: sends, and collectives over groups of them.

Three groups are measured as far as they exist: the ranks of one machine, the first rank of each, and all ranks.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.distributed as dist

from harness.core.given_cluster import MeasuredTable
from harness.costs.profiles import ExchangeTimes, InterfaceFacts
from harness.engines.calibration.group_times import ALL_GATHER, REDUCE_SCATTER
from harness.engines.calibration.interface_facts import interface_facts
from harness.engines.processes.foreign import is_not_offered
from harness.engines.processes.network import Meeting, join_group
from harness.workloads.accelerator import has_queue, module_of, wait_for

LINK_SIZES = tuple(4**k * 2**10 for k in range(9))
"""Bytes: 1 KiB, 4 KiB, ... 64 MiB."""

LONGEST_CALL_S = 0.5
"""A size whose exchange takes longer is the last one: its rate is seen, and a slow link is not measured for hours."""

SIZE_S = 0.5
"""Spent on one size of one exchange; chosen: 5 s for all sizes of one exchange."""

FEWEST, MOST = 5, 400
"""Repeats of one size; chosen: the fewest that a low quantile makes sense of, and what messages of 1 ms take."""

LOW = 0.1
"""Quantile of single round trips; chosen low: a woken process may wait for a tick of the system, and what disturbs an
exchange only ever adds (measured, 2 busy EPYC cores, 2026-11, gloo: 0.25 or 3.9 ms for the same round trip)."""

TIMED_BLOCKS = 5
"""Of back-to-back collectives, whose least mean counts; chosen as FEWEST. Single collectives cannot be timed: a rank
that is behind finds what the others sent before."""

LONGEST_WAIT_S = 300.0
"""For one collective, in which ranks also wait for groups that they are not in; chosen: ten times what one takes."""

Call = Callable[[], object]


@dataclass(frozen=True)
class RankTimes:
    """What one rank has to tell: the exchanges that it timed, and its machine where it is the first rank there."""

    exchanges: tuple[ExchangeTimes, ...]
    facts: InterfaceFacts | None = None


@dataclass(frozen=True)
class Where:
    """Which ranks there are, and on which machine each is.

    Attributes:
        nodes: of each rank, rising from 0.
        hosts: name of each machine.
    """

    rank: int
    nodes: Sequence[int]
    hosts: Sequence[str]
    place: torch.device

    @property
    def firsts(self) -> list[int]:
        """First rank of every machine."""
        return [self.nodes.index(node) for node in sorted(set(self.nodes))]

    @property
    def groups(self) -> list[list[int]]:
        """Groups whose collectives are measured."""
        ranks = list(range(len(self.nodes)))
        inside = next((g for g in self._by_node() if len(g) > 1), [])
        found = [inside, self.firsts, ranks if len(self.firsts) > 1 else []]
        return [group for at, group in enumerate(found) if len(group) > 1 and group not in found[:at]]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Pairs whose sends are measured: two of one machine, and every machine with the next one."""
        inside = next((g for g in self._by_node() if len(g) > 1), None)
        around = [*self.firsts, self.firsts[0]] if len(self.firsts) > 2 else self.firsts
        return [*([(inside[0], inside[1])] if inside else []), *itertools.pairwise(around)]

    def _by_node(self) -> list[list[int]]:
        return [[rank for rank, node in enumerate(self.nodes) if node == each] for each in sorted(set(self.nodes))]

    def times(self, exchange: str, ranks: Sequence[int], table: MeasuredTable) -> ExchangeTimes:
        """Return what was measured over some ranks."""
        hosts = tuple(dict.fromkeys(self.hosts[self.nodes[rank]] for rank in ranks))
        return ExchangeTimes(exchange, len(ranks), len({self.nodes[rank] for rank in ranks}), table, hosts)


def measure_exchanges(
    rank: int,
    nodes: Sequence[int],
    hosts: Sequence[str],
    meeting: Meeting,
    sizes: Sequence[int],
    device: str,
    _: Connection,
) -> RankTimes:
    """Meet the other ranks and return what this one timed; the whole work of a process.

    Args:
        nodes: machine of each rank, rising from 0; each machine has its ranks one after the other.
        hosts: name of each machine.
        meeting: where the ranks meet.
        sizes: bytes of the exchanges, rising.
        device: "cpu" or "cuda".
    """
    local = rank - list(nodes).index(nodes[rank])
    place = torch.device("cpu" if device == "cpu" else f"{device}:{local}")
    if has_queue(place):
        module_of(place).set_device(place)
    join_group(meeting, rank, len(nodes), place, LONGEST_WAIT_S)
    found = measure_joined(Where(rank, nodes, hosts, place), sizes)
    dist.barrier()
    dist.destroy_process_group()
    return found


def measure_joined(where: Where, sizes: Sequence[int]) -> RankTimes:
    """Return what this rank timed, in a group that was joined; all ranks call it alike."""
    found: list[ExchangeTimes] = []
    for pair in where.pairs:
        dist.barrier()
        if where.rank in pair:
            table = _sends(where, pair, sizes)
            found += [where.times("send", pair, table)] if where.rank == pair[0] else []
    for ranks in where.groups:
        # Every rank makes every group, its own or not: torch numbers them.
        group = dist.new_group(ranks)
        for name, make in NODE_COLLECTIVES.items():
            dist.barrier()
            if where.rank in ranks:
                table = _collectives(make, where.place, ranks, group, sizes)
                found += [where.times(name, ranks, table)] if where.rank == ranks[0] and table else []
    facts = interface_facts(interface_used(dist.get_backend())) if where.rank in where.firsts else None
    return RankTimes(tuple(found), facts)


def interface_used(backend: str) -> str:
    """Return the interface that processes of this machine meet over, where the environment names one."""
    name = os.environ.get("NCCL_SOCKET_IFNAME" if backend == "nccl" else "GLOO_SOCKET_IFNAME", "").split(",")[0]
    return name.removeprefix("=") if not name.startswith("^") else ""


# -- sends -------------------------------------------------------------------------------------------------------------


def _sends(where: Where, pair: tuple[int, int], sizes: Sequence[int]) -> MeasuredTable:
    """Return the seconds of a message one way by its bytes: half of low round trips."""
    table = []
    other = pair[1] if where.rank == pair[0] else pair[0]
    for size in sizes:
        vector, back = torch.zeros(size // 4, device=where.place), torch.zeros(size // 4, device=where.place)
        trip = _leading(vector, back, other) if where.rank == pair[0] else _following(vector, back, other)
        trip()
        first = _timed(trip, where.place)
        count = _told(_repeats(first), where, pair, first > LONGEST_CALL_S)
        trips = sorted(_timed(trip, where.place) for _ in range(count[0]))
        table.append((float(size), trips[int(LOW * len(trips))] / 2))
        if count[1]:
            break
    return tuple(table)


def _leading(vector: torch.Tensor, back: torch.Tensor, other: int) -> Call:
    def trip() -> None:
        dist.send(vector, other)
        dist.recv(back, other)

    return trip


def _following(vector: torch.Tensor, back: torch.Tensor, other: int) -> Call:
    def trip() -> None:
        dist.recv(back, other)
        dist.send(vector, other)

    return trip


def _told(count: int, where: Where, pair: tuple[int, int], last: bool) -> tuple[int, bool]:
    """Return how often to repeat and whether this size is the last, as the first of the pair found."""
    word = torch.tensor([count, int(last)], device=where.place)
    if where.rank == pair[0]:
        dist.send(word, pair[1])
    else:
        dist.recv(word, pair[0])
    return int(word[0]), bool(word[1])


def _repeats(seconds: float) -> int:
    return max(FEWEST, min(MOST, int(SIZE_S / max(seconds, 1e-9))))


def _timed(call: Call, place: torch.device) -> float:
    wait_for(place)
    start = time.perf_counter()
    call()
    wait_for(place)
    return time.perf_counter() - start


# -- collectives -------------------------------------------------------------------------------------------------------


def _all_reduce(vector: torch.Tensor, ranks: int, group: dist.ProcessGroup) -> Call:
    return lambda: dist.all_reduce(vector, group=group)


def _all_gather(vector: torch.Tensor, ranks: int, group: dist.ProcessGroup) -> Call:
    part = vector[: vector.numel() // ranks].clone()
    whole = torch.empty(part.numel() * ranks, device=vector.device)
    return lambda: ALL_GATHER(whole, part, group=group)


def _reduce_scatter(vector: torch.Tensor, ranks: int, group: dist.ProcessGroup) -> Call:
    part = vector[: vector.numel() // ranks].clone()
    whole = vector[: part.numel() * ranks].clone()
    return lambda: REDUCE_SCATTER(part, whole, group=group)


def _all_to_all(vector: torch.Tensor, ranks: int, group: dist.ProcessGroup) -> Call:
    sent = vector[: vector.numel() // ranks * ranks].clone()
    got = torch.empty_like(sent)
    return lambda: dist.all_to_all_single(got, sent, group=group)


NODE_COLLECTIVES: dict[str, Callable[[torch.Tensor, int, dist.ProcessGroup], Call]] = {
    "all-reduce": _all_reduce,
    "all-gather": _all_gather,
    "reduce-scatter": _reduce_scatter,
    "all-to-all": _all_to_all,
}
"""Sizes are those of a rank's whole vector, as nccl-tests counts them."""


def _collectives(
    make: Callable[[torch.Tensor, int, dist.ProcessGroup], Call],
    place: torch.device,
    ranks: Sequence[int],
    group: dist.ProcessGroup,
    sizes: Sequence[int],
) -> MeasuredTable:
    """Return the seconds of a collective on its slowest rank, by its bytes; empty where it is not offered."""
    table = []
    for size in sizes:
        call = make(torch.zeros(size // 4, device=place), len(ranks), group)
        try:
            call()
        except RuntimeError as error:
            if is_not_offered(error):
                return ()
            raise
        first = _largest(_timed(call, place), place, group)
        each = max(1, min(MOST, int(SIZE_S / TIMED_BLOCKS / max(first, 1e-9))))
        means = [_mean_s(call, each, place, group) for _ in range(TIMED_BLOCKS)]
        table.append((float(size), _largest(min(means), place, group)))
        if first > LONGEST_CALL_S:
            break
    return tuple(table)


def _mean_s(call: Call, number: int, place: torch.device, group: dist.ProcessGroup) -> float:
    """Return the mean seconds of so many calls, back to back."""
    dist.barrier(group)

    def block() -> None:
        for _ in range(number):
            call()

    return _timed(block, place) / number


def _largest(seconds: float, place: torch.device, group: dist.ProcessGroup) -> float:
    """Return the largest of the group's figures."""
    word = torch.tensor([seconds], dtype=torch.float64, device=place)
    dist.all_reduce(word, op=dist.ReduceOp.MAX, group=group)
    return float(word)
