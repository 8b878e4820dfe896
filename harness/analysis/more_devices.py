"""Why more devices are as much faster as they are, and what they would need. Imports the standard library only."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis.explain import Predict, solve, update_parts
from harness.analysis.parameters import PARAMETERS, Parameter
from harness.analysis.points import Row, in_stages, mean_update_s, point_of
from harness.core.text import NO_TEXT, Text
from harness.core.words import counted, duration, figure, times

WELL_USED = 0.9
"""Share of a step spent computing above which devices count as well used; chosen."""

POOR = 0.5
"""Share of what more devices could gain below which their gain is explained unasked; chosen."""


def poor_scaling(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Return, for each strategy and batch, few and many devices where many gain little; the poorest gain first.

    Whatever the learning rate, a step takes as long.

    Args:
        rows: of cells.csv; of several seeds and rates the one with the median step stands for all.
    """
    groups: dict[tuple[str, ...], dict[int, list[Row]]] = {}
    # How a step's samples are spread over devices follows from how many there are.
    spread = ("gpus", "nodes", "batch_size", "micro_batch_size", "learning_rate", "lr_rule")
    for row in rows:
        if mean_update_s(row) is not None and "compute_s" in update_parts(row):
            by_gpus = groups.setdefault(point_of(row, leaving_out=spread), {})
            by_gpus.setdefault(int(row["gpus"]), []).append(row)
    several = (by_gpus for by_gpus in groups.values() if len(by_gpus) > 1)
    pairs = [(_median(by_gpus[min(by_gpus)]), _median(by_gpus[max(by_gpus)])) for by_gpus in several]
    return sorted((pair for pair in pairs if _efficiency(*pair) < POOR), key=lambda pair: _efficiency(*pair))


def _median(rows: Sequence[Row]) -> Row:
    return sorted(rows, key=lambda row: mean_update_s(row) or 0.0)[(len(rows) - 1) // 2]


def _efficiency(few: Row, many: Row) -> float:
    return (mean_update_s(few) or 0.0) / (mean_update_s(many) or math.inf) * int(few["gpus"]) / int(many["gpus"])


def scaling_title(few: Row, many: Row) -> Text:
    """Return the question about two rows of one strategy: "Why sync-ddp is slower on 2 devices than on 1 (0.55x)"."""
    gain = (mean_update_s(few) or 0.0) / (mean_update_s(many) or math.inf)
    on = f"on {counted(int(many['gpus']), 'device')}"
    if gain < 1:
        return Text(f"Why {many['strategy']} is slower {on} than on {few['gpus']} ({times(gain)}x)")
    return Text(f"Why {many['strategy']} is only {times(gain)}x as fast {on} as on {few['gpus']}")


@dataclass(frozen=True)
class ScalingAccount:
    """Why more devices are as much faster as they are.

    Attributes:
        reason: where a step's time goes; nothing where that cannot be compared.
        remedies: what they would need, one sentence each.
    """

    reason: Text = NO_TEXT
    remedies: tuple[Text, ...] = ()

    @property
    def sentences(self) -> tuple[Text, ...]:
        """All of it."""
        return (self.reason, *self.remedies) if self.reason else ()


def explain_scaling(
    few: Row, many: Row, predict: Predict | None = None, configured: Mapping[str, float] | None = None
) -> ScalingAccount:
    """Say why more devices are as much faster as they are, then what they would need.

    At a fixed global batch the computing of a device shrinks with their number and the exchange of gradients does
    not: its bytes are those of the model.

    Args:
        few, many: rows of one strategy on fewer and on more devices.
        predict: step time of `many`.
        configured: the parameters of `many`.
    """
    left, right = _computing_and_exchange(few), _computing_and_exchange(many)
    if left is None or right is None or few["global_batch_size"] != many["global_batch_size"]:
        return ScalingAccount()
    on = f"on {counted(int(few['gpus']), 'device')}"
    whose = "Each step" if _turns(many) == 1 else "Each worker's step"
    computes, exchanges = (
        f"{duration(part * _turns(many))} ({duration(before * _turns(few))} {on})"
        for part, before in zip(right, left, strict=True)
    )
    reason = Text(
        f"{whose} of {many['global_batch_size']} samples computes for {computes} and spends {exchanges} on exchange "
        "and waiting."
    )
    return ScalingAccount(reason, tuple(_what_it_needs(right, many, predict, configured or {})))


def _turns(row: Row) -> int:
    """Return how many updates pass during a worker's step: as many as there are workers, where they take turns."""
    return int(row.get("workers") or 1) if row.get("synchrony") == "asynchronous" else 1


def _computing_and_exchange(row: Row) -> tuple[float, float] | None:
    """Return seconds of an update: computing with input and the rest, and exchange with waiting."""
    parts = update_parts(row)
    if "compute_s" not in parts:
        return None
    exchange = parts.get("communication_s", 0.0) + parts.get("idle_s", 0.0)
    return sum(parts.values()) - exchange, exchange


def _what_it_needs(
    parts: tuple[float, float], row: Row, predict: Predict | None, configured: Mapping[str, float]
) -> list[Text]:
    compute, exchange = parts
    idle = update_parts(row).get("idle_s", 0.0) if in_stages(row) else 0.0
    if compute < WELL_USED * (compute + idle):
        return [
            Text("More samples per step would not help: stages wait in proportion to them. More micro-batches may.")
        ]
    if compute >= WELL_USED * (compute + exchange):
        return []
    lines = []
    bandwidth = next((p for p in PARAMETERS if p.key in configured and p.place), None)
    if predict is not None and bandwidth is not None:
        lines.append(_bandwidth_needed(predict, bandwidth, configured[bandwidth.key], compute, int(row["gpus"])))
    # With k times the samples a step computes k times as long, its stages wait as much longer, and exchanges stay.
    least = WELL_USED * (exchange - idle) / (compute - WELL_USED * (compute + idle))
    more = figure(math.ceil(row["global_batch_size"] * least))
    busy = f"With these links, devices would be {100 * WELL_USED:g} % busy at {more} samples per step or more"
    return [*lines, Text(f"{busy}, provided training still converges at that batch size.")]


MOST_BANDWIDTH = 1e4
"""Multiple of the configured bandwidth beyond which only latency is left; chosen."""


def _bandwidth_needed(predict: Predict, parameter: Parameter, configured: float, compute_s: float, gpus: int) -> Text:
    needed = solve(predict, parameter, configured, configured * MOST_BANDWIDTH, compute_s / WELL_USED)
    busy, devices = f"{100 * WELL_USED:g} % busy", counted(gpus, "device")
    there = f"(configured: {parameter.write(configured)})"
    if needed is None:
        return Text(f"More bandwidth would not help: latency alone keeps {devices} below {busy} {there}.")
    return Text(f"{devices} would be {busy} with {parameter.words(needed)} {there}.")
