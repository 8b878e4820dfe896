"""From samples to the numbers of a record. Pure: what was not measured is absent, never 0."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from statistics import fmean

from harness.core.words import three
from harness.engines.telemetry.probe import Sample

GPU_SOURCES = ("nvml", "amdsmi")
"""Probes that read GPUs; their quantities have the same names but for this beginning."""

COUNTER, INTEGRAL = "counter_j", "power_integral_j"
"""Two ways to a GPU's energy."""

ENERGY_TOLERANCE = 0.1
"""Share by which the two may differ before a note says so; chosen: samples of power at 10 Hz seldom meet better."""

Points = list[tuple[float, float]]  # (time in seconds, value), in order of time
Groups = dict[str, dict[str, Points]]  # quantity, then device


def summarise(samples: Iterable[Sample], lost: Collection[str] = ()) -> dict[str, float]:
    """Return the summary of one cell's samples; a key whose quantity was not measured is absent.

    Keys: nvml_used_peak_bytes (peak over time of the busiest device: memory of this cell's processes where it is
    known, else of the whole device), nvml_utilisation_mean (0..1, mean over devices of the mean over time), both of
    amdsmi likewise, energy_j (all devices, between first and last sample), host_rss_peak_bytes (peak of the largest
    single process), host_cpu_other_cores (mean cores busy for other processes). `summary_notes` says which source each
    came from.

    Args:
        samples: in order of time.
        lost: devices, and probes, that stopped to answer on the way: energy from there on is not known.
    """
    groups = _grouped(samples)
    energy, _ = _energy(groups, lost)
    numbers = {"energy_j": energy, "host_rss_peak_bytes": _peak(groups, "host_rss")}
    numbers["host_cpu_other_cores"] = _mean(groups, "host_cpu_other")
    for source in GPU_SOURCES:
        numbers[f"{source}_used_peak_bytes"] = _peak(groups, _memory_quantity(groups, source))
        numbers[f"{source}_utilisation_mean"] = _mean(groups, f"{source}_gpu_utilisation")
    return {key: number for key, number in numbers.items() if number is not None}


def summary_notes(samples: Iterable[Sample], lost: Collection[str] = ()) -> list[str]:
    """Return what a reader of `summarise` must know about where its numbers come from."""
    groups = _grouped(samples)
    _, energy_notes = _energy(groups, lost)
    return [*(note for source in GPU_SOURCES for note in _memory_notes(groups, source)), *energy_notes]


def energy_by_device(samples: Iterable[Sample]) -> dict[str, dict[str, float]]:
    """Return joules of each GPU two ways: as its counter counts, and as the integral of its power samples.

    A way that is not known is absent. The two disagree where power changes between samples, and at idle.
    """
    groups = _grouped(samples)
    found = {device: _device_energies(groups, device) for device in _gpus(groups)}
    return {device: ways for device, ways in found.items() if ways}


def _grouped(samples: Iterable[Sample]) -> Groups:
    """Return the samples by quantity and device."""
    groups: defaultdict[str, defaultdict[str, Points]] = defaultdict(lambda: defaultdict(list))
    for sample in samples:
        groups[sample.quantity][sample.device].append((sample.time_s, sample.value))
    return {quantity: dict(devices) for quantity, devices in groups.items()}


def _peak(groups: Groups, quantity: str) -> float | None:
    """Return the highest value over time and devices."""
    return max((value for points in groups.get(quantity, {}).values() for _, value in points), default=None)


def _mean(groups: Groups, quantity: str) -> float | None:
    """Return the mean over devices of the mean over time: a device that was sampled more often counts no more."""
    means = [fmean(value for _, value in points) for points in groups.get(quantity, {}).values()]
    return fmean(means) if means else None


def _memory_quantity(groups: Groups, source: str) -> str:
    """Return what stands for the memory used: the cell's own where every device tells it, else the device's."""
    own, whole = groups.get(f"{source}_targets_used", {}), groups.get(f"{source}_used", {})
    return f"{source}_targets_used" if own and own.keys() >= whole.keys() else f"{source}_used"


def _memory_notes(groups: Groups, source: str) -> list[str]:
    if _memory_quantity(groups, source) == f"{source}_targets_used":
        return [f"{source}_used_peak_bytes: memory of this cell's processes on the busiest GPU"]
    if f"{source}_used" in groups:
        return [f"{source}_used_peak_bytes: all memory in use on the busiest GPU, other processes' included"]
    return []


def _energy(groups: Groups, lost: Collection[str]) -> tuple[float | None, list[str]]:
    """Return joules over all devices, and how they were come by.

    None where a device tells neither energy nor power, or was lost on the way: a sum over some of the devices, or over
    some of the time, would pass for all of it. The counter is preferred: power is averaged by the device before it is
    shown, so its integral lags behind (at idle the two were seen to disagree by a factor 1.7; ml-energy/zeus, issue
    181).
    """
    without_probe = any(source in lost for source in GPU_SOURCES)
    gone = [device for device in _gpus(groups) if without_probe or device in lost]
    if gone:
        return None, [f"energy_j: left out, because {', '.join(gone)} gave no figures to the end"]
    parts = {device: _device_energies(groups, device) for device in _gpus(groups)}
    lacking = [device for device, ways in parts.items() if not ways]
    if len(lacking) == len(parts):
        return None, []
    if lacking:
        return None, [f"energy_j: left out, because {', '.join(lacking)} tells neither energy nor power"]
    integrated = [device for device, ways in parts.items() if COUNTER not in ways]
    notes = [f"energy_j: integral of the power samples on {', '.join(integrated)}"] if integrated else []
    return sum(next(iter(ways.values())) for ways in parts.values()), [*notes, *_disagreements(parts)]


def _disagreements(parts: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return a note for each device whose counter and power tell different energies."""
    both = {device: (ways[COUNTER], ways[INTEGRAL]) for device, ways in parts.items() if len(ways) == 2}
    return [
        f"energy_j: the counter of {device} says {three(counter)} J, the integral of its power samples {three(power)} J"
        for device, (counter, power) in both.items()
        if abs(power - counter) > ENERGY_TOLERANCE * max(counter, power)
    ]


def _gpus(groups: Groups) -> list[str]:
    kinds = [f"{source}_{kind}" for source in GPU_SOURCES for kind in ("used", "energy", "power")]
    return sorted({device for kind in kinds for device in groups.get(kind, {})})


def _device_energies(groups: Groups, device: str) -> dict[str, float]:
    """Return one device's joules in every way that is known, the counter first; one that went back was reset."""
    found: dict[str, float] = {}
    for way, kind, measure in ((COUNTER, "energy", _difference), (INTEGRAL, "power", trapezoid)):
        for source in GPU_SOURCES:
            joules = _at_least_two(groups.get(f"{source}_{kind}", {}).get(device, []), measure)
            if joules is not None:
                found[way] = joules
    return found


def _at_least_two(points: Points, measure: Callable[[Points], float | None]) -> float | None:
    return measure(points) if len(points) >= 2 else None


def _difference(points: Points) -> float | None:
    """Return last minus first; None where the counter went back in between."""
    values = [value for _, value in points]
    return values[-1] - values[0] if values == sorted(values) else None


def trapezoid(points: Points) -> float:
    """Return the integral of the values over time, by the trapezoidal rule."""
    pairs = itertools.pairwise(points)
    return sum((later - earlier) * (a + b) / 2 for (earlier, a), (later, b) in pairs)
