"""What points are called."""

from __future__ import annotations

from harness.analysis.points import Point, Row
from harness.core.words import counted


def devices_in_words(row: Row, gpus: int | None = None) -> str:
    """Return such as "2 CPU cores", "4 simulated CPU cores" or "1 GPU"; of another number of them if given."""
    count = int(row["gpus"]) if gpus is None else gpus
    noun = "CPU core" if row.get("device") == "cpu" else "GPU"
    simulated = "simulated " if row["engine"] == "virtual" else ""
    return counted(count, f"{simulated}{noun}")


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
