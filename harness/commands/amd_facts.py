"""What AMD's GPUs here are, and who uses them, for `harness doctor`. Tried on a stand-in for amdsmi only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import starmap
from types import ModuleType
from typing import TypeVar

from harness.commands.gpu_facts import Facts, user_in_words
from harness.core.amd_driver import (
    NoAmdSmi,
    amd_gpu_name,
    amd_gpus,
    error_in_words,
    opened_amdsmi,
    visible_amd_gpus,
)
from harness.core.units import BINARY_BYTES
from harness.core.words import counted, memory_size
from harness.engines.telemetry.amd import Missing, amdsmi_refusal, process_memory

T = TypeVar("T")


def amd_facts() -> Facts:
    """Return driver, what HIP shows, and lines for each GPU; nothing on a machine without AMD's driver or library."""
    try:
        with opened_amdsmi() as amdsmi:
            return _facts_of(amdsmi)
    except NoAmdSmi:
        return []  # why, the probe says


def _facts_of(amdsmi: ModuleType) -> Facts:
    gpus = amd_gpus(amdsmi)
    driver: Mapping[str, object] = amdsmi.amdsmi_get_gpu_driver_info(gpus[0])
    place = {id(handle): f"AMD GPU {number}" for number, handle in enumerate(gpus)}
    named = [f"cuda:{k} is {place[id(handle)]}" for k, handle in enumerate(visible_amd_gpus(amdsmi))]
    facts = [("AMD driver", str(driver["driver_version"])), ("HIP shows", ", ".join(named) or "no GPU")]
    for handle in gpus:
        facts += [(place[id(handle)], amd_gpu_name(amdsmi, handle)), *_one_gpu(amdsmi, handle)]
    return facts


def _one_gpu(amdsmi: ModuleType, handle: object) -> Facts:
    told: Facts = []
    untold: list[str] = []
    for name, tell in AMD_LINES.items():
        try:
            told.append((f"  {name}", tell(amdsmi, handle)))
        except (amdsmi.AmdSmiException, Missing, KeyError, AttributeError) as error:
            untold.append(f"{name}: {amdsmi_refusal(error) or error_in_words(error)}")
    return [*told, ("  not told", "; ".join(untold))] if untold else told


def _memory(amdsmi: ModuleType, handle: object) -> str:
    usage = amdsmi.amdsmi_get_gpu_vram_usage(handle)
    used, total = (memory_size(usage[key] * BINARY_BYTES["MiB"]) for key in ("vram_used", "vram_total"))
    return f"{used} used of {total}"


def _processes(amdsmi: ModuleType, handle: object) -> str:
    return (
        ", ".join(starmap(user_in_words, process_memory(amdsmi, handle).items())) or "none that the driver shows here"
    )


def _ecc(amdsmi: ModuleType, handle: object) -> str:
    return counted(int(amdsmi.amdsmi_get_gpu_total_ecc_count(handle)["uncorrectable_count"]), "uncorrected error")


def _clocks(amdsmi: ModuleType, handle: object) -> str:
    clock = amdsmi.amdsmi_get_clock_info(handle, amdsmi.AmdSmiClkType.GFX)
    return f"{clock['clk']} MHz now of {clock['max_clk']} MHz"


def _power(amdsmi: ModuleType, handle: object) -> str:
    """Return the limit against its default and the highest; amdsmi counts microwatts."""
    cap = amdsmi.amdsmi_get_power_cap_info(handle)
    limit, default, most = (cap[key] / 1e6 for key in ("power_cap", "default_power_cap", "max_power_cap"))
    return f"limit {limit:,.0f} W, default {default:,.0f} W, {most:,.0f} W at most"


def _pcie(amdsmi: ModuleType, handle: object) -> str:
    pcie = amdsmi.amdsmi_get_pcie_info(handle)
    return f"{pcie['pcie_metric']['pcie_width']} of {pcie['pcie_static']['max_pcie_width']} lanes"


AMD_LINES: dict[str, Callable[[ModuleType, object], str]] = {
    "memory": _memory,
    "processes": _processes,
    "ECC": _ecc,
    "clocks": _clocks,
    "power": _power,
    "PCIe": _pcie,
}
"""By what a line of one GPU is called."""
