"""GPUs through NVML: DRAM, utilisation, clocks, power, energy, temperature, and GPM where the device has it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from types import ModuleType

from harness.core.nvidia_driver import is_mig_instance
from harness.core.units import BINARY_BYTES
from harness.engines.telemetry.driver import (
    find_gpu,
    first_that_works,
    memory_info,
    nvml_driver,
    open_library,
    order_note,
    running_processes,
    targets_by_gpu,
)
from harness.engines.telemetry.probe import Probe, ProbeUnavailable, Sample, Target
from harness.engines.telemetry.readings import PROCESS_MEMORY, CellProcesses, Reading, Readings, Refusal, lost_devices

# Chosen: DCGM's shortest interval for profiling fields; over less, the counters' own refresh shows as noise.
GPM_WINDOW_S = 0.1

GPM = "activity of SMs, pipes and links (GPM)"

OF_ALL_INSTANCES = "counted for the whole GPU, and this is one MIG instance of it"
"""Why a MIG instance has neither power nor energy."""


def readings(nvml: ModuleType, handle: object) -> list[Reading]:
    """Return the calls that read a GPU, in bytes, fractions, MHz, W, J and degrees Celsius."""
    used = Reading("memory", (("nvml_used", "bytes"), ("nvml_total", "bytes")), lambda: _memory(nvml, handle))
    utilisation = Reading(
        "utilisation",
        (("nvml_gpu_utilisation", "fraction"), ("nvml_memory_utilisation", "fraction")),
        lambda: _utilisation(nvml, handle),
    )
    power = Reading("power", (("nvml_power", "W"),), lambda: (nvml.nvmlDeviceGetPowerUsage(handle) / 1000,))
    energy = Reading(
        "energy", (("nvml_energy", "J"),), lambda: (nvml.nvmlDeviceGetTotalEnergyConsumption(handle) / 1000,)
    )
    return [used, utilisation, power, energy, *shared_readings(nvml, handle)]


def shared_readings(nvml: ModuleType, handle: object) -> list[Reading]:
    """Return the calls whose answer holds for every MIG instance of a GPU as for the whole."""
    return [
        Reading(
            "SM clock",
            (("nvml_sm_clock", "MHz"),),
            lambda: (float(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),),
        ),
        Reading("temperature", (("nvml_temperature", "C"),), lambda: (_temperature(nvml, handle),)),
        Reading("throttle reasons", (("nvml_throttle_reasons", "bitmask"),), lambda: (_clock_reasons(nvml, handle),)),
    ]


def mig_readings(nvml: ModuleType, instance: object) -> list[Reading]:
    """Return the calls that read a MIG instance: its own memory, and what it shares with the whole GPU."""
    (memory, *_) = readings(nvml, instance)
    whole = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(instance)
    return [memory, *shared_readings(nvml, whole)]


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
        handle: the GPU or MIG instance.

    Raises:
        NVMLError: the device or the driver has no GPM, or this user may not read it.
    """

    def __init__(self, nvml: ModuleType, handle: object) -> None:
        self._nvml = nvml
        self._handle, self._instance = handle, None
        if is_mig_instance(nvml, handle):
            self._handle = nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle)
            self._instance = nvml.nvmlDeviceGetGpuInstanceId(handle)
        if not nvml.nvmlGpmQueryDeviceSupport(self._handle).isSupportedDevice:
            raise nvml.NVMLError(nvml.NVML_ERROR_NOT_SUPPORTED)
        self.metrics = gpm_metrics(nvml)
        self._snapshots = [nvml.nvmlGpmSampleAlloc(), nvml.nvmlGpmSampleAlloc()]
        self._taken_s: float | None = None

    def read(self, now: float) -> dict[str, float | None]:
        """Return quantity to value since the last snapshot, None for what the device lacks.

        Nothing before `GPM_WINDOW_S` has passed.
        """
        if self._taken_s is not None and now - self._taken_s < GPM_WINDOW_S:
            return {}
        is_first, self._taken_s = self._taken_s is None, now
        self._snapshots.reverse()
        self._take(self._snapshots[1])
        return {} if is_first else self._difference()

    def _take(self, snapshot: object) -> None:
        if self._instance is None:
            self._nvml.nvmlGpmSampleGet(self._handle, snapshot)
        else:
            self._nvml.nvmlGpmMigSampleGet(self._handle, self._instance, snapshot)

    def _difference(self) -> dict[str, float | None]:
        """Return the metrics between the two snapshots, older first."""
        request = self._nvml.c_nvmlGpmMetricsGet_t()
        request.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        request.numMetrics = len(self.metrics)
        request.sample1, request.sample2 = self._snapshots
        for slot, metric in enumerate(self.metrics):
            request.metrics[slot].metricId = metric
        self._nvml.nvmlGpmMetricsGet(request)
        answered = [request.metrics[slot] for slot in range(len(self.metrics))]
        found: dict[str, float | None] = {}
        for metric in answered:
            quantity, _, scale = self.metrics[metric.metricId]
            is_known = metric.nvmlReturn == self._nvml.NVML_SUCCESS and metric.value == metric.value  # not NaN
            found[quantity] = metric.value * scale if is_known else None
        return found

    def close(self) -> None:
        """Free the snapshots."""
        for snapshot in self._snapshots:
            self._nvml.nvmlGpmSampleFree(snapshot)


