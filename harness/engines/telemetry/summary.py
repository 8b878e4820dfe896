"""From samples to the numbers of a record. Pure: what was not measured is absent, never 0."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable
from statistics import fmean

from harness.engines.telemetry.probe import Sample

Points = list[tuple[float, float]]  # (time in seconds, value), in order of time
Groups = dict[str, dict[str, Points]]  # quantity, then device


def summarise(samples: Iterable[Sample]) -> dict[str, float]:
    """Return the summary of one cell's samples; a key whose quantity was not measured is absent.

    Keys: nvml_used_peak_bytes (peak over time of the busiest device: memory of this cell's processes where it is
    known, else of the whole device), nvml_utilisation_mean (0..1, mean over devices of the mean over time), energy_j
    (all devices, between first and last sample), host_rss_peak_bytes (peak of the largest single process),
    host_cpu_other_cores (mean cores busy for other processes). `summary_notes` says which source each came from.
    """
    groups = _grouped(samples)
    energy, _ = _energy(groups)
    numbers = {
        "nvml_used_peak_bytes": _peak(groups, _memory_quantity(groups)),
        "nvml_utilisation_mean": _mean(groups, "nvml_gpu_utilisation"),
        "energy_j": energy,
        "host_rss_peak_bytes": _peak(groups, "host_rss"),
        "host_cpu_other_cores": _mean(groups, "host_cpu_other"),
    }
    return {key: number for key, number in numbers.items() if number is not None}


def summary_notes(samples: Iterable[Sample]) -> list[str]:
    """Return what a reader of `summarise` must know about where its numbers come from."""
    groups = _grouped(samples)
    _, energy_notes = _energy(groups)
    return [*_memory_notes(groups), *energy_notes]


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


def _memory_quantity(groups: Groups) -> str:
    """Return what stands for the memory used: the cell's own where every device tells it, else the device's."""
    own, whole = groups.get("nvml_targets_used", {}), groups.get("nvml_used", {})
    return "nvml_targets_used" if own and own.keys() >= whole.keys() else "nvml_used"


def _memory_notes(groups: Groups) -> list[str]:
    if _memory_quantity(groups) == "nvml_targets_used":
        return ["nvml_used_peak_bytes: memory of this cell's processes on the busiest GPU"]
    if "nvml_used" in groups:
        return ["nvml_used_peak_bytes: all memory in use on the busiest GPU, other processes' included"]
    return []


def _energy(groups: Groups) -> tuple[float | None, list[str]]:
    """Return joules over all devices, and how they were come by.

    None where a device tells neither energy nor power: a sum over some of the devices would pass for all of them.
    """
    devices = sorted({device for group in groups.values() for device in group if _is_gpu(groups, device)})
    parts = {device: _device_energy(groups, device) for device in devices}
    joules = [joules for joules, _ in parts.values() if joules is not None]
    if not joules:
        return None, []
    if len(joules) < len(parts):
        lacking = ", ".join(device for device, (part, _) in parts.items() if part is None)
        return None, [f"energy_j: left out, because {lacking} tells neither energy nor power"]
    integrated = [device for device, (_, from_power) in parts.items() if from_power]
    return sum(joules), [f"energy_j: integral of the power samples on {', '.join(integrated)}"] if integrated else []


def _is_gpu(groups: Groups, device: str) -> bool:
    return any(device in groups.get(quantity, {}) for quantity in ("nvml_used", "nvml_energy", "nvml_power"))


def _device_energy(groups: Groups, device: str) -> tuple[float | None, bool]:
    """Return one device's joules, and whether they were integrated from power.

    The counter is preferred: power is averaged by the device before it is shown, so its integral lags behind (at idle
    the two were seen to disagree by a factor 1.7; ml-energy/zeus issue 181). A counter that went back was reset.
    """
    for quantity, measure in (("nvml_energy", _difference), ("nvml_power", trapezoid)):
        points = groups.get(quantity, {}).get(device, [])
        joules = _at_least_two(points, measure)
        if joules is not None:
            return joules, quantity == "nvml_power"
    return None, False


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
