"""What a machine has and what a cell runs on, in words."""

from __future__ import annotations

from harness.core.cell import Cell
from harness.core.machine import Machine
from harness.core.words import counted


def machine_in_words(machine: Machine) -> str:
    """Return its hardware, and what a "gpu" of a scenario is on it."""
    return hardware_in_words(machine) + ("" if machine.gpus else ' (a "gpu" of the scenario is one core)')


def hardware_in_words(machine: Machine) -> str:
    """Return such as "2 CPU cores, no GPU", or "2 nodes of 8 x NVIDIA H200, 64 CPU cores"."""
    if machine.nodes > 1:
        return f"{machine.nodes} nodes of {hardware_in_words(machine.one_node)}"
    cores = counted(machine.cores, "CPU core")
    return f"{machine.gpus} x {machine.gpu_name or 'GPU'}, {cores}" if machine.gpus else f"{cores}, no GPU"


def engine_in_words(cell: Cell, gpu_name: str = "") -> str:
    """Return such as "2 CPU cores", "16 simulated CPU cores" or "4 x NVIDIA A100"."""
    simulated = "simulated " if cell.engine == "virtual" else ""
    elsewhere = cell.cluster.device if simulated else None
    if elsewhere:
        chip = cell.cluster.chip
        return f"{cell.gpus} simulated {chip}" if chip else counted(cell.gpus, "simulated device")
    if cell.device != "cpu":
        words = f"{cell.gpus} x {simulated}{gpu_name or 'GPU'}"
    elif cell.threads_per_device > 1:
        words = f"{cell.gpus} x {cell.threads_per_device} {simulated}CPU cores"
    else:
        words = counted(cell.gpus, f"{simulated}CPU core")
    return words + (" (oversubscribed)" if cell.oversubscribed else "")
