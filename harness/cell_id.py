"""The id of a cell: readable, and a hash of everything that decides the outcome and of nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.host import Host
    from harness.plan import Cell

RECORD_SCHEMA = 1
"""Rises when records of the same cell would no longer mean the same; every stored cell is then run again."""

_DECIDING = (
    "strategy",
    "options",
    "engine",
    "device",
    "gpus",
    "batch_size",
    "micro_batch_size",
    "global_batch_size",
    "learning_rate",
    "seed",
    "workload",
    "goal",
    "measure",
    "threads_per_device",
)


def strategy_source(name: str, host: Host) -> str:
    """Return the hash of the file that a strategy came from: an edited strategy is another one."""
    return hashlib.sha256(host.source_of("strategy", name).encode()).hexdigest()


def cell_id(cell: Cell, identity: Mapping[str, str]) -> str:
    """Return the id of a cell, whatever its own field holds.

    Args:
        cell: what is to be run.
        identity: hashes of files that the cell's fields only name.
    """
    content: dict[str, Any] = {key: getattr(cell, key) for key in _DECIDING}
    content |= {"identity": dict(identity), "record_schema": RECORD_SCHEMA}
    if cell.faults:
        content["faults"] = cell.faults
    if cell.dram_bytes is not None:
        content["dram_bytes"] = cell.dram_bytes
    if cell.engine == "virtual":
        content |= {"cluster": cell.cluster, "profile_id": cell.profile_id}
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    digest = hashlib.sha256(canonical.encode()).hexdigest()[:8]
    rate = f"{cell.learning_rate:.4g}".replace("+", "")
    return f"{cell.strategy}-b{cell.global_batch_size}-lr{rate}-g{cell.gpus}-s{cell.seed}-{digest}"
