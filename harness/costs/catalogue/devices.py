"""Accelerators by name: what their data sheets promise, and what share of it training reaches."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from harness.core.given_cluster import DeviceFigures
from harness.core.units import GIB, TERA
from harness.core.words import bandwidth

EFFICIENCY = {"vector": {"gemm": 0.60, "conv": 0.55}, "matrix": {"gemm": 0.50, "conv": 0.30}}
"""Share of the peak that whole layers reach in training, by arithmetic unit and kind of layer; chosen.

Between what one-GPU rates imply, forward and backward counted as three forward passes of 2 operations per multiply-add:
vector units 0.45 (K80 at its base clock), 0.51 (P100) and 0.60 (V100) for ResNet-50, 0.58 for BERT-large on V100
(validation cases P1, P2, P5, P15); matrix units 0.27 for ResNet-50 on V100 (P5) and 0.44 to 0.52 for GPT on A100
(Narayanan et al. 2021, "Efficient Large-Scale Language Model Training on GPU Clusters", table 1).
"""

MEMORY_EFFICIENCY = 0.8
"""Share of the memory bandwidth that elementwise arithmetic reaches; chosen, because copies reach 0.75 to 0.92."""

LAUNCH_S = 10e-6
"""What one operator of an eager framework takes at least: the host is busy with it for about this long, from Python to
the driver's queue; chosen, 5 to 20 us."""

ARITHMETIC = {"amp": "fp16", "mixed": "fp16"}
"""Whose peak holds for products under a precision that is a way of working, not a type."""

ESTIMATE_ERROR = 0.3
"""Relative uncertainty of a time that is estimated from a data sheet; chosen to cover the spread of `EFFICIENCY`."""

LAUNCH_ERROR = 0.35
"""Relative uncertainty of a time that launches take; chosen: log(2) / 2, so that two of it are the factor of two that
`LAUNCH_S` may be off."""


@dataclass(frozen=True)
class Device:
    """A device that scenarios can name.

    Attributes:
        name: CHIP-FORM-MEMORY.
        chip: what people call it.
        peak_flops_per_s: dense arithmetic by precision (fp64, fp32, tf32, bf16, fp16), multiply and add counted as two;
            what is missing the device computes no faster than fp32, or not at all.
        memory_bandwidth_bytes_per_s: of the device's own memory.
        memory_bytes: as it is sold; what data sheets call GB is 2^30.
        usable_bytes: what CUDA or ROCm calls the total: what the driver keeps and what error correction takes is gone,
            a process's own context is not. Remembered from public out-of-memory messages, which differ by 0.2 GiB
            between drivers.
        link: link between devices of one node that the form comes with.
        power_w: the board's limit.
        source: data sheet.
        doubt: which figures to take with care, and why; empty where there is none.
        matrix: precisions whose peak is that of matrix units.
        launch_s: least time of one operator.
        dies_per_board: devices that share one board's power.
    """

    name: str
    chip: str
    peak_flops_per_s: Mapping[str, float]
    memory_bandwidth_bytes_per_s: float
    memory_bytes: float
    usable_bytes: float
    link: str
    power_w: float
    source: str
    doubt: str = ""
    matrix: tuple[str, ...] = ()
    launch_s: float = LAUNCH_S
    dies_per_board: int = 1

    @property
    def summary(self) -> str:
        """One line for `harness plugins`."""
        peaks = ", ".join(f"{key} {value / TERA:.4g}" for key, value in self.peak_flops_per_s.items())
        return f"{peaks} Tflop/s, {bandwidth(self.memory_bandwidth_bytes_per_s, 4)}, {self.power_w:.0f} W"

    def figures(self) -> DeviceFigures:
        """Return what cells carry: what is computed with, not where it is from."""
        return DeviceFigures(
            name=self.name,
            chip=self.chip,
            peak_flops_per_s=dict(self.peak_flops_per_s),
            memory_bandwidth_bytes_per_s=float(self.memory_bandwidth_bytes_per_s),
            memory_bytes=float(self.memory_bytes),
            usable_bytes=float(self.usable_bytes),
            link=self.link,
            power_w=float(self.power_w),
            matrix=tuple(self.matrix),
            launch_s=self.launch_s,
            dies_per_board=self.dies_per_board,
        )


def efficiency(device: Device | DeviceFigures, precision: str, kind: str) -> float:
    """Return the share of the peak that layers of a kind ("gemm" or "conv") reach."""
    return EFFICIENCY["matrix" if precision in device.matrix else "vector"]["conv" if kind == "conv" else "gemm"]


def _peaks(
    fp64: float = 0.0, fp32: float = 0.0, tf32: float = 0.0, bf16: float = 0.0, fp16: float = 0.0
) -> dict[str, float]:
    named = {"fp64": fp64, "fp32": fp32, "tf32": tf32, "bf16": bf16, "fp16": fp16}
    return {key: value * TERA for key, value in named.items() if value}


_VOLTA = ("fp16",)
_AMPERE = ("tf32", "bf16", "fp16")
_WITH_FP64 = ("fp64", *_AMPERE)
_SHEET = "NVIDIA {} data sheet"
_HALVED = "; its peaks count sparsity, so half of them is used here"

