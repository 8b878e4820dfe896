"""AMD's GPUs through amdsmi: DRAM, utilisation, clocks, power, energy, temperature.

Written against the documented interface of amdsmi 7.0 and tested with a stub: no line of this has met an AMD GPU.
Source: AMD SMI Python API reference, ROCm documentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import ModuleType

from harness.core.amd_driver import NoAmdDriver, NoAmdSmi, error_in_words, open_amdsmi, visible_amd_gpus
from harness.core.units import BINARY_BYTES
from harness.core.words import counted
from harness.engines.telemetry.driver import targets_by_gpu
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, ProbeUnneeded, Sample, Target
from harness.engines.telemetry.readings import PROCESS_MEMORY, CellProcesses, Driver, Reading, Readings, Refusal

VIOLATIONS_EVERY_S = 1.0
"""Chosen: the call takes 0.1 s, and a tenth of the time may go to it."""

NOT_TOLD = "N/A"
"""What amdsmi answers in place of a number that the device does not have."""

# Source: amdsmi.h, amdsmi_status_t.
REFUSALS = {
    2: Refusal.NOT_SUPPORTED,  # AMDSMI_STATUS_NOT_SUPPORTED
    3: Refusal.NOT_SUPPORTED,  # AMDSMI_STATUS_NOT_YET_IMPLEMENTED
    5: Refusal.OLD_DRIVER,  # AMDSMI_STATUS_FAIL_LOAD_SYMBOL
    10: Refusal.NO_PERMISSION,  # AMDSMI_STATUS_NO_PERM
}

# The violations that are told as active or not, and our bits for them.
VIOLATIONS = {
    "active_ppt_pwr": 0x004,
    "active_socket_thrm": 0x020,
    "active_prochot_thrm": 0x040,
    "active_vr_thrm": 0x800,
    "active_hbm_thrm": 0x1000,
    "active_gfx_clk_below_host_limit": 0x002,
}


class Missing(Exception):
    """A call of this version of amdsmi is missing, or its answer lacks what is documented."""


def amdsmi_driver(amdsmi: ModuleType) -> Driver:
    """Return how amdsmi refuses."""
    return Driver("amdsmi", (amdsmi.AmdSmiException, Missing), amdsmi_refusal, error_in_words)


def amdsmi_refusal(error: Exception) -> Refusal | None:
    """Return why amdsmi will never answer a call, None where it may answer the next time."""
    if isinstance(error, Missing):
        return Refusal.OLD_DRIVER
    return REFUSALS.get(getattr(error, "err_code", None) or 0)


def amd_readings(amdsmi: ModuleType, handle: object) -> list[Reading]:
    """Return the calls that read a GPU, in bytes, fractions, MHz, W, J and degrees Celsius."""
    return [
        Reading("memory", (("amdsmi_used", "bytes"), ("amdsmi_total", "bytes")), lambda: _memory(amdsmi, handle)),
        Reading(
            "utilisation",
            (("amdsmi_gpu_utilisation", "fraction"), ("amdsmi_memory_utilisation", "fraction")),
            lambda: _utilisation(amdsmi, handle),
        ),
        Reading("SM clock", (("amdsmi_sm_clock", "MHz"),), lambda: (_clock(amdsmi, handle),)),
        Reading("power", (("amdsmi_power", "W"),), lambda: (_power(amdsmi, handle),)),
        Reading("energy", (("amdsmi_energy", "J"),), lambda: (_energy(amdsmi, handle),)),
        Reading("temperature", (("amdsmi_temperature", "C"),), lambda: (_temperature(amdsmi, handle),)),
    ]


def violation_reading(amdsmi: ModuleType, handle: object) -> Reading:
    """Return the call that tells what holds the clocks back; it takes 0.1 s, since the library looks twice."""
    quantities = (("amdsmi_throttle_reasons", "bitmask"),)
    return Reading("throttle reasons", quantities, lambda: (_violations(amdsmi, handle),))


def _asked(amdsmi: ModuleType, call: str, *arguments: object) -> Mapping[str, object]:
    """Return the dictionary that a call answers.

    Raises:
        Missing: this version of amdsmi has no such call.
        AmdSmiException: it refuses.
    """
    function = getattr(amdsmi, call, None)
    if function is None:
        raise Missing(call)
    answer: Mapping[str, object] = function(*arguments)
    return answer


def _number(answer: Mapping[str, object], *keys: str) -> float | None:
    """Return the first of these that is a number, None where the device has none of them."""
    found = [answer.get(key) for key in keys]
    return next((float(value) for value in found if isinstance(value, int | float)), None)


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _memory(amdsmi: ModuleType, handle: object) -> tuple[float | None, float | None]:
    """Return bytes in use and bytes in all; amdsmi counts MiB, as torch.cuda.device_memory_used reads it too."""
    usage = _asked(amdsmi, "amdsmi_get_gpu_vram_usage", handle)
    return _scaled(_number(usage, "vram_used"), BINARY_BYTES["MiB"]), _scaled(
        _number(usage, "vram_total"), BINARY_BYTES["MiB"]
    )


def _utilisation(amdsmi: ModuleType, handle: object) -> tuple[float | None, float | None]:
    """Return how much the compute engine and the memory were used; amdsmi counts percent."""
    activity = _asked(amdsmi, "amdsmi_get_gpu_activity", handle)
    return _scaled(_number(activity, "gfx_activity"), 0.01), _scaled(_number(activity, "umc_activity"), 0.01)


def _clock(amdsmi: ModuleType, handle: object) -> float | None:
    """Return MHz of the compute engine."""
    return _number(_asked(amdsmi, "amdsmi_get_clock_info", handle, amdsmi.AmdSmiClkType.GFX), "clk")


def _power(amdsmi: ModuleType, handle: object) -> float | None:
    """Return watts: the current ones of the MI300 and later, the average ones before."""
    return _number(
        _asked(amdsmi, "amdsmi_get_power_info", handle), "current_socket_power", "average_socket_power", "socket_power"
    )


def _energy(amdsmi: ModuleType, handle: object) -> float | None:
    """Return joules since the driver was loaded; amdsmi counts microjoules in steps of its resolution."""
    count = _asked(amdsmi, "amdsmi_get_energy_count", handle)
    steps, microjoules = _number(count, "energy_accumulator", "power"), _number(count, "counter_resolution")
    return None if steps is None or microjoules is None else steps * microjoules / 1e6


def _temperature(amdsmi: ModuleType, handle: object) -> float | None:
    """Return degrees Celsius of the hottest place, as torch.cuda.temperature does."""
    if not hasattr(amdsmi, "amdsmi_get_temp_metric"):
        raise Missing("amdsmi_get_temp_metric")
    where, which = amdsmi.AmdSmiTemperatureType.JUNCTION, amdsmi.AmdSmiTemperatureMetric.CURRENT
    return float(amdsmi.amdsmi_get_temp_metric(handle, where, which))


def _violations(amdsmi: ModuleType, handle: object) -> float | None:
    """Return our bits for what holds the clocks back; None where the device tells of no violation."""
    status = _asked(amdsmi, "amdsmi_get_violation_status", handle)
    told = {key: status[key] for key in VIOLATIONS if status.get(key, NOT_TOLD) != NOT_TOLD}
    return float(sum(VIOLATIONS[key] for key, active in told.items() if active)) if told else None


class AmdGpu:
    """One AMD GPU and the cell's processes on it.

    Args:
        amdsmi: the initialised library.
        name: "gpu0", by HIP's index, which torch calls cuda:0.
        handle: the GPU.
        targets: the processes of the cell that compute on it.
        cell: all of its processes.
    """

    def __init__(
        self, amdsmi: ModuleType, name: str, handle: object, targets: Sequence[Target], cell: Sequence[Target]
    ) -> None:
        self.name = name
        self._amdsmi = amdsmi
        self._handle = handle
        self._processes = CellProcesses(AmdSmiProbe.name, name, targets, cell)
        self.readings = Readings(amdsmi_driver(amdsmi), name, amd_readings(amdsmi, handle))
        self._violations = violation_reading(amdsmi, handle)
        self._violations_read_s: float | None = None

    def sample(self, now: float) -> Iterator[Sample]:
        """Yield the readings of this GPU, stamped `now`."""
        yield from self.readings.sample(now)
        if self._violations_read_s is None or now - self._violations_read_s >= VIOLATIONS_EVERY_S:
            self._violations_read_s = now
            yield from self.readings.take(now, self._violations)
        used = self.readings.attempt(now, PROCESS_MEMORY, lambda: process_memory(self._amdsmi, self._handle)) or {}
        yield from self._processes.others(now, used)
        own = {pid: value for pid, value in used.items() if pid in self._processes.labels}
        yield from self._processes.samples(now, own)

    def notes(self) -> Iterator[str]:
        """Yield what was left out, with the reason, and what held the clocks back."""
        yield from self.readings.notes()
        if self._processes.are_hidden(self.readings):
            yield f"{self.name}: {PROCESS_MEMORY}: the driver lists none of this cell's processes"


def process_memory(amdsmi: ModuleType, handle: object) -> dict[int, float]:
    """Return the bytes of VRAM of each process on a GPU, by process id.

    Raises:
        Missing: this version of amdsmi has no such call.
        AmdSmiException: it refuses.
    """
    if not hasattr(amdsmi, "amdsmi_get_gpu_process_list"):
        raise Missing("amdsmi_get_gpu_process_list")
    listed: list[Mapping[str, Mapping[str, int]]] = amdsmi.amdsmi_get_gpu_process_list(handle)
    return {int(str(process["pid"])): float(process["memory_usage"]["vram_mem"]) for process in listed}


class AmdSmiProbe(Probe):
    """The AMD GPUs that the cell's processes compute on. Tried on a stub only."""

    name = "amdsmi"

    def __init__(self) -> None:
        self._amdsmi: ModuleType | None = None
        self._gpus: list[AmdGpu] = []

    def open(self, targets: Sequence[Target]) -> None:
        """Find the GPU of each target.

        Raises:
            ProbeUnneeded: no target computes on a GPU, or the machine has no driver of AMD's.
            ProbeUnavailable: no library or GPU; HIP does not see the GPU.
        """
        by_gpu = targets_by_gpu(targets)
        try:
            self._amdsmi = open_amdsmi()
        except NoAmdDriver as error:
            raise ProbeUnneeded(str(error)) from error
        except NoAmdSmi as error:
            raise ProbeUnavailable(str(error)) from error
        try:
            visible = visible_amd_gpus(self._amdsmi)
            for index, on_it in by_gpu.items():
                if index >= len(visible):
                    raise ProbeUnavailable(f"HIP shows no cuda:{index}: {counted(len(visible), 'GPU')}")
                self._gpus.append(AmdGpu(self._amdsmi, f"gpu{index}", visible[index], on_it, targets))
        except BaseException:
            self.close()
            raise

    def sample(self, now: float) -> Iterable[Sample]:
        """Yield the readings of every GPU."""
        for gpu in self._gpus:
            yield from gpu.sample(now)

    def notes(self) -> list[str]:
        """Return what was left out and why, and what held clocks back."""
        return [note for gpu in self._gpus for note in gpu.notes()]

    def close(self) -> None:
        """Leave the library."""
        amdsmi, self._amdsmi, self._gpus = self._amdsmi, None, []
        if amdsmi is not None:
            with suppress(amdsmi.AmdSmiException):
                amdsmi.amdsmi_shut_down()
