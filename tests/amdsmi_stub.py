"""A stand-in for the Python package amdsmi: the calls of its documented interface, version 7.0, that the harness makes.

Two GPUs, which the library lists in another order than HIP counts them. `lacking` names calls that answer with an error
code, `untold` keys that are "N/A".
"""

from __future__ import annotations

import enum
from types import ModuleType
from typing import Any

GIB = 2**30

NOT_SUPPORTED, NO_PERMISSION, BUSY = 2, 10, 30


class AmdSmiException(Exception):
    """Base of the library's exceptions."""


class AmdSmiLibraryException(AmdSmiException):
    """A call failed with a status of the library."""

    def __init__(self, err_code: int) -> None:
        super().__init__(err_code)
        self.err_code = abs(err_code)

    def __str__(self) -> str:
        return f"Error code:\n\t{self.err_code} | AMDSMI_STATUS_{self.err_code}"


AmdSmiClkType = enum.IntEnum("AmdSmiClkType", {"SYS": 0, "GFX": 0, "MEM": 4})
AmdSmiTemperatureType = enum.IntEnum("AmdSmiTemperatureType", {"EDGE": 0, "HOTSPOT": 1, "JUNCTION": 1})
AmdSmiTemperatureMetric = enum.IntEnum("AmdSmiTemperatureMetric", {"CURRENT": 0, "MAX": 1})

HANDLES = ["handle of the second", "handle of the first"]


class AmdSmi(ModuleType):
    """The module; what it answers changes from call to call."""

    AmdSmiException = AmdSmiException
    AmdSmiLibraryException = AmdSmiLibraryException
    AmdSmiClkType = AmdSmiClkType
    AmdSmiTemperatureType = AmdSmiTemperatureType
    AmdSmiTemperatureMetric = AmdSmiTemperatureMetric

    def __init__(self) -> None:
        super().__init__("amdsmi")
        self.handles = HANDLES
        self.lacking: dict[str, int] = {}
        self.untold: set[str] = set()
        self.num_open = 0
        self.num_calls: dict[str, int] = {}
        self.processes: list[tuple[int, int]] = []

    def _counted(self, call: str) -> int:
        if call in self.lacking:
            raise AmdSmiLibraryException(self.lacking[call])
        self.num_calls[call] = self.num_calls.get(call, 0) + 1
        return self.num_calls[call] - 1

    def _told(self, answer: dict[str, Any]) -> dict[str, Any]:
        return {key: "N/A" if key in self.untold else value for key, value in answer.items()}

    def amdsmi_init(self, flag: int = 2) -> None:
        self._counted("init")
        self.num_open += 1

    def amdsmi_shut_down(self) -> None:
        self.num_open -= 1

    def amdsmi_get_processor_handles(self) -> list[str]:
        return self.handles

    def amdsmi_get_gpu_enumeration_info(self, processor_handle: str) -> dict[str, Any]:
        self._counted("enumeration")
        index = 1 - HANDLES.index(processor_handle)
        return self._told(
            {"drm_render": 128, "drm_card": 1, "hsa_id": 2, "hip_id": index, "hip_uuid": f"GPU-{index:016x}"}
        )

    def amdsmi_get_gpu_asic_info(self, processor_handle: str) -> dict[str, Any]:
        self._counted("asic")
        return {"market_name": f"Stub Instinct {HANDLES.index(processor_handle)}"}

    def amdsmi_get_gpu_driver_info(self, processor_handle: str) -> dict[str, Any]:
        return {"driver_name": "amdgpu", "driver_version": "6.99.1", "driver_date": ""}

    def amdsmi_get_gpu_vram_usage(self, processor_handle: str) -> dict[str, Any]:
        """In MiB: 10 GiB in use on HIP's first, 20 on its second, 1 more each time."""
        count = self._counted("vram")
        used = 10 * (2 - HANDLES.index(processor_handle)) + count
        return self._told({"vram_total": 192 * 1024, "vram_used": used * 1024})

    def amdsmi_get_gpu_activity(self, processor_handle: str) -> dict[str, Any]:
        return self._told(
            {"gfx_activity": 50 + 10 * self._counted("activity"), "umc_activity": 25, "mm_activity": "N/A"}
        )

    def amdsmi_get_clock_info(self, processor_handle: str, clock_type: AmdSmiClkType) -> dict[str, Any]:
        assert clock_type is AmdSmiClkType.GFX
        return self._told({"clk": 2100 + self._counted("clock"), "min_clk": 132, "max_clk": 2100, "clk_locked": False})

    def amdsmi_get_power_info(self, processor_handle: str) -> dict[str, Any]:
        watts = 500 + 10 * self._counted("power")
        return self._told({"current_socket_power": watts, "average_socket_power": watts - 1, "power_limit": 750})

    def amdsmi_get_power_cap_info(self, processor_handle: str) -> dict[str, Any]:
        """In microwatts."""
        self._counted("cap")
        return {"power_cap": 600_000_000, "default_power_cap": 750_000_000, "max_power_cap": 750_000_000}

    def amdsmi_get_energy_count(self, processor_handle: str) -> dict[str, Any]:
        """In steps of so many microjoules."""
        steps = 10**9 + 1_000_000 * self._counted("energy")
        return {"energy_accumulator": steps, "counter_resolution": 15.25, "timestamp": 1}

    def amdsmi_get_temp_metric(
        self, processor_handle: str, sensor_type: AmdSmiTemperatureType, metric: AmdSmiTemperatureMetric
    ) -> int:
        assert (sensor_type, metric) == (AmdSmiTemperatureType.JUNCTION, AmdSmiTemperatureMetric.CURRENT)
        return 60 + self._counted("temperature")

    def amdsmi_get_violation_status(self, processor_handle: str) -> dict[str, Any]:
        self._counted("violation")
        names = ("ppt_pwr", "socket_thrm", "prochot_thrm", "vr_thrm", "hbm_thrm", "gfx_clk_below_host_limit")
        return self._told({f"active_{name}": name in ("ppt_pwr", "hbm_thrm") for name in names})

    def amdsmi_get_gpu_process_list(self, processor_handle: str) -> list[dict[str, Any]]:
        self._counted("processes")
        return [
            {"name": "N/A", "pid": pid, "mem": used, "memory_usage": {"gtt_mem": 0, "cpu_mem": 0, "vram_mem": used}}
            for pid, used in self.processes
        ]

    def amdsmi_get_gpu_total_ecc_count(self, processor_handle: str) -> dict[str, Any]:
        self._counted("ecc")
        return {"correctable_count": 0, "uncorrectable_count": 2, "deferred_count": 0}

    def amdsmi_get_pcie_info(self, processor_handle: str) -> dict[str, Any]:
        self._counted("pcie")
        return {
            "pcie_static": {"max_pcie_width": 16, "max_pcie_speed": 32000},
            "pcie_metric": {"pcie_width": 8, "pcie_speed": 16000},
        }
