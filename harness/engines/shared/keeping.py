"""Which data stay in memory: those that fit beside everything else, for every process of a cell."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from harness.core.cell import Cell
    from harness.workloads.entries import Keeps

SHARE = 0.25
"""Of a host's available memory, and of a GPU's whole memory, that data may take; chosen: models, gradients, activations
and the page cache share the rest."""


def keeps(cell: Cell, device: str) -> Keeps:
    """Return what says whether data of so many bytes stay in memory.

    Samples that are drawn anew each time, such as augmented images, never do unless the scenario says so: kept, they
    would be drawn once for all passes.
    """
    wanted = cell.workload.loading.resident

    def stay(num_bytes: int, anew: bool) -> bool:
        if wanted != "auto":
            return wanted == "yes"
        return not anew and num_bytes <= room_bytes(cell, device)

    return stay


def room_bytes(cell: Cell, device: str) -> float:
    """Return how many bytes of data each process of a cell may keep: all of them keep their own copy."""
    import psutil

    processes = 1 if cell.engine == "virtual" else cell.gpus + cell.servers
    room: float = SHARE * psutil.virtual_memory().available / processes
    if device != "cpu":
        import torch

        from harness.workloads.accelerator import memory_bytes, module_of

        place = torch.device(device)
        # Workers that share a device, and a server that evaluates on it, each keep their own copy there too.
        sharing = -(-cell.gpus // module_of(place).device_count()) + bool(cell.servers)
        room = min(room, SHARE * memory_bytes(place) / sharing)
    return room
