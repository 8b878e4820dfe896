"""GPUs through NVML: DRAM, utilisation, clocks, power, energy, temperature, and GPM where the device has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

from harness.engines.telemetry.driver import (
    cuda_index,
    find_gpu,
    first_that_works,
    memory_info,
    open_library,
    order_note,
    running_processes,
)
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, Sample, Target

# Bits of nvmlDeviceGetCurrentClocksEventReasons, in words. Source: nvml.h, nvmlClocksEventReasons and
# nvmlClocksThrottleReasons.
CLOCK_REASONS = {
    0x001: "idle",
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

# Chosen: DCGM's shortest interval for profiling fields; over less, the counters' own refresh shows as noise.
GPM_WINDOW_S = 0.1

# What a note calls the readings that are no `Reading`.
PROCESS_MEMORY = "memory of each process"
GPM = "SM activity and DRAM bandwidth (GPM)"

T = TypeVar("T")


@dataclass(frozen=True)
class Reading:
    """One call to a GPU.

    Attributes:
        words: what it reads, in the words of a note.
        quantities: name and unit of each value that it answers.
        read: the call; its values are scaled to the units.
    """

    words: str
    quantities: tuple[tuple[str, str], ...]
    read: Callable[[], tuple[float, ...]]


def readings(nvml: ModuleType, handle: object) -> list[Reading]:
    """Return the calls that read a GPU, in bytes, fractions, MHz, W, J and degrees Celsius."""
    return [
        Reading("memory", (("nvml_used", "bytes"), ("nvml_total", "bytes")), lambda: _memory(nvml, handle)),
        Reading(
            "utilisation",
            (("nvml_gpu_utilisation", "fraction"), ("nvml_memory_utilisation", "fraction")),
            lambda: _utilisation(nvml, handle),
        ),
        Reading(
            "SM clock",
            (("nvml_sm_clock", "MHz"),),
            lambda: (float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),),
        ),
        Reading("power", (("nvml_power", "W"),), lambda: (nvml.nvmlDeviceGetPowerUsage(handle) / 1000,)),
        Reading("energy", (("nvml_energy", "J"),), lambda: (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,)),
        Reading("temperature", (("nvml_temperature", "C"),), lambda: (_temperature(nvml, handle),)),
        Reading("throttle reasons", (("nvml_throttle_reasons", "bitmask"),), lambda: (_clock_reasons(nvml, handle),)),
    ]


def _memory(nvml: ModuleType, handle: object) -> tuple[float, float]:
    """Return bytes in use and bytes in all."""
    info = memory_info(nvml, handle)
    return float(info.used), float(info.total)


def _utilisation(nvml: ModuleType, handle: object) -> tuple[float, float]:
    """Return the fractions of the driver's last period in which a kernel ran, and in which memory was accessed."""
    rates = nvml.nvmlDeviceGetUtilizationRates(handle)
    return rates.gpu / 100, rates.memory / 100


def _temperature(nvml: ModuleType, handle: object) -> float:
    """Return degrees Celsius."""
    sensor = nvml.NVML_TEMPERATURE_GPU
    return float(
        first_that_works(
            nvml,
            lambda: nvml.nvmlDeviceGetTemperatureV(handle, sensor),
            lambda: nvml.nvmlDeviceGetTemperature(handle, sensor),
        )
    )


def _clock_reasons(nvml: ModuleType, handle: object) -> float:
    """Return the bits of `CLOCK_REASONS`; all fit a float exactly."""
    return float(
        first_that_works(
            nvml,
            lambda: nvml.nvmlDeviceGetCurrentClocksEventReasons(handle),
            lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        )
    )


