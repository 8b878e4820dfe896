"""Figures and points as words. Imports the standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from harness.analysis.points import Point, Row


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that people would choose."""
    for limit, unit, size in ((1e-3, "us", 1e-6), (1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0)):
        if seconds < limit:
            return f"{three(seconds / size)} {unit}" if seconds else "0 ms"
    return f"{three(seconds / 3600)} h"


def devices_in_words(row: Row, gpus: int | None = None) -> str:
    """Return such as "2 CPU cores", "4 simulated CPU cores" or "1 GPU"; of another number of them if given."""
    count = int(row["gpus"]) if gpus is None else gpus
    noun = "CPU core" if row.get("device") == "cpu" else "GPU"
    simulated = "simulated " if row["engine"] == "virtual" else ""
    return f"{count} {simulated}{noun}" + ("s" if count != 1 else "")


def three(value: float) -> str:
    """Write a number with three digits and without an exponent."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def times(value: float) -> str:
    """Write a factor with as many digits as a reader keeps, such as "1.5" or "12"."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def percent(share: float) -> str:
    """Write a share in percent with as many digits as a reader keeps, such as "1.4 %", "25 %" or "130 %"."""
    value = 100 * share
    return f"{value:,.0f} %" if abs(value) >= 99.5 else f"{value:.2g} %"


def rate(value: float) -> str:
    """Write samples per second."""
    return f"{three(value)} samples/s"


def cells(count: int) -> str:
    """Return such as "1 cell" or "3 cells"."""
    return f"{count} cell" + ("s" if count != 1 else "")


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return such as "a, b and c"; empty for nothing."""
    *first, end = [*words] or [""]
    return f"{', '.join(first)} {last} {end}" if first else end


def escaped(text: str) -> str:
    """Return a text in which Markdown takes nothing for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def label(point: Point) -> str:
    """Return a point in words: strategy, devices and setting."""
    return f"{point.strategy} on {devices_in_words(point.row)} ({setting(point)})"


def setting(point: Point) -> str:
    """Return batch, learning rate and what else tells a point from its like; timing-only cells have no rate."""
    return ", ".join(_settings(point))


def differs(point: Point, other: Point) -> str:
    """Return a name that tells a point from another: its strategy, else its devices, else the settings that differ."""
    if point.strategy != other.strategy:
        return point.strategy
    if point.gpus != other.gpus:
        return f"{point.strategy} on {point.gpus}"
    others = _settings(other)
    return ", ".join(words for words in _settings(point) if words not in others) or "the other"


def _settings(point: Point) -> list[str]:
    row = point.row
    at = f"learning rate {row['learning_rate']:g}" if row["learning_rate"] else ""
    parts = [f"global batch {row['global_batch_size']}", micro_batch(row), at, *point.details.split(", ")]
    return [part for part in parts if part]


def micro_batch(row: Row) -> str:
    """Return the micro-batch in words where it is not the whole batch."""
    micro = row.get("micro_batch_size")
    return f"micro-batch {micro}" if micro and micro != row.get("batch_size") else ""


def unit(point: Point) -> str:
    """A step, or an update where workers take theirs in turn: then time per update is what can be compared."""
    return "an update" if point.row.get("synchrony") == "asynchronous" else "a step"


def real(point: Point) -> bool:
    """Say whether a point was measured, not simulated."""
    return bool(point.row["engine"] != "virtual")
