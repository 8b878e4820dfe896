"""A link as a scenario writes it: by name, by rate, by its parts, or by a file of measurements."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.core.errors import one_of
from harness.core.units import RATE_FORMS, parse_rate, parse_seconds
from harness.costs.catalogue import LATENCY_S

LINK_FORMS = (
    f'a link such as "infiniband-hdr" (`harness plugins` lists them), {RATE_FORMS}, {{ bandwidth = "25 Gb/s", '
    'latency = "3 us" }, { nominal = "16 GB/s", medium = "pcie" }, '
    '{ bus_bandwidth = { 2 = "22 GB/s", 8 = "134 GB/s" } } or { table = "all_reduce.csv" }'
)

_SOURCES = ("name", "bandwidth", "nominal", "table")
_SHAPES = ("bus_bandwidth", "graph", "groups_of")
_GROUP = re.compile(r"[2-9]|[1-9][0-9]{1,8}")


@dataclass(frozen=True)
class WrittenGroup:
    """What a ring over some devices gets; the latency is the link's where it is None."""

    bandwidth_bytes_per_s: float
    latency_s: float | None = None


@dataclass(frozen=True)
class WrittenLink:
    """A link in its parts; what is empty follows from its medium, or from where the link is.

    Attributes:
        name: in the catalogue.
        bandwidth_bytes_per_s: what messages get of it; beside a table or `bus_bandwidth`, single ones.
        nominal_bytes_per_s: what it is sold with; messages get the share that is usual for the medium.
        medium: what the latency follows from, and that share.
        adapters: so many of these side by side, in each node.
        shared_by: devices that share one of these.
        bus_bandwidth: measured, by group size.
        graph: pairs of devices and the number of links between them, each of the rate given.
        groups_of: neighbours that reach each other at the rate given, with one link to each other group.
        between_bytes_per_s: rate of that link; nominal where that of the links inside groups is.
        table, gpu: a file of measured all-reduces, and which rows of it to take.
    """

    name: str = ""
    bandwidth_bytes_per_s: float | None = None
    nominal_bytes_per_s: float | None = None
    medium: str = ""
    latency_s: float | None = None
    adapters: int = 1
    shared_by: int = 1
    bus_bandwidth: Mapping[int, WrittenGroup] = field(default_factory=dict)
    graph: tuple[tuple[int, int, int], ...] = ()
    groups_of: int = 0
    between_bytes_per_s: float | None = None
    table: str = ""
    gpu: str | None = None


def read_link(value: object) -> WrittenLink | None:
    """Accept a link in any of its forms.

    Raises:
        ValueError: it is none of them; the message lists them.
    """
    if value is None or isinstance(value, WrittenLink):
        return value
    if isinstance(value, str) and value[:1].isalpha():
        return WrittenLink(value)
    if isinstance(value, str):
        return WrittenLink(bandwidth_bytes_per_s=_rate(value))
    if not isinstance(value, Mapping) or not set(value) <= set(_PARTS):
        raise ValueError(LINK_FORMS)
    _refuse_combinations(value)
    found = {_PARTS[key][0]: part(key, _PARTS[key][1], value) for key in value}
    return WrittenLink(**found)


def _refuse_combinations(value: Mapping[str, object]) -> None:
    sources, shapes = set(_SOURCES) & set(value), set(_SHAPES) & set(value)
    beside = {"table", "bandwidth"}  # a link by its sends, and its all-reduces as they were measured
    if (len(sources) > 1 and sources != beside) or len(shapes) > 1 or not (sources or "bus_bandwidth" in shapes):
        raise ValueError(LINK_FORMS)
    single = {"bandwidth", "latency"} if sources == beside else set()
    allowed = {"table": {"table", "gpu", *single}, "name": {"name", "adapters", "shared_by", "latency", *_SHAPES}}
    for source in sources & set(allowed):
        if extra := sorted(set(value) - allowed[source] - {"between_groups"}):
            raise ValueError(f"{extra[0]}: not beside {source}; {LINK_FORMS}")
    if "nominal" in value and "medium" not in value:
        raise ValueError(f"nominal needs a medium beside it: {', '.join(LATENCY_S)}")
    if "gpu" in value and "table" not in value:
        raise ValueError(LINK_FORMS)
    if ("between_groups" in value) != ("groups_of" in value):
        raise ValueError("groups_of and between_groups belong together: { ..., groups_of = 2, between_groups = RATE }")


def _rate(value: object) -> float:
    rate = parse_rate(value)
    if rate <= 0:
        raise ValueError("a rate above 0")
    return rate


def _medium(value: object) -> str:
    if isinstance(value, str) and value in LATENCY_S:
        return value
    raise ValueError(one_of(value if isinstance(value, str) else "", list(LATENCY_S)))


def _text(value: object) -> str:
    if isinstance(value, str) and value.strip():
        return value
    raise ValueError("text in quotes")


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError("a whole number, at least 1")
    return value


def _groups(value: object) -> dict[int, WrittenGroup]:
    """Accept bus bandwidths by group size, which TOML writes as keys."""
    if not isinstance(value, Mapping) or not value or not all(map(_GROUP.fullmatch, value)):
        raise ValueError('bus bandwidths by group size: { 2 = "22 GB/s", 8 = "134 GB/s" }')
    return {int(size): part(size, _group, value) for size in sorted(value, key=int)}


def _group(value: object) -> WrittenGroup:
    if not isinstance(value, Mapping):
        return WrittenGroup(_rate(value))
    if set(value) != {"bandwidth", "latency"}:
        raise ValueError('a rate, or { bandwidth = "22 GB/s", latency = "12 us" }')
    return WrittenGroup(part("bandwidth", _rate, value), part("latency", parse_seconds, value))


def _graph(value: object) -> tuple[tuple[int, int, int], ...]:
    entries = value if isinstance(value, list) else []
    whole = [
        isinstance(entry, list)
        and len(entry) == 3
        and all(isinstance(number, int) and not isinstance(number, bool) and number >= 0 for number in entry)
        and entry[0] != entry[1]
        for entry in entries
    ]
    if not whole or not all(whole):
        raise ValueError("pairs of devices and the number of links between them: [[0, 1, 2], [0, 2, 1]]")
    return tuple((first, second, links) for first, second, links in entries)


def part(key: str, check: Callable[[object], Any], table: Mapping[str, object]) -> Any:
    """Return one key of a table, checked; what is wrong begins with the key."""
    try:
        return check(table[key])
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


_PARTS: Mapping[str, tuple[str, Callable[[object], object]]] = {
    "name": ("name", _text),
    "bandwidth": ("bandwidth_bytes_per_s", _rate),
    "nominal": ("nominal_bytes_per_s", _rate),
    "medium": ("medium", _medium),
    "latency": ("latency_s", parse_seconds),
    "adapters": ("adapters", _count),
    "shared_by": ("shared_by", _count),
    "bus_bandwidth": ("bus_bandwidth", _groups),
    "graph": ("graph", _graph),
    "groups_of": ("groups_of", _count),
    "between_groups": ("between_bytes_per_s", _rate),
    "table": ("table", _text),
    "gpu": ("gpu", _text),
}
