"""Why more devices are as much faster as they are, and what they would need. Imports the standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.analysis.explain import Predict, parts_of, solve, step_s
from harness.analysis.parameters import PARAMETERS, Parameter
from harness.analysis.points import SWEPT, Row
from harness.core.words import duration, figure

WELL_USED = 0.9
"""Share of a step spent computing from which on devices count as well used; chosen."""

POOR = 0.5
"""Share of what more devices could gain below which their gain is explained unasked; chosen."""


def poor_scaling(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return, for each strategy and batch, few and many devices where many gain little; the poorest gain first.

    Whatever the learning rate, a step takes as long.

    Args:
        rows: of cells.csv; of several seeds and rates the one with the median step stands for all.
    """
    groups: dict[tuple[str, ...], dict[int, list[Row]]] = {}
    same = ("strategy", "options", "engine", "device", "precision", "global_batch_size")
    for row in rows:
        if step_s(row) is not None and "compute_s" in parts_of(row):
            swept = [f"{key} {row[key]}" for key in sorted(row) if key.startswith(SWEPT)]
            key = (*(str(row.get(column)) for column in same), *swept)
            groups.setdefault(key, {}).setdefault(int(row["gpus"]), []).append(row)
    several = (by_gpus for by_gpus in groups.values() if len(by_gpus) > 1)
    pairs = [(_median(by_gpus[min(by_gpus)]), _median(by_gpus[max(by_gpus)])) for by_gpus in several]
    return sorted((pair for pair in pairs if _efficiency(*pair) < POOR), key=lambda pair: _efficiency(*pair))


def _median(rows: Sequence[Row]) -> Row:
    return sorted(rows, key=lambda row: step_s(row) or 0.0)[(len(rows) - 1) // 2]


def _efficiency(few: Row, many: Row) -> float:
    return (step_s(few) or 0.0) / (step_s(many) or math.inf) * int(few["gpus"]) / int(many["gpus"])


def explain_scaling(
    few: Row, many: Row, predict: Predict | None = None, configured: Mapping[str, float] | None = None
) -> list[str]:
    """Say why more devices are as much faster as they are, and what they would need.

    At a fixed global batch the computing of a device shrinks with their number and the exchange of gradients does
    not: its bytes are those of the model.

    Args:
        few, many: rows of one strategy on fewer and on more devices.
        predict: step time of `many`.
        configured: the parameters of `many`.
    """
    left, right = _two_parts(few), _two_parts(many)
    if left is None or right is None or few["global_batch_size"] != many["global_batch_size"]:
        return []
    gain, devices = sum(left) / sum(right), many["gpus"] / few["gpus"]
    lines = [
        f"both take steps of {many['global_batch_size']} samples: {devices:g} times the devices compute one in "
        f"{duration(right[0])} instead of {duration(left[0])}, but exchange as many gradients, in {duration(right[1])} "
        f"instead of {duration(left[1])}: {figure(gain)} times as fast on {devices:g} times the devices"
    ]
    return [*lines, *_what_it_needs(right, many, predict, configured or {})]


def _two_parts(row: Row) -> tuple[float, float] | None:
    """Return seconds of an update: computing with input and the rest, and exchange with waiting."""
    parts = parts_of(row)
    if "compute_s" not in parts:
        return None
    exchange = parts.get("communication_s", 0.0) + parts.get("idle_s", 0.0)
    return sum(parts.values()) - exchange, exchange


def _what_it_needs(
    parts: tuple[float, float], row: Row, predict: Predict | None, configured: Mapping[str, float]
) -> list[str]:
    compute, exchange = parts
    if compute >= WELL_USED * (compute + exchange):
        return []
    lines = []
    bandwidth = next((p for p in PARAMETERS if p.key in configured and p.key.endswith("node.bandwidth")), None)
    if predict is not None and bandwidth is not None:
        lines.append(_bandwidth_needed(predict, bandwidth, configured[bandwidth.key], compute, int(row["gpus"])))
    # With k times the samples a step computes k times as long and exchanges as much as before.
    times = exchange / compute * WELL_USED / (1 - WELL_USED)
    more = figure(math.ceil(row["global_batch_size"] * times))
    lines.append(
        f"to compute for {100 * WELL_USED:g} % of a step with the links as they are takes steps of {more} samples, if "
        "that many still learn as well"
    )
    return lines


MOST_BANDWIDTH = 1e4
"""Multiple of the configured bandwidth beyond which only latency is left; chosen."""


def _bandwidth_needed(predict: Predict, parameter: Parameter, configured: float, compute_s: float, gpus: int) -> str:
    share = f"to compute for {100 * WELL_USED:g} % of a step"
    needed = solve(predict, parameter, configured, configured * MOST_BANDWIDTH, compute_s / WELL_USED)
    there = f"{parameter.write(configured)} is configured"
    if needed is None:
        never = f"no bandwidth lets {gpus} devices compute for {100 * WELL_USED:g} % of a step"
        return f"{never}: latency alone takes the rest ({there})"
    return f"{share}, {gpus} devices need {parameter.gives.format(parameter.write(needed))}; {there}"
