"""How numbers, sizes, times, counts, tables and values of a scenario are written for people: every form, once.

Two kinds of numbers are written. What somebody wrote himself, or could write in a scenario, keeps all its digits
(`exact_*`, `show`); what was measured or computed has three digits, or two where it is a share or a factor.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence

from harness.core.units import BINARY_BYTES, DECIMAL_BYTES, SECONDS

# -- numbers -----------------------------------------------------------------------------------------------------------


def three(value: float) -> str:
    """Write a measured number with three digits and without an exponent: "20.0", "1,235"."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    if value >= 999.5:
        return f"{value:,.0f}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def figure(value: float, digits: int = 3) -> str:
    """Write a configured or counted number with at most so many digits: "20", "0.333", "1,235"."""
    return f"{value:,.0f}" if abs(value) >= 10**digits - 0.5 else f"{value:.{digits}g}"


def times(value: float) -> str:
    """Write a factor with as many digits as a reader keeps, such as "1.5" or "12"."""
    return f"{value:.2g}" if value < 10 else f"{value:,.0f}"


def share_in_percent(share: float) -> str:
    """Write a share of a whole, 0.25, with as many digits as a reader keeps: "25 %", "1.4 %", "130 %"."""
    value = 100 * share
    return f"{value:,.0f} %" if abs(value) >= 99.5 else f"{value:.2g} %"


def change_in_percent(factor: float) -> str:
    """Write a factor between two values, 1.05, as the change that it makes: "+5.0 %"; from 10 on as it is: "69.2x"."""
    return f"{100 * (factor - 1):+.1f} %" if factor < 10 else f"{factor:.3g}x"


def recorded(value: object) -> str:
    """Write a value of a record: a float with six digits, yes or no, nothing for what was not measured."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def counted(count: int, noun: str, plural: str = "") -> str:
    """Return such as "1 cell" or "3 cells".

    Args:
        plural: of a noun that takes more than an "s".
    """
    return f"{count:,} {noun if count == 1 else plural or f'{noun}s'}"


# -- times, sizes and rates --------------------------------------------------------------------------------------------


def duration(seconds: float) -> str:
    """Write a duration with three digits and the unit that people would choose."""
    for limit, unit, size in ((1e-3, "us", 1e-6), (1.0, "ms", 1e-3), (120.0, "s", 1.0), (7200.0, "min", 60.0)):
        if seconds < limit:
            return f"{three(seconds / size)} {unit}" if seconds else "0 ms"
    return f"{three(seconds / 3600)} h"


def memory_size(num_bytes: float) -> str:
    """Write an amount of memory in binary units, with at most three digits: "79.2 GiB"."""
    unit_bytes, unit = byte_unit(abs(num_bytes))
    return f"{figure(num_bytes / unit_bytes)} {unit}"


def rate(samples_per_s: float) -> str:
    """Write samples per second."""
    return f"{three(samples_per_s)} samples/s"


def bandwidth(bytes_per_s: float, digits: int = 3) -> str:
    """Write what a link inside a node or a memory carries, in at most decimal gigabytes per second: "3.1 GB/s"."""
    unit = _largest(min(bytes_per_s, 1e9), DECIMAL_BYTES)
    return f"{figure(bytes_per_s / DECIMAL_BYTES[unit], digits)} {unit}/s"


def bit_rate(bytes_per_s: float, digits: int = 3) -> str:
    """Write what a network carries, as networks are sold: "25 Gb/s"."""
    return f"{figure(bytes_per_s * 8 / 1e9, digits)} Gb/s"


def parameters(count: float) -> str:
    """Write how many parameters a model has, as its name would: "7.2B"."""
    factor, unit = next((pair for pair in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if count >= pair[0]), (1.0, ""))
    return f"{count / factor:.4g}{unit}"


def exact_duration(seconds: float, digits: int = 12) -> str:
    """Write a time as a scenario could, in the largest unit of which there is at least one."""
    return _exact(seconds, SECONDS, digits)


def exact_size(num_bytes: float) -> str:
    """Write a size as a scenario could: in binary units where it is a whole number of the largest that fits."""
    fitting = [unit for unit, unit_bytes in BINARY_BYTES.items() if num_bytes >= unit_bytes]
    if fitting and num_bytes % BINARY_BYTES[fitting[-1]] == 0:
        return _exact(num_bytes, BINARY_BYTES)
    return _exact(num_bytes, DECIMAL_BYTES)


def exact_bandwidth(bytes_per_s: float) -> str:
    """Write a rate as a scenario could, in decimal bytes per second."""
    return f"{_exact(bytes_per_s, DECIMAL_BYTES)}/s"


def time_unit(largest_s: float) -> tuple[float, str]:
    """Return (seconds in the unit, its name) for an axis that reaches this far."""
    for limit, unit in ((1e-3, "us"), (1.0, "ms"), (300.0, "s"), (18000.0, "min")):
        if largest_s < limit:
            return SECONDS[unit], unit
    return SECONDS["h"], "h"


def byte_unit(largest: float) -> tuple[float, str]:
    """Return (bytes in the unit, its name) for an axis that reaches this far."""
    for unit in ("GiB", "MiB", "KiB"):
        if largest >= BINARY_BYTES[unit]:
            return BINARY_BYTES[unit], unit
    return 1.0, "bytes"


def _exact(amount: float, units: Mapping[str, float], digits: int = 12) -> str:
    unit = _largest(amount, units)
    return f"{_shortest(float(f'{amount / units[unit]:.{digits}g}'))} {unit}"


def _largest(amount: float, units: Mapping[str, float]) -> str:
    """Return the largest unit of which there is at least one, else the smallest; of nothing the plain one."""
    fitting = [unit for unit, size in units.items() if abs(amount) >= size]
    if amount == 0:
        return min(units, key=lambda unit: abs(units[unit] - 1))
    return max(fitting, key=units.__getitem__) if fitting else min(units, key=units.__getitem__)


def _shortest(number: float) -> str:
    """Write a number so that a 12-digit one survives, without the noise of binary fractions or an exponent."""
    text = f"{number:.12g}"
    return text if "e" not in text else repr(number)


# -- lists and tables --------------------------------------------------------------------------------------------------


def in_short(numbers: Sequence[int]) -> str:
    """Write 0 1 2 3 4 7 as 0-4 7: three and more that follow each other by their ends."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else " ".join(map(str, run)) for run in runs)


