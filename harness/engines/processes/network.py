"""Where the processes of a cell meet, and the network interface that they use."""

from __future__ import annotations

import datetime
import os
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from harness.engines.processes.slots import Descriptor, Detachable

if TYPE_CHECKING:
    import torch

_LOOPBACK = "lo0" if sys.platform == "darwin" else "lo"


@dataclass
class Meeting:
    """Where the processes of a group meet: a file of their one machine, or a port of the first rank's machine.

    A file needs no port, so that none can clash. Several machines meet at a port that the first rank is handed open,
    for the same reason.

    Attributes:
        file: of the one machine; empty where there are several.
        host, port: of the first rank, as the others reach it.
        listener: the open socket of the port, handed to the first rank only.
        interface: of this process's machine, through which the others are reached; empty: they are all here.
    """

    file: Path | None = None
    host: str = ""
    port: int = 0
    listener: Descriptor | Detachable | None = None
    interface: str = ""


def join_group(meeting: Meeting, rank: int, ranks: int, device: torch.device, timeout_s: float) -> list[str]:
    """Meet the other processes of a group.

    Each rank has a device of its own: NCCL refuses two on one GPU ("Duplicate GPU detected").

    Args:
        device: what this process computes on; torch's backend for it carries the exchanges.
        timeout_s: for one collective.

    Returns:
        Notes on the network.
    """
    import torch.distributed as dist

    from harness.workloads.accelerator import has_queue

    notes = settle_network(meeting.interface)
    timeout = datetime.timedelta(seconds=timeout_s)
    store: dist.Store
    if meeting.file is not None:
        store = dist.FileStore(str(meeting.file), ranks)
    else:
        listener = meeting.listener.detach() if isinstance(meeting.listener, Detachable) else None
        store = dist.TCPStore(
            meeting.host, meeting.port, ranks, rank == 0, timeout, wait_for_workers=False, master_listen_fd=listener
        )
    dist.init_process_group(
        dist.get_default_backend_for_device(device),
        store=store,
        rank=rank,
        world_size=ranks,
        timeout=timeout,
        device_id=device if has_queue(device) else None,
    )
    return notes


def settle_network(interface: str = "") -> list[str]:
    """Let gloo and NCCL meet over one interface unless the user names another; say what he names in vain.

    Without being told, gloo listens at what the host's name resolves to, which on many machines is a loopback address
    that other machines cannot reach. Variables of a job's launcher (MASTER_ADDR, RANK, ...) play no part here.

    Args:
        interface: that leads to the other machines; empty: all processes are on this one, and meet over loopback.

    Returns:
        notes: which variable names what this machine does not have, and what is used instead.
    """
    notes, chosen = [], interface or _LOOPBACK
    there = {name for _, name in socket.if_nameindex()}
    named = [name for name in os.environ.get("GLOO_SOCKET_IFNAME", "").split(",") if name]
    if missing := [name for name in named if name not in there]:
        notes.append(f"GLOO_SOCKET_IFNAME names {missing[0]}, which this machine does not have; {chosen} was used")
    if missing or not named:
        os.environ["GLOO_SOCKET_IFNAME"] = chosen
    pattern = os.environ.get("NCCL_SOCKET_IFNAME", "")
    if pattern and not _matches(pattern, there):
        del os.environ["NCCL_SOCKET_IFNAME"]
        notes.append(f"NCCL_SOCKET_IFNAME names {pattern}, which this machine does not have; it was ignored")
    if interface and "NCCL_SOCKET_IFNAME" not in os.environ:
        os.environ["NCCL_SOCKET_IFNAME"] = f"={interface}"  # NCCL takes the beginning of a name without the sign
    return notes


def _matches(pattern: str, there: set[str]) -> bool:
    """Whether NCCL finds an interface by this: beginnings of names, "=" before whole ones, "^" before those to avoid.

    Source: NCCL's documentation of NCCL_SOCKET_IFNAME, 2.27.
    """
    avoids, exactly = pattern.startswith("^"), pattern.lstrip("^").startswith("=")
    names = [name for name in pattern.lstrip("^=").split(",") if name]
    hit = {name for name in there if any(name == n if exactly else name.startswith(n) for n in names)}
    return bool(there - hit) if avoids else bool(hit)
