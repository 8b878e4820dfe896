"""What held a GPU's clocks back: the bits that drivers report, in words."""

from __future__ import annotations

from collections.abc import Mapping

IDLE = 0x001
"""Bit of NVML's reasons that is set where nothing runs: clocks are low because nobody needs them."""

NVML_REASONS = {
    IDLE: "idle",
    0x002: "application clocks setting",
    0x004: "power cap (software)",
    0x008: "hardware slowdown",
    0x010: "sync boost group",
    0x020: "temperature (software)",
    0x040: "temperature (hardware)",
    0x080: "power brake (hardware)",
    0x100: "display clock setting",
    0x200: "board limit",
    0x400: "reliability voltage",
}
"""Bits of nvmlDeviceGetCurrentClocksEventReasons. Source: nvml.h, nvmlClocksEventReasons, nvmlClocksThrottleReasons."""

AMDSMI_REASONS = {
    0x002: "application clocks setting",
    0x004: "power cap (software)",
    0x020: "temperature (software)",
    0x040: "temperature (hardware)",
    0x800: "temperature of the voltage regulator",
    0x1000: "temperature of the memory",
}
"""Bits that we give to the violations of amdsmi_get_violation_status, equal to NVML's where they mean the same."""

THROTTLED = 0x008 | 0x020 | 0x040 | 0x080 | 0x800 | 0x1000
"""Bits of heat and of the power supply. Not the power cap: a GPU that works as fast as it may reaches it."""

REASONS: Mapping[str, Mapping[int, str]] = {
    "nvml_throttle_reasons": NVML_REASONS,
    "amdsmi_throttle_reasons": AMDSMI_REASONS,
}
"""By quantity of the telemetry."""


def clock_reasons_in_words(quantity: str, bits: int) -> list[str]:
    """Return the words for the bits that are set; a bit without words is named by its number."""
    words = REASONS[quantity]
    unknown = bits & ~sum(words)
    return [word for bit, word in words.items() if bits & bit] + ([f"unknown bits {unknown:#x}"] if unknown else [])
