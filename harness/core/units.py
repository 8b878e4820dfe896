"""Quantities as people write them: "25 Gb/s" (bits), "3.1 GB/s", "16 GiB", "3 us", "15 min".

Inside the harness everything is bytes, bytes per second and seconds; only what a user writes or reads has a unit.
Reading stands here, writing in `words`.
"""

from __future__ import annotations

import math
import re

MIB, GIB = 2**20, 2**30
GIGA, TERA = 1e9, 1e12
SECONDS_PER_HOUR = 3600.0

SECONDS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_DECIMAL = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50}
DECIMAL_BYTES = {f"{prefix}B": float(factor) for prefix, factor in _DECIMAL.items()}
BINARY_BYTES = {f"{prefix}B": float(factor) for prefix, factor in _BINARY.items()}
BYTES = DECIMAL_BYTES | BINARY_BYTES
BYTES_PER_S = {f"{unit}/s": factor for unit, factor in BYTES.items()} | {
    f"{prefix}b/s": factor / 8 for prefix, factor in _DECIMAL.items()
}
# Networks are sold in "Gbit/s" and "Gbps" too. "GBps" is left out: one letter's case would hide a factor of 8.
_BITS_SPELT = {f"{prefix}{tail}": factor / 8 for prefix, factor in _DECIMAL.items() for tail in ("bit/s", "bps")}
_SPELT = {"µs": 1e-6, "μs": 1e-6, "sec": 1.0, "minutes": 60.0, "hours": 3600.0}

SECONDS_FORMS = 'a time such as "3 us", "312 ms", "90 s", "15 min" or "2 h"'
BYTES_FORMS = 'a size in bytes such as "16 GB" (10^9), "16 GiB" (2^30) or "512 MiB"'
RATE_FORMS = 'a rate such as "25 Gb/s" (bits), "3.1 GB/s" (bytes) or "800 MiB/s"'

_QUANTITY = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)((?:[eE][+-]?[0-9]+)?)\s*([^\d\s].*?)\s*")


def parse_seconds(value: object) -> float:
    """Return the seconds in a time such as "15 min".

    Raises:
        ValueError: it is not such a text; the message lists the accepted forms.
    """
    return _parse(value, SECONDS | _SPELT, SECONDS_FORMS)


def parse_bytes(value: object) -> float:
    """Return the bytes in a size such as "16 GB" or "16 GiB".

    Raises:
        ValueError: it is not such a text; the message lists the accepted forms.
    """
    return _parse(value, BYTES, BYTES_FORMS)


def parse_rate(value: object) -> float:
    """Return the bytes per second in a rate such as "25 Gb/s" (bits) or "3.1 GB/s" (bytes).

    Raises:
        ValueError: it is not such a text; the message lists the accepted forms.
    """
    return _parse(value, BYTES_PER_S | _BITS_SPELT, RATE_FORMS)


def _parse(value: object, units: dict[str, float], forms: str) -> float:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{forms}; in quotes, with a unit")
    mantissa, exponent, unit = match.groups()
    if unit not in units:
        raise ValueError(f"{forms}; {unit!r} is not one of these units{_meant(unit, units)}")
    amount = float(mantissa + exponent) * units[unit]
    if not math.isfinite(amount):
        raise ValueError(f"{forms}; this value is too large")
    return amount


def _meant(unit: str, units: dict[str, float]) -> str:
    matches = [known for known in units if known.lower() == unit.lower()]
    return f"; did you mean {' or '.join(matches)}?" if matches else ""
