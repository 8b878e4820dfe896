"""What this machine offers and who else is using it, for `harness doctor`. Process names only: no users, no hosts."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType

from harness.commands.amd_facts import amd_facts
from harness.commands.gpu_facts import Facts, nvidia_facts
from harness.commands.torch_facts import TORCH, torch_facts
from harness.core.machine import detect_machine
from harness.core.nvidia_driver import NoNvml
from harness.core.words import memory_size
from harness.engines.telemetry import Probe, Target
from harness.engines.telemetry.bench import MOST_ASKED_S, Bench
from harness.engines.telemetry.helper import Helper, NoReturn

# Chosen: long enough that the 10 ms ticks of process times tell a busy core from an idle one.
BUSY_WINDOW_S = 0.3
NUM_BUSIEST = 5
BUSY_CORES = 0.05  # chosen: below two ticks in the window lies noise

PROBES_WINDOW_S = 0.12
"""Chosen: what reads counters over 0.1 s has read them twice."""

CGROUP = Path("/sys/fs/cgroup")


def describe_machine(probes: Collection[type[Probe]]) -> Facts:
    """Return (what, in words) about cores, memory, GPUs, probes, load and the busiest other processes.

    Takes `BUSY_WINDOW_S` to see who is busy. What cannot be read says why, or is left out.

    Args:
        probes: to be asked whether they answer.

    Raises:
        ImportError: psutil is not installed.
    """
    import psutil  # type: ignore[import-untyped, unused-ignore]  # it ships no types

    return [
        ("cores", _cores(psutil)),
        ("memory", _memory(psutil)),
        *_gpus(),
        *_probes(probes),
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


def _gpus() -> Facts:
    """Return what each vendor's driver says of its GPUs, and whether torch can use them; or that there is none."""
    amd = _asked(amd_facts, "AMD GPUs")
    try:
        return [*_asked(nvidia_facts, "NVIDIA GPUs"), *amd, *_asked(torch_facts, TORCH)]
    except NoNvml as error:
        return [*amd, *_asked(torch_facts, TORCH)] if amd else [("GPUs", f"none ({error})")]


def _asked(facts: Callable[[], Facts], whose: str) -> Facts:
    """Return what a driver says, or that it does not return: one that lost a device may hang."""
    try:
        return Helper().call(facts, MOST_ASKED_S["open"])
    except NoReturn as error:
        return [(whose, f"the driver {error}: reset its GPUs, or restart the machine")]


def _num_gpus() -> int:
    """Return how many GPUs a plan would count, 0 where the driver does not return."""
    try:
        return Helper().call(detect_machine, MOST_ASKED_S["open"]).gpus
    except NoReturn:
        return 0


def _probes(probes: Collection[type[Probe]]) -> Facts:
    """Return of each probe whether it answers here, and otherwise why not; takes `PROBES_WINDOW_S`.

    Each is asked as a cell would: once for the GPUs that this process may use, again after a window.
    """
    bench = Bench(list(probes))
    devices = [f"cuda:{k}" for k in range(max(1, _num_gpus()))]
    bench.open([Target(os.getpid(), f"doctor on {device}", device) for device in devices])
    bench.sample(time.monotonic())
    time.sleep(PROBES_WINDOW_S)
    bench.sample(time.monotonic())
    bench.close()
    notes = [("  note", note) for note in bench.notes]
    return [*((f"probe {probe.name}", _answer(bench, probe.name)) for probe in probes), *notes]


def _answer(bench: Bench, name: str) -> str:
    """Return what a probe told, or why it tells nothing."""
    reason = (bench.unneeded | bench.unavailable).get(name)
    if reason is not None:
        return f"does not answer: {reason}"
    told = {series.quantity.removeprefix(f"{name}_") for series in bench.columns.series if series.source == name}
    return f"answers: {', '.join(sorted(told))}" if told else "is open, and tells nothing"


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
