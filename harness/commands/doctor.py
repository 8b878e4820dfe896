"""What this machine offers and who else is using it, for `harness doctor`. Process names only: no users, no hosts."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import ModuleType

from harness.core.nvidia_driver import NoNvml, num_gpus, opened
from harness.core.words import memory_size
from harness.engines.telemetry.driver import memory_info, running_processes

# Chosen: long enough that the 10 ms ticks of process times tell a busy core from an idle one.
BUSY_WINDOW_S = 0.3
NUM_BUSIEST = 5
BUSY_CORES = 0.05  # chosen: below two ticks in the window lies noise

CGROUP = Path("/sys/fs/cgroup")

Facts = list[tuple[str, str]]


def describe_machine() -> Facts:
    """Return (what, in words) about cores, memory, GPUs, load and the busiest other processes.

    Takes `BUSY_WINDOW_S` to see who is busy. What cannot be read says why, or is left out.

    Raises:
        ImportError: psutil is not installed.
    """
    import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

    return [
        ("cores", _cores(psutil)),
        ("memory", _memory(psutil)),
        *_gpus(psutil),
        ("load", _load(psutil)),
        ("busiest other processes", _busiest(psutil)),
    ]


def _cores(psutil: ModuleType) -> str:
    """Return the cores that this process may use, and those that the machine has."""
    logical = psutil.cpu_count()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else logical
    physical = psutil.cpu_count(logical=False)
    words = f"{usable} usable of {logical}" + (f" ({physical} physical)" if physical else "")
    limit = cpu_limit_cores()
    return words if limit is None else f"{words}, limited by the container to {limit:g} cores' time"


def _memory(psutil: ModuleType) -> str:
    """Return memory in all and available, and the container's limit where there is one."""
    memory = psutil.virtual_memory()
    words = f"{memory_size(memory.available)} available of {memory_size(memory.total)}"
    limit = memory_limit_bytes()
    return (
        words
        if limit is None or limit >= memory.total
        else f"{words}, limited to {memory_size(limit)} by the container"
    )


def cpu_limit_cores() -> float | None:
    """Return the cores' time that the control groups allow (1.0 = one core), None where nothing limits it."""
    limits = [_quota_v2(text) for text in _control_files("", "cpu.max")]
    quotas = _control_files("cpu", "cpu.cfs_quota_us")
    periods = _control_files("cpu", "cpu.cfs_period_us")
    limits += [_quota_v2(f"{quota} {period}") for quota, period in zip(quotas, periods, strict=False)]
    return min((limit for limit in limits if limit is not None), default=None)


def _quota_v2(text: str) -> float | None:
    """Return the cores in "150000 100000" (microseconds allowed, of a period); None for "max" and for -1."""
    quota, _, period = text.partition(" ")
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def memory_limit_bytes() -> int | None:
    """Return the bytes that the control groups allow, None where nothing limits them."""
    texts = _control_files("", "memory.max") + _control_files("memory", "memory.limit_in_bytes")
    return min((int(text) for text in texts if text.isdigit()), default=None)


def _control_files(controller: str, name: str) -> list[str]:
    """Return what this process' control group and those above it say in the file `name`.

    Args:
        controller: the controller of version 1, or "" for version 2.
        name: the file.
    """
    root = CGROUP / controller
    group = _own_group(controller)
    folders = [root / group, *(root / parent for parent in Path(group).parents)]
    texts = []
    for folder in dict.fromkeys(folders):
        try:
            texts.append((folder / name).read_text().strip())
        except OSError:
            continue  # not mounted, or the root group, which has no limits
    return texts


def _own_group(controller: str) -> str:
    """Return the path of this process' control group below the controller's root."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        return ""
    entries = [line.split(":", 2) for line in lines]
    return next((path.lstrip("/") for _, names, path in entries if controller in names.split(",")), "")


def _gpus(psutil: ModuleType) -> Facts:
    """Return a line for the driver and one for each GPU, or why there is none."""
    try:
        with opened() as nvml:
            return _gpus_of(psutil, nvml)
    except NoNvml as error:
        return [("GPUs", f"none ({error})")]


def _gpus_of(psutil: ModuleType, nvml: ModuleType) -> Facts:
    try:
        gpus = [(f"GPU {index}", _gpu(psutil, nvml, index)) for index in range(num_gpus(nvml))]
        return [("NVIDIA driver", str(nvml.nvmlSystemGetDriverVersion())), *gpus]
    except nvml.NVMLError as error:
        return [("GPUs", f"the driver gives no information: {error}")]


def _gpu(psutil: ModuleType, nvml: ModuleType, index: int) -> str:
    """Return a GPU's name, memory, and the processes that compute on it."""
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = memory_info(nvml, handle)
        size = f"{nvml.nvmlDeviceGetName(handle)}, {memory_size(memory.used)} used of {memory_size(memory.total)}"
    except nvml.NVMLError as error:
        return f"cannot be read: {error}"
    return f"{size}, {_gpu_processes(psutil, nvml, handle)}"


def _gpu_processes(psutil: ModuleType, nvml: ModuleType, handle: object) -> str:
    """Return the names of the processes that compute on a GPU."""
    try:
        pids = [process.pid for process in running_processes(nvml, handle)]
    except nvml.NVMLError:
        return "the driver does not list its processes"
    return f"used by {', '.join(_name(psutil, pid) for pid in pids)}" if pids else "no process uses it"


def _name(psutil: ModuleType, pid: int) -> str:
    """Return a process' name; one of another container is hidden from this one."""
    try:
        return str(psutil.Process(pid).name())
    except psutil.Error:
        return "a process outside this container"


def _load(psutil: ModuleType) -> str:
    """Return the load averages: processes that run or wait for a core."""
    one, five, fifteen = psutil.getloadavg()
    return f"{one:.1f} processes over 1 minute, {five:.1f} over 5 minutes, {fifteen:.1f} over 15 minutes"


def _busiest(psutil: ModuleType) -> str:
    """Return the names of other processes that keep cores busy, and how many cores each."""
    before = _cpu_seconds(psutil)
    began_s = time.monotonic()
    time.sleep(BUSY_WINDOW_S)
    after = _cpu_seconds(psutil)
    elapsed_s = time.monotonic() - began_s
    cores = [((after[key] - before[key]) / elapsed_s, key[2]) for key in after.keys() & before.keys()]
    busy = sorted((entry for entry in cores if entry[0] >= BUSY_CORES), reverse=True)[:NUM_BUSIEST]
    return ", ".join(f"{name} {share:.1f} cores" for share, name in busy) or "none"


def _cpu_seconds(psutil: ModuleType) -> dict[tuple[int, float, str], float]:
    """Return the CPU seconds of every process but this one, by pid, start and name."""
    processes = psutil.process_iter(["pid", "create_time", "name", "cpu_times"])
    infos = [process.info for process in processes if process.pid != os.getpid()]
    return {
        (info["pid"], info["create_time"], info["name"]): info["cpu_times"].user + info["cpu_times"].system
        for info in infos
        if info["cpu_times"]
    }