DEVICES = (
    Device(
        "K80-die-12GB", "K80", _peaks(0.935, 2.80), 240e9, 12 * GIB, 11.17 * GIB, "pcie3x16", 150,
        _SHEET.format("Tesla K80") + "; half a board",
        "the base clock's figures: the boost clock (4.37 Tflop/s) is rarely held with both dies at work",
        dies_per_board=2,
    ),
    Device(
        "K40m-12GB", "K40m", _peaks(1.43, 4.29), 288e9, 12 * GIB, 11.17 * GIB, "pcie3x16", 235,
        _SHEET.format("Tesla K40"),
    ),
    Device(
        "P40-24GB", "P40", _peaks(0.367, 11.76), 346e9, 24 * GIB, 22.38 * GIB, "pcie3x16", 250,
        _SHEET.format("Tesla P40"),
    ),
    Device(
        "P100-SXM2-16GB", "P100", _peaks(5.3, 10.6, fp16=21.2), 732e9, 16 * GIB, 15.90 * GIB, "nvlink1", 300,
        _SHEET.format("Tesla P100"),
    ),
    Device(
        "P100-PCIe-16GB", "P100", _peaks(4.7, 9.3, fp16=18.7), 732e9, 16 * GIB, 15.90 * GIB, "pcie3x16", 250,
        _SHEET.format("Tesla P100"),
    ),
    Device(
        "T4-PCIe-16GB", "T4", _peaks(0.254, 8.1, fp16=65), 320e9, 16 * GIB, 14.58 * GIB, "pcie3x16", 70,
        _SHEET.format("T4"), "70 W hold neither the clock nor the 320 GB/s: later sheets print 300", matrix=_VOLTA,
    ),
    Device(
        "V100-SXM2-16GB", "V100", _peaks(7.8, 15.7, fp16=125), 900e9, 16 * GIB, 15.77 * GIB, "nvlink2", 300,
        _SHEET.format("V100"), matrix=_VOLTA,
    ),
    Device(
        "V100-SXM2-32GB", "V100", _peaks(7.8, 15.7, fp16=125), 900e9, 32 * GIB, 31.74 * GIB, "nvlink2", 300,
        _SHEET.format("V100"), matrix=_VOLTA,
    ),
    Device(
        "V100-PCIe-16GB", "V100", _peaks(7.0, 14.0, fp16=112), 900e9, 16 * GIB, 15.77 * GIB, "pcie3x16", 250,
        _SHEET.format("V100"), matrix=_VOLTA,
    ),
    Device(
        "V100-PCIe-32GB", "V100", _peaks(7.0, 14.0, fp16=112), 900e9, 32 * GIB, 31.74 * GIB, "pcie3x16", 250,
        _SHEET.format("V100"), matrix=_VOLTA,
    ),
    Device(
        "RTX-2080-Ti-11GB", "RTX 2080 Ti", _peaks(0.42, 13.4, fp16=53.8), 616e9, 11 * GIB, 10.75 * GIB, "pcie3x16", 250,
        "NVIDIA Turing white paper, appendix A: reference card, fp16 with fp32 accumulation", matrix=_VOLTA,
    ),
    Device(
        "A100-SXM4-80GB", "A100", _peaks(19.5, 19.5, 156, 312, 312), 2039e9, 80 * GIB, 79.15 * GIB, "nvlink3", 400,
        _SHEET.format("A100"), matrix=_WITH_FP64,
    ),
    Device(
        "A100-SXM4-40GB", "A100", _peaks(19.5, 19.5, 156, 312, 312), 1555e9, 40 * GIB, 39.39 * GIB, "nvlink3", 400,
        _SHEET.format("A100"), matrix=_WITH_FP64,
    ),
    Device(
        "A100-PCIe-80GB", "A100", _peaks(19.5, 19.5, 156, 312, 312), 1935e9, 80 * GIB, 79.15 * GIB, "pcie4x16", 300,
        _SHEET.format("A100"), "the peaks are those of the 400 W form", matrix=_WITH_FP64,
    ),
    Device(
        "A100-PCIe-40GB", "A100", _peaks(19.5, 19.5, 156, 312, 312), 1555e9, 40 * GIB, 39.39 * GIB, "pcie4x16", 250,
        _SHEET.format("A100"), "the peaks are those of the 400 W form", matrix=_WITH_FP64,
    ),
    Device(
        "A10-PCIe-24GB", "A10", _peaks(0.49, 31.2, 62.5, 125, 125), 600e9, 24 * GIB, 22.06 * GIB, "pcie4x16", 150,
        _SHEET.format("A10"), "fp64 is 1/64 of fp32 by the architecture, not printed", matrix=_AMPERE,
    ),
    Device(
        "A40-PCIe-48GB", "A40", _peaks(0.58, 37.4, 74.8, 149.7, 149.7), 696e9, 48 * GIB, 44.35 * GIB, "pcie4x16", 300,
        _SHEET.format("A40"), "fp64 is 1/64 of fp32 by the architecture, not printed", matrix=_AMPERE,
    ),
    Device(
        "RTX-3090-24GB", "RTX 3090", _peaks(0.56, 35.6, 35.6, 71, 71), 936e9, 24 * GIB, 23.69 * GIB, "pcie4x16", 350,
        "NVIDIA GA102 white paper, appendix A: fp16 with fp32 accumulation", matrix=_AMPERE,
    ),
    Device(
        "RTX-4090-24GB", "RTX 4090", _peaks(1.29, 82.6, 82.6, 165.2, 165.2), 1008e9, 24 * GIB, 23.64 * GIB, "pcie4x16",
        450, "NVIDIA Ada white paper, appendix A: fp16 with fp32 accumulation", matrix=_AMPERE,
    ),
    Device(
        "L4-PCIe-24GB", "L4", _peaks(0.49, 30.3, 60, 121, 121), 300e9, 24 * GIB, 21.96 * GIB, "pcie4x16", 72,
        _SHEET.format("L4") + _HALVED, "the peaks may not be reached: at 72 W the clock drops",
        matrix=_AMPERE,
    ),
    Device(
        "L40S-PCIe-48GB", "L40S", _peaks(1.43, 91.6, 183, 362, 362), 864e9, 48 * GIB, 44.35 * GIB, "pcie4x16", 350,
        _SHEET.format("L40S"), "the matrix peaks may not be reached: at 350 W the clock drops", matrix=_AMPERE,
    ),
    Device(
        "H100-SXM-80GB", "H100", _peaks(67, 67, 494.7, 989.4, 989.4), 3350e9, 80 * GIB, 79.11 * GIB, "nvlink4", 700,
        _SHEET.format("H100") + _HALVED, matrix=_WITH_FP64,
    ),
    Device(
        "H100-PCIe-80GB", "H100", _peaks(51, 51, 378, 756, 756), 2000e9, 80 * GIB, 79.11 * GIB, "pcie5x16", 350,
        _SHEET.format("H100") + _HALVED, "the peaks may not be reached: at 350 W the clock drops",
        matrix=_WITH_FP64,
    ),
    Device(
        "H200-SXM-141GB", "H200", _peaks(67, 67, 494.7, 989.4, 989.4), 4800e9, 141 * GIB, 139.72 * GIB, "nvlink4", 700,
        _SHEET.format("H200") + _HALVED, matrix=_WITH_FP64,
    ),
    Device(
        "B200-SXM-180GB", "B200", _peaks(40, 80, 1100, 2250, 2250), 8000e9, 180 * GIB, 178.36 * GIB, "nvlink5", 1000,
        "NVIDIA Blackwell architecture brief: HGX B200 at 1000 W",
        "later sheets print 37, 75, 1200 and 7700 GB/s; usable memory as few machines reported it", matrix=_WITH_FP64,
    ),
    Device(
        "MI250X-GCD-64GB", "MI250X", _peaks(47.9, 47.9, bf16=191.5, fp16=191.5), 1638e9, 64 * GIB, 63.98 * GIB,
        "infinity-fabric-mi250x", 280, "AMD Instinct MI250X data sheet; one of two dies",
        "fp64 and fp32 of the matrix units; a step rarely uses them for fp32", matrix=("fp64", "fp32", "bf16", "fp16"),
        dies_per_board=2,
    ),
    Device(
        "MI300X-OAM-192GB", "MI300X", _peaks(163.4, 163.4, 653.7, 1307.4, 1307.4), 5300e9, 192 * GIB, 191.98 * GIB,
        "infinity-fabric-mi300x", 750, "AMD Instinct MI300X data sheet",
        "matrix peaks; published GEMMs reach a smaller share than on other devices", matrix=_WITH_FP64,
    ),
)  # fmt: skip
"""What ships; of one chip the form that a bare name means stands first. Peaks are dense."""

