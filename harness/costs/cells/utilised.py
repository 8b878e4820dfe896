"""What share of a device's peak a cell's training reaches: model FLOPs utilisation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.costs.catalogue.devices import ARITHMETIC, Device, find_devices
from harness.costs.cells.given import is_given
from harness.costs.cells.kept import find_shape, seen_by

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.core.cell import Cell
    from harness.core.given_cluster import DeviceFigures

PASSES = 3
"""Forward passes that one step counts as: the backward pass computes gradients of inputs and of weights."""


@dataclass(frozen=True)
class Utilisation:
    """Model FLOPs utilisation, and what it is computed from.

    Attributes:
        mfu: operations that the model asks for, per second and device, over the peak; what is recomputed is no part.
        flops_per_sample: of one forward and one backward pass.
        peak_flops_per_s: of one device.
        arithmetic: the precision whose peak that is.
        device: its name in the catalogue.
        source: of its peak.
    """

    mfu: float
    flops_per_sample: float
    peak_flops_per_s: float
    arithmetic: str
    device: str
    source: str


def utilisation(cell: Cell, host: Host, samples_per_s: float, gpu: str = "", gpus: int = 0) -> Utilisation | None:
    """Return a cell's model FLOPs utilisation; None where its device, its arithmetic or its operations are not known.

    Source: Chowdhery et al. 2022, "PaLM", appendix B.

    Args:
        samples_per_s: of the whole job.
        gpu: what the driver calls this machine's GPU; empty without one.
        gpus: this machine's, which several workers may share.
    """
    here = cell.engine == "real" or cell.cluster.device is None
    device = _device(cell, host, gpu if here else "")
    arithmetic = _arithmetic(cell)
    unsaid = here and arithmetic == "fp32" and cell.workload.tf32 is None
    peak = None if device is None else _peak(device.peak_flops_per_s, arithmetic, unsaid)
    shape = find_shape(cell, host) if peak else None
    samples = cell.micro_batch_size or cell.batch_size
    forward = sum(layer.forward_flops.at(samples) for layer in shape.layers) / samples if shape else 0.0
    if device is None or peak is None or not forward:
        return None
    devices = min(cell.gpus, gpus) if cell.engine == "real" and gpus else cell.gpus
    reached = PASSES * forward * samples_per_s / devices
    return Utilisation(reached / peak, PASSES * forward, peak, arithmetic, device.name, _source(device, host))


def tokens_per_sample(cell: Cell, host: Host) -> int | None:
    """Return how many tokens a sample holds; None where samples are none, or only loading them tells."""
    if is_given(cell.workload.model):
        return cell.workload.model.options.get("sequence")
    seen = seen_by(cell, host)
    return seen[1].width if seen is not None and seen[1].vocabulary else None


def _device(cell: Cell, host: Host, gpu: str) -> Device | DeviceFigures | None:
    """Return the device whose peak a cell could reach: this machine's GPU, or the one that the scenario names."""
    if cell.engine == "real" or cell.cluster.device is None:
        return _named(gpu, host) if cell.device == "cuda" else None
    return cell.cluster.catalogue_device or _named(cell.cluster.chip, host)


def _named(gpu: str, host: Host) -> Device | None:
    """Return the device of the catalogue that a driver's name means."""
    return next(iter(find_devices(gpu, host.devices.values())[1]), None) if gpu else None


def _arithmetic(cell: Cell) -> str:
    precision = "tf32" if cell.workload.tf32 and cell.workload.precision == "fp32" else cell.workload.precision
    return ARITHMETIC.get(precision, precision)


def _peak(peaks: Mapping[str, float], arithmetic: str, unsaid: bool) -> float | None:
    """Return the peak that a cell can reach; none is guessed.

    Args:
        unsaid: single precision was measured, and nobody said whether in TF32. Where there is any, torch then computes
            convolutions in it and products of matrices not, so that there is no single peak.
    """
    found = peaks.get(arithmetic)
    return None if unsaid and peaks.get("tf32", found) != found else found


def _source(device: Device | DeviceFigures, host: Host) -> str:
    known = host.devices.get(device.name)
    return known.source if known else ""
