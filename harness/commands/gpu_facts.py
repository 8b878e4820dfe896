"""What NVIDIA's GPUs here are, how they are set and who uses them, for `harness doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, starmap
from types import ModuleType
from typing import TypeVar

from harness.commands.process_names import process_name
from harness.core.clock_reasons import clock_reasons_in_words
from harness.core.nvidia_driver import (
    VISIBLE,
    Present,
    gpu_name,
    is_mig_instance,
    mig_instances,
    opened,
    present_gpus,
    visible_gpus,
)
from harness.core.words import counted, memory_size
from harness.engines.telemetry.driver import memory_info, nvml_refusal, running_processes
from harness.engines.telemetry.nvml import shared_readings
from harness.engines.telemetry.readings import Refusal

Facts = list[tuple[str, str]]

T = TypeVar("T")

# Source: nvml.h, nvmlComputeMode_t.
COMPUTE_MODES = {
    0: "default",
    1: "one thread at a time",
    2: "prohibited: nothing may compute on it",
    3: "one process at a time: two workers cannot share this GPU",
}

# Source: nvml.h, nvmlGpuTopologyLevel_t.
PATHS = {
    0: "on one board",
    10: "through one PCIe switch",
    20: "through several PCIe switches",
    30: "through the PCIe bridge of one CPU",
    40: "within one NUMA node",
    50: "across CPUs",
}

MOST_CORES, MOST_NODES = 4096, 1024
"""Cores and NUMA nodes that a driver is asked about; chosen: more than any machine has."""

MASK_BITS = 64
"""Of one word of the masks that NVML answers."""


def nvidia_facts() -> Facts:
    """Return driver, what CUDA shows, and lines for each GPU.

    Raises:
        NoNvml: there is none, or it cannot be asked.
    """
    with opened() as nvml:
        return [*_driver_facts(nvml), *_gpu_facts(nvml, present_gpus(nvml))]


def cuda_of_driver(nvml: ModuleType) -> tuple[int, int] | None:
    """Return the newest version of CUDA that the driver runs, None where it does not tell."""
    try:
        version = int(nvml.nvmlSystemGetCudaDriverVersion_v2())
    except nvml.NVMLError:
        return None
    return version // 1000, version % 1000 // 10


def _driver_facts(nvml: ModuleType) -> Facts:
    """Return the driver's version, and which GPU each of CUDA's is."""
    driver = Asked(nvml)
    version = driver.ask("its version", nvml.nvmlSystemGetDriverVersion) or "of unknown version"
    cuda = cuda_of_driver(nvml)
    facts = [("NVIDIA driver", f"{version}, for CUDA up to {cuda[0]}.{cuda[1]}" if cuda else str(version))]
    variable = os.environ.get(VISIBLE)
    named = [f"cuda:{k} is {_place(nvml, handle)}" for k, handle in enumerate(visible_gpus(nvml))]
    seen = ", ".join(named) or "CUDA shows no GPU"
    return [*facts, (VISIBLE, f"{'not set' if variable is None else repr(variable)}; {seen}")]


def _uuid(gpu: Asked, handle: object) -> str:
    return gpu.told("UUID", lambda: gpu.nvml.nvmlDeviceGetUUID(handle))


def _place(nvml: ModuleType, handle: object) -> str:
    """Return which GPU a handle stands for, such as "GPU 1", or which instance of which."""
    gpu = Asked(nvml)
    if not is_mig_instance(nvml, handle):
        return f"GPU {gpu.told('index', lambda: nvml.nvmlDeviceGetIndex(handle))}"
    whole = gpu.ask("GPU", lambda: nvml.nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle))
    return f"{_uuid(gpu, handle)}, an instance of {_place(nvml, whole)}; a process sees one instance"


class Asked:
    """One GPU, or the driver, and what it refused to tell."""

    def __init__(self, nvml: ModuleType) -> None:
        self.nvml = nvml
        self._untold: dict[str, list[str]] = {}

    def ask(self, words: str, read: Callable[[], T]) -> T | None:
        """Return what a call answers, None where it is refused; then the words are kept with the reason."""
        try:
            return read()
        except self.nvml.NVMLError as error:
            self.refused(words, error)
            return None

    def refused(self, words: str, error: Exception) -> None:
        """Keep what was not told, by the reason."""
        reason = nvml_refusal(self.nvml, error) or f"the driver says {error}"
        self._untold.setdefault(str(reason), []).append(words)

    @property
    def is_lost(self) -> bool:
        """Whether the driver lost the GPU."""
        return Refusal.LOST in self._untold

    def told(self, words: str, read: Callable[[], object]) -> str:
        """Return what a call answers as text, "unknown" where it is refused."""
        answer = self.ask(words, read)
        return "unknown" if answer is None else str(answer)

    def untold(self) -> str:
        """Return what was refused, by reason, empty where nothing was."""
        return "; ".join(f"{', '.join(dict.fromkeys(words))}: {reason}" for reason, words in self._untold.items())


def _gpu_facts(nvml: ModuleType, gpus: Sequence[Present]) -> Facts:
    facts: Facts = []
    for gpu in gpus:
        if gpu.handle is None:
            facts.append((f"GPU {gpu.index}", f"not for us: the driver says {gpu.reason}"))
        else:
            facts += _one_gpu(nvml, gpu.index, gpu.handle)
    whole = [gpu for gpu in gpus if gpu.handle is not None]
    return [*facts, *_between(nvml, whole)]


def _one_gpu(nvml: ModuleType, index: int, handle: object) -> Facts:
    gpu = Asked(nvml)
    capability = gpu.ask("compute capability", lambda: nvml.nvmlDeviceGetCudaComputeCapability(handle))
    able = f", compute capability {capability[0]}.{capability[1]}" if capability else ""
    lines = [(f"GPU {index}", f"{gpu_name(nvml, handle)}, {_uuid(gpu, handle)}{able}")]
    lines += [(f"  {name}", text) for name, tell in GPU_LINES.items() if (text := tell(gpu, handle))]
    if gpu.is_lost:
        return [lines[0], ("  lost", "the driver lost this GPU and answers nothing: reset it, or restart the machine")]
    untold = gpu.untold()
    return [*lines, ("  not told", untold)] if untold else lines


# -- one line each -----------------------------------------------------------------------------------------------------


def _memory(gpu: Asked, handle: object) -> str:
    memory = gpu.ask("memory", lambda: memory_info(gpu.nvml, handle))
    return f"{memory_size(memory.used)} used of {memory_size(memory.total)}" if memory else ""


def _processes(gpu: Asked, handle: object) -> str:
    """Return who computes or draws on a GPU, with the memory of each where it is told."""
    nvml = gpu.nvml
    computing = gpu.ask("processes", lambda: running_processes(nvml, handle))
    drawing = gpu.ask("processes that draw", lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses_v3(handle))
    if computing is None and drawing is None:
        return ""
    used = {process.pid: process.usedGpuMemory for process in [*(drawing or ()), *(computing or ())]}
    return (
        ", ".join(starmap(user_in_words, used.items()))
        or "none that the driver shows (in a container it may hide them)"
    )


def user_in_words(pid: int, used_bytes: float | None) -> str:
    """Return a process that uses a GPU, with its memory there where it is known."""
    return f"{process_name(pid)} ({pid})" + (f" {memory_size(used_bytes)}" if used_bytes else "")


def _mig(gpu: Asked, handle: object) -> str:
    """Return whether a GPU is split, and its instances."""
    mode = gpu.ask("MIG", lambda: gpu.nvml.nvmlDeviceGetMigMode(handle))
    if mode is None:
        return ""
    now, pending = mode
    later = "" if now == pending else f", {_on(pending)} after the next reset"
    if not now:
        return f"off{later}"
    names = [f"{gpu_name(gpu.nvml, one)} ({_uuid(gpu, one)})" for one in mig_instances(gpu.nvml, handle)]
    return f"on{later}: {', '.join(names) or 'no instance, so that nothing can run on it'}"


def _persistence(gpu: Asked, handle: object) -> str:
    mode = gpu.ask("persistence", lambda: gpu.nvml.nvmlDeviceGetPersistenceMode(handle))
    if mode is None:
        return ""
    return "on" if mode else "off: the first process waits until the driver is loaded; `nvidia-smi -pm 1` keeps it"


def _compute_mode(gpu: Asked, handle: object) -> str:
    mode = gpu.ask("compute mode", lambda: gpu.nvml.nvmlDeviceGetComputeMode(handle))
    return "" if mode is None else COMPUTE_MODES.get(mode, str(mode))


def _ecc(gpu: Asked, handle: object) -> str:
    """Return whether memory is protected, and which errors could not be mended."""
    nvml = gpu.nvml
    mode = gpu.ask("ECC", lambda: nvml.nvmlDeviceGetEccMode(handle))
    if mode is None:
        return ""
    now, pending = mode
    parts = [_on(now) + ("" if now == pending else f" ({_on(pending)} after the next reset)")]
    kind = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    recent = gpu.ask("errors", lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_VOLATILE_ECC))
    ever = gpu.ask("errors", lambda: nvml.nvmlDeviceGetTotalEccErrors(handle, kind, nvml.NVML_AGGREGATE_ECC))
    parts += [f"{counted(recent, 'uncorrected error')} since the driver was loaded"] if recent is not None else []
    parts += [f"{ever:,} in all"] if ever is not None else []
    _, _, waiting, failed = gpu.ask("remapped rows", lambda: nvml.nvmlDeviceGetRemappedRows(handle)) or (0, 0, 0, 0)
    parts += ["rows of memory wait to be replaced: reset the GPU"] if waiting else []
    parts += ["replacing rows failed: have the GPU exchanged"] if failed else []
    return ", ".join(parts)


def _clocks(gpu: Asked, handle: object) -> str:
    """Return clocks now against the highest, and where somebody set them below their default."""
    nvml = gpu.nvml
    kinds = ((nvml.NVML_CLOCK_SM, "SMs"), (nvml.NVML_CLOCK_MEM, "memory"))
    parts = [f"{words} {clock}" for kind, words in kinds if (clock := _clock(gpu, handle, kind))]
    wanted = gpu.ask("set clocks", lambda: nvml.nvmlDeviceGetApplicationsClock(handle, nvml.NVML_CLOCK_SM))
    default = gpu.ask("default clocks", lambda: nvml.nvmlDeviceGetDefaultApplicationsClock(handle, nvml.NVML_CLOCK_SM))
    if wanted is not None and default is not None:
        parts.append(f"set to {wanted:,} MHz{_against(wanted, default, f'{default:,} MHz')}")
    return ", ".join(parts)


def _clock(gpu: Asked, handle: object, kind: int) -> str:
    now = gpu.ask("clocks", lambda: gpu.nvml.nvmlDeviceGetClockInfo(handle, kind))
    most = gpu.ask("highest clocks", lambda: gpu.nvml.nvmlDeviceGetMaxClockInfo(handle, kind))
    return "" if now is None else f"{now:,} MHz now" + (f" of {most:,} MHz" if most else "")


def _power(gpu: Asked, handle: object) -> str:
    """Return power now, and its limit against the default and the highest."""
    nvml = gpu.nvml
    now = gpu.ask("power", lambda: nvml.nvmlDeviceGetPowerUsage(handle))
    limit = gpu.ask("power limit", lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle))
    default = gpu.ask("default power limit", lambda: nvml.nvmlDeviceGetPowerManagementDefaultLimit(handle))
    ends = gpu.ask("highest power limit", lambda: nvml.nvmlDeviceGetPowerManagementLimitConstraints(handle))
    parts = [f"{now / 1000:,.0f} W now"] if now is not None else []
    if limit is not None:
        words = f"limit {limit / 1000:,.0f} W"
        words += _against(limit, default, f"{default / 1000:,.0f} W") if default is not None else ""
        parts.append(words + (f", {ends[1] / 1000:,.0f} W at most" if ends else ""))
    return ", ".join(parts)


def _against(value: int, default: int, default_words: str) -> str:
    """Return how a setting compares with its default."""
    if value == default:
        return ", its default"
    return f", {'below' if value < default else 'above'} its default of {default_words}"


def _limited_by(gpu: Asked, handle: object) -> str:
    """Return what holds the clocks back now."""
    *_, reasons = shared_readings(gpu.nvml, handle)
    answer = gpu.ask(reasons.words, reasons.read)
    if answer is None or answer[0] is None:
        return ""
    return ", ".join(clock_reasons_in_words("nvml_throttle_reasons", int(answer[0]))) or "nothing"


def _temperature(gpu: Asked, handle: object) -> str:
    _, temperature, _ = shared_readings(gpu.nvml, handle)
    answer = gpu.ask(temperature.words, temperature.read)
    return f"{answer[0]:.0f} C" if answer and answer[0] is not None else ""


def _pcie(gpu: Asked, handle: object) -> str:
    """Return generation and lanes now against what GPU and slot can do."""
    nvml = gpu.nvml
    generation = gpu.ask("PCIe", lambda: nvml.nvmlDeviceGetCurrPcieLinkGeneration(handle))
    best = gpu.ask("PCIe", lambda: nvml.nvmlDeviceGetMaxPcieLinkGeneration(handle))
    lanes = gpu.ask("PCIe", lambda: nvml.nvmlDeviceGetCurrPcieLinkWidth(handle))
    most = gpu.ask("PCIe", lambda: nvml.nvmlDeviceGetMaxPcieLinkWidth(handle))
    if generation is None or best is None or lanes is None or most is None:
        return ""
    slower = " (an idle GPU lowers it)" if generation < best else ""
    fewer = ": look at its slot" if lanes < most else ""
    return f"generation {generation} of {best}{slower}, {lanes} of {most} lanes{fewer}"


def _nvlink(gpu: Asked, handle: object) -> str:
    """Return how many NVLinks are active, of those that the GPU has."""
    nvml = gpu.nvml
    states: list[int] = []
    for link in range(nvml.NVML_NVLINK_MAX_LINKS):
        try:
            states.append(nvml.nvmlDeviceGetNvLinkState(handle, link))
        except nvml.NVMLError as error:
            if not states:  # behind the last link the driver refuses, too
                gpu.refused("NVLink", error)
            break
    return f"{sum(states)} of {counted(len(states), 'link')} active" if states else ""


def _numa(gpu: Asked, handle: object) -> str:
    """Return the NUMA nodes beside a GPU, and how many of the cores there this process may use."""
    nvml = gpu.nvml
    scope = nvml.NVML_AFFINITY_SCOPE_NODE
    nodes = gpu.ask("NUMA node", lambda: nvml.nvmlDeviceGetMemoryAffinity(handle, MOST_NODES // MASK_BITS, scope))
    cores = gpu.ask("cores beside it", lambda: nvml.nvmlDeviceGetCpuAffinity(handle, MOST_CORES // MASK_BITS))
    parts = [f"node {', '.join(map(str, bits_of(nodes)))}"] if nodes is not None else []
    if cores is not None:
        near = set(bits_of(cores))
        usable = near & os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else near
        parts.append(f"{counted(len(near), 'core')} beside it, of which this process may use {len(usable)}")
    return ", ".join(parts)


def bits_of(mask: Sequence[int]) -> list[int]:
    """Return the numbers of the bits that are set in words of 64."""
    return [MASK_BITS * k + bit for k, word in enumerate(mask) for bit in range(MASK_BITS) if word >> bit & 1]


def _on(mode: int) -> str:
    return "on" if mode else "off"


GPU_LINES: dict[str, Callable[[Asked, object], str]] = {
    "memory": _memory,
    "processes": _processes,
    "MIG": _mig,
    "persistence": _persistence,
    "compute mode": _compute_mode,
    "ECC": _ecc,
    "clocks": _clocks,
    "clocks limited by": _limited_by,
    "power": _power,
    "temperature": _temperature,
    "PCIe": _pcie,
    "NVLink": _nvlink,
    "NUMA": _numa,
}
"""By what a line of one GPU is called."""


# -- between GPUs ------------------------------------------------------------------------------------------------------


def _between(nvml: ModuleType, gpus: Sequence[Present]) -> Facts:
    """Return how each pair of GPUs is joined: by NVLink, or by which way over PCIe."""
    pairs: dict[str, list[str]] = {}
    for one, other in combinations(gpus, 2):
        joined = "; ".join(_paths(Asked(nvml), one.handle, other.handle)) or "not told"
        pairs.setdefault(joined, []).append(f"{one.index}-{other.index}")
    if not pairs:
        return []
    if len(pairs) == 1:
        return [("between GPUs", next(iter(pairs)))]
    return [("between GPUs", "; ".join(f"{joined}: {', '.join(names)}" for joined, names in pairs.items()))]


def _paths(pair: Asked, one: object, other: object) -> Iterator[str]:
    nvml = pair.nvml
    status = pair.ask("NVLink", lambda: nvml.nvmlDeviceGetP2PStatus(one, other, nvml.NVML_P2P_CAPS_INDEX_NVLINK))
    if status == nvml.NVML_P2P_STATUS_OK:
        yield "NVLink"
    level = pair.ask("topology", lambda: nvml.nvmlDeviceGetTopologyCommonAncestor(one, other))
    if level is not None:
        yield f"PCIe {PATHS.get(level, f'level {level}')}"
