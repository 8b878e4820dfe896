"""Sends and collectives as they were measured, and the bandwidths that are told of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.given_cluster import LinkFigures, MeasuredTable

BUS_SHARES: Mapping[str, tuple[int, bool]] = {
    "send": (1, False),
    "all-reduce": (2, True),
    "all-gather": (1, True),
    "reduce-scatter": (1, True),
    "all-to-all": (1, True),
    "broadcast": (1, False),
    "reduce": (1, False),
}
"""Times that each byte passes the narrowest link, and whether 1/n of the bytes stays where it is.

Source: nccl-tests, doc/PERFORMANCE.md, "Bus bandwidth": it can be compared with the hardware's rate whatever the number
of ranks and the algorithm.
"""


def bus_factor(exchange: str, ranks: int) -> float:
    """Return bus bandwidth divided by algorithm bandwidth: 2 (n - 1) / n of an all-reduce, 1 of a send.

    Raises:
        KeyError: there is no such exchange in `BUS_SHARES`.
    """
    passes, keeps = BUS_SHARES[exchange]
    return passes * (ranks - 1) / ranks if keeps else float(passes)


@dataclass(frozen=True)
class ExchangeTimes:
    """One exchange over one group of ranks, by size.

    Attributes:
        exchange: a key of `BUS_SHARES`.
        ranks, nodes: that took part, and the machines that they were on.
        table: (bytes, seconds), bytes rising; the bytes are those of the whole vector of a rank, and of a send those
            of the message, one way.
        hosts: names of the machines, in the order of the ranks.
    """

    exchange: str
    ranks: int
    nodes: int
    table: MeasuredTable
    hosts: tuple[str, ...] = ()

    def bus_rate(self, row: int = -1) -> float:
        """Return the bus bandwidth of one row of the table in bytes per second, by default of the largest size."""
        num_bytes, seconds = self.table[row]
        return num_bytes / seconds * bus_factor(self.exchange, self.ranks)

    @property
    def best_bus_bytes_per_s(self) -> float:
        """Bus bandwidth of the size at which it is highest."""
        return max(self.bus_rate(row) for row in range(len(self.table)))


FITTED_SIZES = 3
"""Sizes that a rate is fitted to; chosen: three give three slopes, and one that was disturbed is outvoted."""


def send_figures(table: MeasuredTable) -> LinkFigures:
    """Return delay and rate of the link that these messages took one way.

    The rate is the median slope between the largest messages, so that what a connection takes to get up to speed, which
    a line through all points would count as delay or as rate, is neither. The delay is what the smallest message takes
    beyond its bytes at that rate.

    Source: Theil 1950 and Sen 1968: the median of pairwise slopes stands up to one wrong point of three.

    Args:
        table: (bytes, seconds) of at least one size.
    """
    largest = table[-FITTED_SIZES:]
    slopes = sorted(
        (later - earlier) / (more - less)
        for at, (less, earlier) in enumerate(largest)
        for more, later in largest[at + 1 :]
        if more > less
    )
    positive = [slope for slope in slopes if slope > 0]
    num_bytes, seconds = table[-1]
    slope = _median(positive) if positive else seconds / num_bytes
    least, first = table[0]
    return LinkFigures(max(0.0, first - least * slope), 1 / slope)


def _median(rising: Sequence[float]) -> float:
    middle = len(rising) // 2
    return rising[middle] if len(rising) % 2 else (rising[middle - 1] + rising[middle]) / 2


def ring_figures(ranks: int, table: MeasuredTable) -> LinkFigures:
    """Return latency of a message and bus bandwidth of the ring that takes as long as these all-reduces.

    Source: Patarasuk and Yuan 2009, section 3: 2 (n - 1) messages of 1/n of the bytes each.
    """
    whole = send_figures(table)
    messages = 2 * (ranks - 1)
    return LinkFigures(whole.latency_s / messages, whole.bandwidth_bytes_per_s * messages / ranks)