class Gpm:
    """GPU performance monitoring: two snapshots of the device's counters, differenced.

    Args:
        nvml: the initialised library.
        handle: the GPU.

    Raises:
        NVMLError: the device or the driver has no GPM, or this user may not read it.
    """

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        self._nvml = nvml
        self._handle = handle
        if not nvml.nvmlGpmQueryDeviceSupport(handle).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        self._metrics = {
            nvml.NVML_GPM_METRIC_SM_UTIL: "nvml_sm_activity",
            nvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "nvml_dram_bandwidth_utilisation",
        }
        self._snapshots = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
        self._taken_s: float | None = None

    def fractions(self, now: float) -> dict[str, float]:
        """Return quantity to fraction (0..1) since the last snapshot; nothing before `GPM_WINDOW_S` has passed."""
        if self._taken_s is not None and now - self._taken_s < GPM_WINDOW_S:
            return {}
        is_first, self._taken_s = self._taken_s is None, now
        self._snapshots.reverse()
        self._nvml.nvmlGpmSampleGet(self._handle, self._snapshots[1])
        return {} if is_first else self._difference()

    def _difference(self) -> dict[str, float]:
        """Return the metrics between the two snapshots, older first; one that the device lacks is left out."""
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(self._metrics)
        request.sample1, request.sample2 = self._snapshots
        for slot, metric in enumerate(self._metrics):
            request.metrics[slot].metricId = metric
        self._nvml.nvmlGpmMetricsGet(request)
        answered = [request.metrics[slot] for slot in range(len(self._metrics))]
        return {
            self._metrics[metric.metricId]: metric.value / 100
            for metric in answered
            if metric.nvmlReturn == self._nvml.NVML_SUCCESS and metric.value == metric.value  # not NaN
        }

    def close(self) -> None:
        """Free the snapshots."""
        for snapshot in self._snapshots:
            self._nvml.nvmlGpmSampleFree(snapshot)


class Gpu:
    """One GPU and the cell's processes on it.

    Args:
        nvml: the initialised library.
        name: "gpu0", by CUDA's index.
        handle: the GPU.
        targets: the processes of the cell that compute on it.
    """

    def __init__(self, nvml: ModuleType, name: str, handle: object, targets: Sequence[Target]) -> None:
        self.name = name
        self._nvml = nvml
        self._handle = handle
        self._labels = {target.pid: target.label for target in targets}
        self._readings = readings(nvml, handle)
        self._dropped: dict[str, str] = {}
        self._num_failed: dict[str, int] = {}
        self._clock_reasons = 0
        self._saw_target = False
        self._gpm: Gpm | None = self._try(GPM, lambda: Gpm(nvml, handle))

    def sample(self, now: float) -> Iterator[Sample]:
        """Yield the readings of this GPU, stamped `now`."""
        for reading in tuple(self._readings):
            yield from self._read(now, reading)
        yield from self._process_samples(now)
        yield from self._gpm_samples(now)

    def _read(self, now: float, reading: Reading) -> Iterator[Sample]:
        """Yield what one call reads; a call that is refused for good is not made again."""
        values = self._try(reading.words, reading.read)
        if reading.words in self._dropped:
            self._readings.remove(reading)
        for (quantity, unit), value in zip(reading.quantities, values or (), strict=values is not None):
            yield Sample(now, NvmlProbe.name, self.name, quantity, value, unit)
            if quantity == "nvml_throttle_reasons":
                self._clock_reasons |= int(value)

    def _process_samples(self, now: float) -> Iterator[Sample]:
        """Yield the memory of each process of the cell on this GPU, and their sum."""
        if PROCESS_MEMORY in self._dropped:
            return
        processes = self._try(PROCESS_MEMORY, lambda: running_processes(self._nvml, self._handle)) or []
        used = {process.pid: process.usedGpuMemory for process in processes if process.pid in self._labels}
        if None in used.values():
            self._dropped[PROCESS_MEMORY] = "the driver does not tell it; the whole device's memory stands instead"
            return
        for pid, value in used.items():
            label = f"{self._labels[pid]} on {self.name}"
            yield Sample(now, NvmlProbe.name, label, "nvml_process_used", float(value), "bytes")
        if used:
            self._saw_target = True
            yield Sample(now, NvmlProbe.name, self.name, "nvml_targets_used", float(sum(used.values())), "bytes")

    def _gpm_samples(self, now: float) -> Iterator[Sample]:
        """Yield what GPM says about the time since its last snapshot."""
        gpm = self._gpm
        if gpm is None:
            return
        fractions = self._try(GPM, lambda: gpm.fractions(now))
        for quantity, fraction in (fractions or {}).items():
            yield Sample(now, NvmlProbe.name, self.name, quantity, fraction, "fraction")

    def _try(self, words: str, read: Callable[[], T]) -> T | None:
        """Return what `read` answers; None where NVML refuses, for good (then it is noted) or this once (counted)."""
        nvml = self._nvml
        try:
            return read()
        except nvml.NVMLError_NotSupported:
            self._dropped[words] = "not supported by this device"
        except nvml.NVMLError_FunctionNotFound:
            self._dropped[words] = "needs a newer driver"
        except nvml.NVMLError_NoPermission:
            self._dropped[words] = "the driver keeps it for administrators"
        except nvml.NVMLError as error:
            failure = f"{words}: failed with {error}"
            self._num_failed[failure] = self._num_failed.get(failure, 0) + 1
        return None

    def notes(self) -> Iterator[str]:
        """Yield what was left out, with the reason, and what held the clocks back."""
        for words, reason in self._dropped.items():
            yield f"{self.name}: {words}: {reason}"
        for failure, count in self._num_failed.items():
            yield f"{self.name}: {failure}, {count} times"
        if not self._saw_target and PROCESS_MEMORY not in self._dropped:
            yield (
                f"{self.name}: {PROCESS_MEMORY}: the driver lists none of this cell's processes (in a container "
                "process ids are hidden); the whole device's memory stands instead"
            )
        if self._clock_reasons:
            yield f"{self.name}: clocks were limited by: {', '.join(decode_clock_reasons(self._clock_reasons))}"

    def close(self) -> None:
        """Free what GPM holds."""
        if self._gpm is not None:
            self._gpm.close()