_COUNT = re.compile(r"\s*(\d+)\s*x\s*(.+)", re.IGNORECASE)
_MAKERS = ("nvidia", "tesla", "geforce", "amd", "instinct", "graphics", "gpu")


def find_devices(written: str, known: Iterable[Device]) -> tuple[int | None, list[Device]]:
    """Return the count in front of a name ("4 x A100"; None without) and the devices it fits, the meant one first.

    Makers' words, case, blanks and whatever is left out at the end do not matter: "a100", "NVIDIA A100-SXM4-80GB",
    "h100 sxm5", "v100-32gb".
    """
    counted = _COUNT.fullmatch(written)
    count, name = (int(counted[1]), counted[2]) if counted else (None, written)
    wanted = [part for part in _parts(name) if part not in _MAKERS and not part.startswith("hbm")]
    return count, [device for device in known if wanted and _fits(wanted, _parts(device.name))]


def _parts(name: str) -> list[str]:
    return [part for part in re.split(r"[^a-z0-9]+", name.lower()) if part]


def _fits(wanted: list[str], parts: list[str]) -> bool:
    if parts[0] != wanted[0]:
        return False
    # "sxm5" is an "sxm", and "sxm" may be any: whichever is longer, it must begin like the other.
    return all(any(part.startswith(word) or word.startswith(part) for part in parts[1:]) for word in wanted[1:])
