"""How machines, engines, tables and values of a scenario are written for people."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence

from harness.core.cell import Cell
from harness.core.machine import Machine


def machine_in_words(machine: Machine) -> str:
    """Return such as "2 CPU cores, no GPU (a gpu of the scenario is one core)"."""
    cores = _several(machine.cores, "CPU core")
    if not machine.gpus:
        return f'{cores}, no GPU: a "gpu" of the scenario is one core'
    return f"{machine.gpus} x {machine.gpu_name or 'GPU'}, {cores}"


def engine_in_words(cell: Cell, gpu_name: str = "") -> str:
    """Return such as "2 CPU cores", "16 simulated CPU cores" or "4 x NVIDIA A100"."""
    simulated = "simulated " if cell.engine == "virtual" else ""
    elsewhere = cell.cluster["device"] if simulated else None
    if elsewhere:
        chip = cell.cluster.get("chip") or ("device" if cell.gpus == 1 else "devices")
        return f"{cell.gpus} simulated {chip}"
    if cell.device == "cpu":
        threads = f" x {cell.threads_per_device}" if cell.threads_per_device > 1 else ""
        words = _several(cell.gpus, f"{simulated}CPU core", threads)
    else:
        words = f"{cell.gpus} x {simulated}{gpu_name or 'GPU'}"
    return words + (" (oversubscribed)" if cell.oversubscribed else "")


def _several(number: int, noun: str, times: str = "") -> str:
    plural = "s" if number != 1 or times else ""
    return f"{number}{times} {noun}{plural}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text under a head, columns aligned on the left."""
    rows = list(rows)
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(_aligned(row, widths) for row in (head, *rows))


def _aligned(row: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def show_path(path: Sequence[str | int]) -> str:
    """Write a key path as TOML does; positions in a list are left to the line number."""
    keys = [part for part in path if isinstance(part, str)]
    return ".".join(key if _BARE_KEY.fullmatch(key) else f'"{key}"' for key in keys)


def show(value: object) -> str:
    """Write a value as TOML does, and what is not set as "none", which TOML cannot say."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {show(item)}" for key, item in value.items()) + " }"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(show(item) for item in value) + "]"
    if isinstance(value, (str, bool)):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