def gpm_metrics(nvml: ModuleType) -> dict[int, tuple[str, str, float]]:
    """Return, by GPM's number of a metric, our quantity, its unit, and the factor from GPM's percent or MiB/s."""
    fractions = {
        nvml.NVML_GPM_METRIC_SM_UTIL: "nvml_sm_activity",
        nvml.NVML_GPM_METRIC_SM_OCCUPANCY: "nvml_sm_occupancy",
        nvml.NVML_GPM_METRIC_ANY_TENSOR_UTIL: "nvml_tensor_activity",
        nvml.NVML_GPM_METRIC_FP64_UTIL: "nvml_fp64_activity",
        nvml.NVML_GPM_METRIC_FP32_UTIL: "nvml_fp32_activity",
        nvml.NVML_GPM_METRIC_FP16_UTIL: "nvml_fp16_activity",
        nvml.NVML_GPM_METRIC_DRAM_BW_UTIL: "nvml_dram_bandwidth_utilisation",
    }
    rates = {
        nvml.NVML_GPM_METRIC_PCIE_TX_PER_SEC: "nvml_pcie_sent",
        nvml.NVML_GPM_METRIC_PCIE_RX_PER_SEC: "nvml_pcie_received",
        nvml.NVML_GPM_METRIC_NVLINK_TOTAL_TX_PER_SEC: "nvml_nvlink_sent",
        nvml.NVML_GPM_METRIC_NVLINK_TOTAL_RX_PER_SEC: "nvml_nvlink_received",
    }
    return {metric: (quantity, "fraction", 0.01) for metric, quantity in fractions.items()} | {
        metric: (quantity, "bytes/s", BINARY_BYTES["MiB"]) for metric, quantity in rates.items()
    }