def decode_clock_reasons(bits: int) -> list[str]:
    """Return the words for the bits that are set; a bit without words is named by its number."""
    known = [words for bit, words in CLOCK_REASONS.items() if bits & bit]
    unknown = bits & ~sum(CLOCK_REASONS)
    return known + ([f"unknown bits {unknown:#x}"] if unknown else [])


class NvmlProbe(Probe):
    """The GPUs that the cell's processes compute on."""

    name = "nvml"

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None
        self._gpus: list[Gpu] = []
        self._order_note: str | None = None

    def open(self, targets: Sequence[Target]) -> None:
        """Find the GPU of each target.

        Raises:
            ProbeUnavailable: no target computes on a GPU; no library, driver or GPU; CUDA does not see the GPU.
        """
        indices = sorted({index for target in targets if (index := cuda_index(target.device)) is not None})
        if not indices:
            raise ProbeUnavailable("no process of this cell computes on a GPU")
        self._nvml = open_library()
        try:
            self._gpus = [_gpu(self._nvml, index, targets) for index in indices]
            self._order_note = order_note(self._nvml)
        except BaseException:
            self.close()
            raise

    def sample(self, now: float) -> Iterable[Sample]:
        """Yield the readings of every GPU."""
        for gpu in self._gpus:
            yield from gpu.sample(now)

    def notes(self) -> list[str]:
        """Return what was left out and why, what held clocks back, and a doubt about the GPUs' order."""
        order = [self._order_note] if self._order_note else []
        return order + [note for gpu in self._gpus for note in gpu.notes()]

    def close(self) -> None:
        """Free the GPUs and leave NVML."""
        for gpu in self._gpus:
            gpu.close()
        self._gpus = []
        if self._nvml is not None:
            self._nvml.nvmlShutdown()
            self._nvml = None


def _gpu(nvml: ModuleType, index: int, targets: Sequence[Target]) -> Gpu:
    """Return the GPU that CUDA calls `index`, with the targets on it."""
    on_it = [target for target in targets if cuda_index(target.device) == index]
    return Gpu(nvml, f"gpu{index}", find_gpu(nvml, index), on_it)
