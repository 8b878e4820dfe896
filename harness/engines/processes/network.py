"""The network interface that a cell's processes meet over, where the environment names one that is not there."""

from __future__ import annotations

import datetime
import os
import socket
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


def join_group(store: str, rank: int, ranks: int, device: torch.device, timeout_s: float) -> list[str]:
    """Meet the other processes of a group through a file: no port is chosen, so none can clash.

    Each rank has a device of its own: NCCL refuses two on one GPU ("Duplicate GPU detected").

    Args:
        store: the file.
        device: what this process computes on; torch's backend for it carries the exchanges.
        timeout_s: for one collective.

    Returns:
        Notes on the network.
    """
    import torch.distributed as dist

    from harness.workloads.accelerator import has_queue

    notes = settle_network()
    dist.init_process_group(
        dist.get_default_backend_for_device(device),
        store=dist.FileStore(store, ranks),
        rank=rank,
        world_size=ranks,
        timeout=datetime.timedelta(seconds=timeout_s),
        device_id=device if has_queue(device) else None,
    )
    return notes


def settle_network() -> list[str]:
    """Let gloo meet over the loopback interface unless the user names another; say what he names in vain.

    All processes of a cell are on this machine. Variables of a job's launcher (MASTER_ADDR, RANK, ...) play no part:
    processes meet through a file.

    Returns:
        notes: which variable names what this machine does not have, and what is used instead.
    """
    notes = []
    there = {name for _, name in socket.if_nameindex()}
    named = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    if missing := [name for name in named if name not in there]:
        notes.append(f"GLOO_SOCKET_IFNAME names {missing[0]}, which this machine does not have; {_LOOPBACK} was used")
    if missing or not named:
        os.environ["GLOO_SOCKET_IFNAME"] = _LOOPBACK
    pattern = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if pattern and not _matches(pattern, there):
        del os.environ["NCCL_SOCKET_IFNAME"]
        notes.append(f"NCCL_SOCKET_IFNAME names {pattern}, which this machine does not have; it was ignored")
    return notes


def _matches(pattern: str, there: set[str]) -> bool:
    """Whether NCCL finds an interface by this: beginnings of names, "=" before whole ones, "^" before those to avoid.

    Source: NCCL's documentation of NCCL_SOCKET_IFNAME, 2.27.
    """
    avoids, exactly = pattern.startswith("^"), pattern.lstrip("^").startswith("=")
    names = [name for name in pattern.lstrip("^=").split(",") if name]
    hit = {name for name in there if any(name == n if exactly else name.startswith(n) for n in names)}
    return bool(there - hit) if avoids else bool(hit)
