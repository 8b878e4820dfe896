"""What points are called."""

from __future__ import annotations

from harness.analysis.points import Point, Row
from harness.core.text import Text
from harness.core.words import counted


def device_noun(row: Row) -> str:
    """Return such as "CPU core" or "simulated GPU"."""
    simulated = "simulated " if row["engine"] == "virtual" else ""
    return f"{simulated}{'CPU core' if row.get('device') == 'cpu' else 'GPU'}"


def devices_in_words(row: Row, gpus: int | None = None) -> str:
    """Return such as "2 CPU cores", "4 simulated CPU cores" or "1 GPU"; of another number of them if given."""
    return counted(int(row["gpus"]) if gpus is None else gpus, device_noun(row))


def on_devices(row: Row) -> str:
    """Return such as "async-ps on 2 CPU cores"."""
    return f"{row['strategy']} on {devices_in_words(row)}"


def label(point: Point) -> str:
    """Return a point in words: strategy, devices and setting."""
    return f"{on_devices(point.row)} ({setting(point)})"


def setting(point: Point) -> str:
    """Return batch, learning rate and what else tells a point from its like; of speed alone no rate decides."""
    return ", ".join(_settings(point))


def differs(point: Point, other: Point) -> str:
    """Return a name that separates a point from another: strategy, else devices, else the settings that differ."""
    if point.strategy != other.strategy:
        return point.strategy
    if point.gpus != other.gpus:
        return f"{point.strategy} on {point.gpus}"
    others = _settings(other)
    return ", ".join(words for words in _settings(point) if words not in others) or "the other"


def in_full(point: Point, other: Point) -> str:
    """Return a name that separates a point from another and begins a sentence."""
    alike = point.strategy == other.strategy and point.gpus == other.gpus
    return differs(point, other) if alike else on_devices(point.row)


def _settings(point: Point) -> list[str]:
    row = point.row
    at = f"learning rate {row['learning_rate']:g}" if row["learning_rate"] and point.by_target else ""
    parts = [f"global batch {row['global_batch_size']}", micro_batch(row), at, *point.varied]
    return [part for part in parts if part]


def micro_batch(row: Row) -> str:
    """Return the micro-batch in words where it is not the whole batch."""
    micro = row.get("micro_batch_size")
    return f"micro-batch {micro}" if micro and micro != row.get("batch_size") else ""


def unit(point: Point) -> str:
    """A step, or an update where workers take theirs in turn: then time per update is what can be compared."""
    return "update" if point.row.get("synchrony") == "asynchronous" else "step"


def sentences(*lines: str) -> Text:
    """Join sentences; empty ones are left out."""
    return Text(" ".join(filter(None, lines)))


def real(point: Point) -> bool:
    """Say whether a point was measured, not simulated."""
    return bool(point.row["engine"] != "virtual")
