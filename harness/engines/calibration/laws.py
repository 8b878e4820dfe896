"""From measured tables to the figures of laws."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from harness.costs.profiles import Bus, LinkFigures, TimeCurve

Table = Sequence[tuple[float, float]]
"""(bytes, seconds), bytes rising."""


def alpha_beta(table: Table) -> tuple[float, float]:
    """Return the seconds at no bytes and the seconds per byte whose relative errors are least, in squares.

    Relative, because a table spans five orders of magnitude and its small messages matter as much as its large ones.
    Neither is below zero: where the best line begins below, it goes through zero.
    """
    import numpy as np

    if not table:
        return 0.0, 0.0
    sizes, seconds = np.array(table, dtype=float).T
    flat = float(np.average(seconds, weights=seconds**-2.0))
    if min(sizes) == max(sizes):
        return flat, 0.0
    beta, alpha = map(float, np.polyfit(sizes, seconds, 1, w=1 / seconds))
    if alpha < 0:
        return 0.0, float((sizes / seconds).sum() / ((sizes / seconds) ** 2).sum())
    return (alpha, beta) if beta >= 0 else (flat, 0.0)


def misfit(table: Table, alpha_s: float, beta_s_per_byte: float) -> float:
    """Return the median relative error of a fit on its own table."""
    return statistics.median(abs(alpha_s + beta_s_per_byte * x - y) / y for x, y in table)


def ring_link(ranks: int, table: Table) -> LinkFigures:
    """Return latency per message and bus bandwidth of the ring that takes as long as these all-reduces.

    Source: Patarasuk and Yuan 2009, section 3: 2 (n - 1) messages of 1/n of the bytes each.
    """
    alpha, beta = alpha_beta(table)
    messages = 2 * (ranks - 1)
    return LinkFigures(alpha / messages, messages / (ranks * beta) if beta else float("inf"))


def point_to_point_link(table: Table) -> LinkFigures:
    """Return latency and bandwidth of single messages."""
    alpha, beta = alpha_beta(table)
    return LinkFigures(alpha, 1 / beta if beta else float("inf"))


def bus_of(groups: Mapping[int, Mapping[str, Table]]) -> Bus:
    """Return the bus whose collectives were measured.

    Args:
        groups: tables by collective, by group size.
    """
    smallest = groups[min(groups)]
    return Bus(
        link=point_to_point_link(smallest["point-to-point"]),
        by_group={ranks: ring_link(ranks, tables["all-reduce"]) for ranks, tables in groups.items()},
        tables=_by_ranks(groups, "all-reduce"),
        gathers=_by_ranks(groups, "all-gather"),
        scatters=_by_ranks(groups, "reduce-scatter"),
    )


def _by_ranks(groups: Mapping[int, Mapping[str, Table]], collective: str) -> dict[int, tuple[tuple[float, float], ...]]:
    return {
        ranks: tuple((x, y) for x, y in tables[collective]) for ranks, tables in groups.items() if collective in tables
    }


def curve(table: Table) -> TimeCurve:
    """Return a table as a curve; more bytes never take less time, whatever the noise."""
    best: list[tuple[float, float]] = []
    for x, y in table:
        best.append((float(x), max(y, best[-1][1] if best else 0.0)))
    return TimeCurve(tuple(best))


def hop_curve(messages: Table, latency_s: float) -> TimeCurve:
    """Return how long messages of so many bytes hold the link, beyond their latency, which is counted apart."""
    return curve([(size, max(0.0, seconds - latency_s)) for size, seconds in messages])


def level(table: Table) -> TimeCurve:
    """Return a table as a curve that stays where it ends."""
    points = tuple((float(x), y) for x, y in table)
    return TimeCurve((*points, (points[-1][0] * 1000, points[-1][1]))) if points else TimeCurve()


def wrapper_of(rows: Sequence[tuple[float, float, float, float]], all_reduce: TimeCurve) -> tuple[float, float, float]:
    """Return what DDP adds to a step, and what it adds to each bucket beyond its all-reduce: fixed, and by the byte.

    Args:
        rows: (bytes, seconds of a step without DDP, wrapped without an exchange, with it), one bucket each.
        all_reduce: seconds against bytes.
    """
    step = statistics.median(silent - alone for _, alone, silent, _ in rows)
    rest = [(size, whole - silent - all_reduce.at(size)) for size, _, silent, whole in rows]
    bucket = alpha_beta([(size, seconds) for size, seconds in rest if seconds > 0])
    return max(0.0, step), *bucket
