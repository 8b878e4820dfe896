"""Who wins by other measures: money or device time, energy, memory. Imports the standard library only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.analysis.point_names import devices_in_words, micro_batch
from harness.analysis.points import Point, Row, number
from harness.analysis.ranking import Standing
from harness.core.units import SECONDS_PER_HOUR
from harness.core.words import duration, memory_size, rate, three

if TYPE_CHECKING:
    from harness.core.cell import Cell

MANY_SAMPLES = 1_000_000
"""Samples that a price is given for where there is no target; chosen: one costs too little to be read."""

DRAM = {"dram_allocated_peak_bytes": "allocated", "dram_tensors_peak_bytes": "counted"}
"""Allocator first, then what was counted; never mixed in one comparison."""


@dataclass(frozen=True)
class DevicePrice:
    """What a device costs for an hour."""

    amount: float
    currency: str


def price_of(cells: Sequence[Cell]) -> DevicePrice | None:
    """Return what a device costs; None where the scenario does not say, or where its cells say different things."""
    prices = {(cell.per_gpu_hour, cell.currency) for cell in cells}
    amount, currency = next(iter(prices)) if len(prices) == 1 else (None, "")
    return None if amount is None else DevicePrice(amount, currency)


def winners(
    standings: Sequence[Standing],
    price: DevicePrice | None = None,
    level: Standing | None = None,
    fastest_of: Sequence[Standing] | None = None,
) -> tuple[tuple[str, str, str], ...]:
    """Return (measure, strategy with its devices, value) of whoever is best by each measure that was taken of all.

    Args:
        standings: every point that stands a comparison, not only each strategy's fastest.
        level: the recommended one, where it is not the fastest and cannot be told from it.
        fastest_of: those among whom the fastest is looked for, where that is not all of them.
    """
    usable = [standing for standing in standings if standing.reached and standing.seconds > 0]
    if not usable:
        return ()
    by_target = usable[0].point.by_target
    what = "time to the target" if by_target else "throughput"
    racing = usable if fastest_of is None else [s for s in usable if any(s is other for other in fastest_of)]
    fastest = _least(what, racing, lambda s: s.seconds, duration if by_target else _as_rate)
    if fastest and level:
        fastest = (*fastest[:2], f"{fastest[2]}, not told apart from {_who(level.point)}")
    lines = [fastest]
    lines.append(_least(*_spending(by_target, price, usable)))
    lines.append(_energy(usable, by_target))
    lines += [_dram(usable)]
    return tuple(line for line in lines if line)


_Measure = Callable[[Standing], float | None]
_Line = tuple[str, str, str]


def _least(what: str, usable: Sequence[Standing], measure: _Measure, write: Callable[[float], str]) -> _Line | None:
    """Return the line of whoever has the least; None where it was not measured of every strategy."""
    known = [(value, standing) for standing in usable if (value := measure(standing)) is not None]
    names = {standing.point.strategy for standing in usable}
    if {standing.point.strategy for _, standing in known} != names:
        return None
    value, best = min(known, key=lambda pair: pair[0])
    return what, _who(best.point), write(value)


def _who(point: Point) -> str:
    return ", ".join(
        filter(None, [f"{point.strategy} on {devices_in_words(point.row)}", micro_batch(point.row), point.details])
    )


def _spending(
    by_target: bool, price: DevicePrice | None, usable: Sequence[Standing]
) -> tuple[str, Sequence[Standing], _Measure, Callable[[float], str]]:
    goal = "to the target" if by_target else f"of {MANY_SAMPLES:,} samples"
    samples = 1 if by_target else MANY_SAMPLES
    if price is None:
        return f"device time {goal}", usable, lambda s: device_s(s) * samples, duration
    hourly, currency = price.amount, price.currency
    return f"cost {goal}", usable, lambda s: money(device_s(s) * samples, hourly), lambda v: f"{three(v)} {currency}"


def device_s(standing: Standing) -> float:
    """Return the device seconds to the target, or of a sample."""
    return standing.seconds * standing.point.gpus


def money(device_seconds: float, per_hour: float) -> float:
    """Return what so many device seconds cost."""
    return device_seconds / SECONDS_PER_HOUR * per_hour


def _energy(usable: Sequence[Standing], by_target: bool) -> _Line | None:
    """Return who took least energy for a run to its end: with a target that is the way there."""

    def joules(row: Row) -> float | None:
        energy, samples = number(row, "energy_j"), number(row, "samples_seen")
        if energy is None or not samples:
            return None
        return energy if by_target else energy / samples

    goal = "of a run" if by_target else "of a sample"
    return _least(f"energy {goal}", usable, lambda s: s.point.median_of(joules), lambda v: f"{three(v)} J")


def _dram(usable: Sequence[Standing]) -> _Line | None:
    for column, name in DRAM.items():
        line = _least(f"{name} DRAM of a device", usable, lambda s, c=column: _median(s, c), memory_size)  # type: ignore[misc]
        if line is not None:
            return line
    return None


def _median(standing: Standing, column: str) -> float | None:
    return standing.point.median_of(lambda row: number(row, column))


def _as_rate(seconds: float) -> str:
    return rate(1 / seconds)