class Gpu:
    """One GPU, or one MIG instance, and the cell's processes on it.

    Args:
        nvml: the initialised library.
        name: "gpu0", by CUDA's index.
        handle: the GPU or MIG instance.
        targets: the processes of the cell that compute on it.
        cell: all of its processes.
    """

    def __init__(
        self, nvml: ModuleType, name: str, handle: object, targets: Sequence[Target], cell: Sequence[Target]
    ) -> None:
        self.name = name
        self._nvml = nvml
        self._handle = handle
        self._processes = CellProcesses(NvmlProbe.name, name, targets, cell)
        is_instance = is_mig_instance(nvml, handle)
        calls = mig_readings(nvml, handle) if is_instance else readings(nvml, handle)
        self.readings = Readings(nvml_driver(nvml), name, calls)
        for words in ("utilisation",) if is_instance else ():
            self.readings.leave_out(words, Refusal.NOT_SUPPORTED)
        for words in ("power", "energy") if is_instance else ():
            self.readings.leave_out(words, OF_ALL_INSTANCES)
        self._gpm: Gpm | None = self.readings.attempt(time.monotonic(), GPM, lambda: Gpm(nvml, handle))

    def sample(self, now: float) -> Iterator[Sample]:
        """Yield the readings of this GPU, stamped `now`."""
        yield from self.readings.sample(now)
        yield from self._process_samples(now)
        yield from self._gpm_samples(now)

    def _process_samples(self, now: float) -> Iterator[Sample]:
        """Yield the memory of each process of the cell on this GPU, their sum, and how many others compute here."""
        listed = self.readings.attempt(now, PROCESS_MEMORY, lambda: running_processes(self._nvml, self._handle)) or []
        yield from self._processes.others(now, [process.pid for process in listed])
        used = {process.pid: process.usedGpuMemory for process in listed if process.pid in self._processes.labels}
        if None in used.values():
            self.readings.leave_out(
                PROCESS_MEMORY, "the driver does not tell it; the whole device's memory stands instead"
            )
            return
        yield from self._processes.samples(now, used)

    def _gpm_samples(self, now: float) -> Iterator[Sample]:
        """Yield what GPM says about the time since its last snapshot."""
        gpm = self._gpm
        if gpm is None:
            return
        found = self.readings.attempt(now, GPM, lambda: gpm.read(now)) or {}
        units = {quantity: unit for quantity, unit, _ in gpm.metrics.values()}
        for quantity, value in found.items():
            if value is None:
                self.readings.leave_out(f"{GPM}: {quantity}", Refusal.NOT_SUPPORTED)
            else:
                yield Sample(now, NvmlProbe.name, self.name, quantity, value, units[quantity])

    def notes(self) -> Iterator[str]:
        """Yield what was left out, with the reason, and what held the clocks back."""
        yield from self.readings.notes()
        if self._processes.are_hidden(self.readings):
            yield (
                f"{self.name}: {PROCESS_MEMORY}: the driver lists none of this cell's processes (in a container "
                "process ids are hidden); the whole device's memory stands instead"
            )

    def close(self) -> None:
        """Free what GPM holds."""
        if self._gpm is not None:
            self._gpm.close()


class NvmlProbe(Probe):
    """The GPUs that the cell's processes compute on."""

    name = "nvml"

    def __init__(self) -> None:
        self._nvml: ModuleType | None = None
        self._gpus: list[Gpu] = []
        self._notes: list[str] = []

    def open(self, targets: Sequence[Target]) -> None:
        """Find the GPU of each target; where one of several cannot be read the others are.

        Raises:
            ProbeUnneeded: no target computes on a GPU.
            ProbeUnavailable: no library, driver or GPU; CUDA sees none of the GPUs.
        """
        by_gpu = targets_by_gpu(targets)
        self._nvml = open_library()
        try:
            self._find(self._nvml, by_gpu, targets)
        except BaseException:
            self.close()
            raise

    def _find(self, nvml: ModuleType, by_gpu: Mapping[int, Sequence[Target]], cell: Sequence[Target]) -> None:
        reasons: list[ProbeUnavailable] = []
        for index, on_it in by_gpu.items():
            try:
                self._gpus.append(Gpu(nvml, f"gpu{index}", find_gpu(nvml, index), on_it, cell))
            except ProbeUnavailable as unavailable:
                reasons.append(unavailable)
        if not self._gpus:
            raise reasons[0]
        order = order_note(nvml)
        self._notes = [*([order] if order else []), *(unavailable.reason for unavailable in reasons)]

    def sample(self, now: float) -> Iterable[Sample]:
        """Yield the readings of every GPU."""
        for gpu in self._gpus:
            yield from gpu.sample(now)

    def notes(self) -> list[str]:
        """Return what was left out and why, what held clocks back, and a doubt about the GPUs' order."""
        return self._notes + [note for gpu in self._gpus for note in gpu.notes()]

    def lost(self) -> Mapping[str, float]:
        """Return the GPUs that the driver lost."""
        return lost_devices(gpu.readings for gpu in self._gpus)

    def close(self) -> None:
        """Free the GPUs and leave NVML."""
        nvml, gpus = self._nvml, self._gpus
        self._nvml, self._gpus = None, []
        if nvml is None:
            return
        for gpu in gpus:
            with suppress(nvml.NVMLError):  # of a GPU that was lost nothing can be freed
                gpu.close()
        nvml.nvmlShutdown()
