"""Measured all-reduces from a file: a CSV with columns n, bytes and seconds, or what nccl-tests prints."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from harness.core.outside_files import csv_rows, read_outside
from harness.costs.cells.nccl_tests import read_runs
from harness.costs.profiles.cluster_figures import LinkFigures, MeasuredTable

FORMS = "columns gpu, n, bytes and seconds, or the output of nccl-tests' all_reduce_perf"


def read_tables(path: Path, gpu: str | None = None) -> dict[int, MeasuredTable]:
    """Return the all-reduces of a file by group size, bytes rising.

    Args:
        path: the file.
        gpu: which rows of a CSV to take, by its column of that name; needed only where there are several.

    Raises:
        ValueError: it cannot be read or holds no such table; the message says what is allowed.
    """
    try:
        content = read_outside(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    rows = list(_printed(path) if b"# " in content else _columns(content, gpu, path))
    found: dict[int, dict[float, float]] = {}
    for ranks, num_bytes, seconds in rows:
        if ranks > 1 and 0 < num_bytes < math.inf and 0 < seconds < math.inf:
            found.setdefault(ranks, {})[num_bytes] = seconds
    if not found:
        raise ValueError(f"{path} has no measured all-reduce; expected {FORMS}")
    return {ranks: tuple(sorted(points.items())) for ranks, points in sorted(found.items())}


def _columns(content: bytes, gpu: str | None, path: Path) -> Iterator[tuple[int, float, float]]:
    try:
        rows = csv_rows(content)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read: {error}") from None
    if not rows or not {"n", "bytes", "seconds"} <= set(rows[0]):
        raise ValueError(f"{path} is not a table of all-reduces; expected {FORMS}")
    names = list(dict.fromkeys(row.get("gpu") or "" for row in rows))
    if gpu is None and len(names) > 1:
        raise ValueError(f'{path} has tables of several GPUs: add gpu = "{names[0]}" (or {", ".join(names[1:])})')
    if gpu is not None and gpu not in names:
        raise ValueError(f"{path} has no gpu {gpu!r}; write one of {', '.join(names)}")
    for row in rows:
        if gpu is None or row.get("gpu") == gpu:
            try:
                yield int(row["n"]), float(row["bytes"]), float(row["seconds"])
            except (TypeError, ValueError):
                raise ValueError(f"{path}: this row is not numbers: {row}; expected {FORMS}") from None


def _printed(path: Path) -> Iterator[tuple[int, float, float]]:
    for run in read_runs(path, "all-reduce"):
        for num_bytes, seconds in run.times.table:
            yield run.times.ranks, num_bytes, seconds


def fitted_link(ranks: int, table: MeasuredTable) -> LinkFigures:
    """Return the latency and bandwidth of a ring that takes as long as the table's first and last row.

    Source: Patarasuk and Yuan 2009, "Bandwidth Optimal All-reduce Algorithms", section 3: 2 (n - 1) messages of 1/n.
    """
    (least, first_s), (most, last_s) = table[0], table[-1]
    messages = 2 * (ranks - 1)
    if most == least:
        return LinkFigures(0.0, messages * most / ranks / last_s)
    slope = max((last_s - first_s) / (most - least), last_s / most * 1e-3)
    return LinkFigures(max(0.0, first_s - slope * least) / messages, messages / ranks / slope)