def listed(words: Iterable[str], last: str = "and") -> str:
    """Return such as "a, b and c"; empty for nothing."""
    *first, end = [*words] or [""]
    return f"{', '.join(first)} {last} {end}" if first else end


def aligned(rows: Iterable[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Return rows of text as lines whose columns stand below each other.

    Args:
        right: columns aligned on the right, as numbers are.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if place in right else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows of text under a head, columns aligned on the left."""
    return "\n".join(aligned([head, *rows]))


def escaped(text: str) -> str:
    """Return a text, in one line, in which Markdown takes nothing for markup."""
    return re.sub(r"([\\`*_{}\[\]<>#|~])", r"\\\1", re.sub(r"\s+", " ", text))


def fenced(lines: Sequence[str]) -> list[str]:
    """Return lines as Markdown shows them literally: behind more backticks than any of them has; nothing for none."""
    longest = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, longest + 1)
    return [fence, *lines, fence] if lines else []


_SHOWN = 200
"""Characters of somebody's value that a message repeats; chosen: two lines."""


def shortened(text: str, most: int = _SHOWN) -> str:
    """Return a text as a message repeats it: where it is longer, its beginning and how long it is."""
    return text if len(text) <= most else f"{text[:most]}... ({len(text):,} characters)"


# -- values and keys of a scenario -------------------------------------------------------------------------------------

_MOST_BITS = 1024
"""Of a whole number that is written in decimal; chosen: no float is larger."""

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
    # Python writes whole numbers of thousands of digits in no other system.
    return hex(value) if isinstance(value, int) and value.bit_length() > _MOST_BITS else str(value)


def varied_settings(given: Iterable[tuple[str, Mapping[str, object]]]) -> set[tuple[str, str]]:
    """Return (strategy, setting) where cells of one strategy differ in it: only that is worth a place in their names.

    Args:
        given: the strategy of each cell, with its settings.
    """
    seen: dict[tuple[str, str], set[str]] = {}
    for strategy, settings in given:
        for key, value in settings.items():
            seen.setdefault((strategy, key), set()).add(show(value))
    return {name for name, values in seen.items() if len(values) > 1}
