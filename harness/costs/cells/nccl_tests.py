"""What nccl-tests and rccl-tests print, read: a table for every run in a file, whatever the version.

A run is a line for each rank, a head that names the columns, their units, and a row for each size:

    # Collective test starting: all_reduce_perf                              from version 2.17 on
    #  Rank  0 Group  0 Pid   1234 on     node-a device  0 [0000:07:00] NVIDIA H100
    #    size    count    type  redop  root    time  algbw  busbw #wrong    time  algbw  busbw #wrong
    #     (B) (elements)                       (us) (GB/s) (GB/s)           (us) (GB/s) (GB/s)
      8388608  2097152   float    sum    -1  100.00  83.89  83.89      0  101.00  83.06  83.06      0

Older versions leave out `root`, `redop` or `Group` and call #wrong "error"; others add a time of day or more columns at
the end of a row. Columns are found by their names, the first `time` being out of place and the second in place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.core.given_cluster import MeasuredTable
from harness.core.outside_files import LARGEST_WHOLE, read_outside
from harness.costs.profiles.exchange_times import BUS_SHARES, ExchangeTimes, bus_factor

NCCL_TESTS = {
    "sendrecv": "send",
    "all_reduce": "all-reduce",
    "all_gather": "all-gather",
    "reduce_scatter": "reduce-scatter",
    "alltoall": "all-to-all",
    "broadcast": "broadcast",
    "reduce": "reduce",
}
"""Programs of nccl-tests, without "_perf", and what they measure; gather, scatter and hypercube are not read."""

PRINTED = "the text that all_reduce_perf, sendrecv_perf or another test of nccl-tests prints"

LEAST_S, MOST_S = 1e-12, 1e9
"""Between which a time can be meant; chosen: far below a clock's tick, and a lifetime."""

_HALF_DIGIT = 0.005
"""GB/s that a printed bandwidth may be off: two digits behind the point."""

_TOLERANCE = 0.01
"""Between the printed ratio of bandwidths and the one that follows, beyond what rounding explains; chosen."""

_COARSEST = 0.15
"""Relative rounding above which a ratio says nothing; chosen: the factors of two exchanges over 2 or 3 ranks
differ by a third and more."""

_LAUNCHER = re.compile(r"^\s*(?:\[\d+,\d+\]<\w+>:?|\d+:)\s?")
"""What `mpirun --tag-output` and `srun --label` put before every line."""

_RANK = re.compile(r"^#\s*Rank\s+(\d+)\s+(?:Group\s+(\d+)\s+)?Pid\s+\d+\s+on\s+(\S+)")
_NAME = re.compile(r"^#\s*Collective test starting:\s*(?:\S*/)?(\w+?)_perf")


@dataclass
class _Run:
    """One run while it is read."""

    program: str = ""
    ranks: list[tuple[int, int, str]] = field(default_factory=list)
    head: list[str] = field(default_factory=list)
    unit: str = "(us)"
    rows: list[tuple[int, list[str]]] = field(default_factory=list)


@dataclass(frozen=True)
class PrintedRun:
    """One run as it was printed.

    Attributes:
        times: out of place: from one buffer into another.
        in_place: (bytes, seconds) with one buffer for both; empty where the test has none.
        wrong: values that the test found to be wrong.
    """

    times: ExchangeTimes
    in_place: MeasuredTable = ()
    wrong: int = 0


def read_runs(path: Path, exchange: str = "") -> list[PrintedRun]:
    """Return what every run in a file measured.

    Args:
        exchange: what the file is of, a value of `NCCL_TESTS`; default: what it says, or what alone fits its columns.

    Raises:
        ValueError: it cannot be read, holds no such table, or does not say what it is of; the message says what to do.
    """
    try:
        content = read_outside(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    found = [_finished(run, path, exchange) for run in _runs(content.decode(errors="replace").splitlines()) if run.rows]
    if not found:
        raise ValueError(f"{path} has no table of nccl-tests; expected {PRINTED}")
    return found


def _runs(lines: Sequence[str]) -> Iterator[_Run]:
    run = _Run()
    for number, raw in enumerate(lines, start=1):
        line = _LAUNCHER.sub("", raw).strip()
        words = line.lstrip("#").split()
        if line.startswith("#"):
            name, rank = _NAME.match(line), _RANK.match(line)
            # A test that says its name does so before "nThread"; both begin a run, but not two of them.
            if (name or words[:1] == ["nThread"]) and (run.ranks or run.rows):
                yield run
                run = _Run()
            if name:
                run.program = name[1]
            elif rank:
                run.ranks.append((int(rank[1]), int(rank[2] or 0), rank[3]))
            elif words[:2] == ["size", "count"]:
                run.head = words
            elif words[:1] == ["(B)"] and len(words) > 2:
                run.unit = words[2]
        elif run.head and [word.isdigit() for word in words[:2]] == [True, True]:
            run.rows.append((number, words))
    yield run


def _finished(run: _Run, path: Path, exchange: str) -> PrintedRun:
    group = min(number for _, number, _ in run.ranks) if run.ranks else 0
    ranks = [(rank, host) for rank, number, host in run.ranks if number == group]
    hosts = tuple(dict.fromkeys(host for _, host in ranks))
    if len({rank for rank, _ in ranks}) < len(ranks):
        raise ValueError(
            f"{path}: rank {ranks[0][0]} stands in it several times, so every process measured itself alone; build "
            "nccl-tests with MPI=1"
        )
    if len(ranks) < 2:
        raise ValueError(f"{path} is of {len(ranks) or 'no'} rank: nothing was sent; run the test over at least two")
    if run.unit != "(us)":
        raise ValueError(f"{path}: its times are in {run.unit}; nccl-tests prints (us)")
    places = [at for at, word in enumerate(run.head) if word in ("time", "cputime")]
    if not places:
        raise ValueError(f"{path}: its columns are {' '.join(run.head)}, and none is the time; expected {PRINTED}")
    table = _table(run, path, places[0])
    what = _stated(exchange or NCCL_TESTS.get(run.program, ""), run, len(ranks), path)
    second = _table(run, path, places[1]) if len(places) > 1 and what not in ("send", "all-to-all") else ()
    wrong = sum(_wrong(words, run.head, f"{path}, line {number}") for number, words in run.rows)
    return PrintedRun(ExchangeTimes(what, len(ranks), len(hosts), table, hosts), second, wrong)


def _table(run: _Run, path: Path, at: int) -> MeasuredTable:
    """Return the times of one column by size; of a size that was measured several times the least."""
    found: dict[float, float] = {}
    for number, words in run.rows:
        try:
            num_bytes, seconds = float(words[0]), float(words[at]) * 1e-6
        except (ValueError, IndexError):
            raise ValueError(f"{path}, line {number}: no time where the head has one; expected {PRINTED}") from None
        # Below 8 bytes a rank's part of some tests is nothing, and a line without times has none.
        if 0 < num_bytes <= LARGEST_WHOLE and LEAST_S < seconds < MOST_S:
            found[num_bytes] = min(seconds, found.get(num_bytes, math.inf))
    if not found:
        raise ValueError(f"{path}: none of its {len(run.rows)} rows has a size and a time above 0")
    return tuple(sorted(found.items()))


def _stated(said: str, run: _Run, ranks: int, path: Path) -> str:
    """Return what a run measured, held against its own bus bandwidth.

    Raises:
        ValueError: nothing or several fit, or what is said does not.
    """
    if run.program and run.program not in NCCL_TESTS and not said:
        raise ValueError(f"{path} is of {run.program}_perf, which is not read; {', '.join(NCCL_TESTS)} are")
    if (printed_name := NCCL_TESTS.get(run.program, said)) != said:
        raise ValueError(f"{path} is of {printed_name} ({run.program}_perf), not of {said}")
    redop, printed = _column(run, "redop"), _ratio(run)
    fitting = [name for name in BUS_SHARES if printed is None or printed.fits(bus_factor(name, ranks))]
    if said:
        if printed is not None and said not in fitting:
            right, fits = bus_factor(said, ranks), " and ".join(fitting) or "nothing"
            raise ValueError(
                f"{path} is not of {said}: its bus bandwidth is {printed.ratio:.3g} times its algorithm bandwidth, and "
                f"over {ranks} ranks {right:.3g} is right; it fits {fits}"
            )
        return said
    if redop:
        sums = ("all-reduce", "reduce-scatter", "reduce", "send")  # sendrecv_perf prints "sum" too
        fitting = [name for name in fitting if (name in sums) == (redop != "none")]
    rooted = _column(run, "root") not in ("", "-1")
    fitting = [name for name in fitting if (name in ("broadcast", "reduce")) == rooted]
    if len(fitting) != 1:
        how = " or ".join(f"--import {name}={path}" for name in fitting or ["all-reduce"])
        raise ValueError(
            f"{path} does not say what it is of, and its columns fit {' and '.join(fitting) or 'nothing'}; nccl-tests "
            f"says so from version 2.17 on. Write {how}"
        )
    return fitting[0]


def _column(run: _Run, name: str) -> str:
    at = run.head.index(name) if name in run.head else -1
    return run.rows[0][1][at] if 0 <= at < len(run.rows[0][1]) else ""


@dataclass(frozen=True)
class _Ratio:
    """Bus bandwidth by algorithm bandwidth, and how far rounding may have moved it, relative."""

    ratio: float
    rounding: float

    def fits(self, factor: float) -> bool:
        return abs(factor / self.ratio - 1) < self.rounding + _TOLERANCE


def _ratio(run: _Run) -> _Ratio | None:
    """Return what the largest row says; None where too few digits are printed."""
    try:
        algorithm, bus = (float(run.rows[-1][1][run.head.index(name)]) for name in ("algbw", "busbw"))
    except (ValueError, IndexError):
        return None
    if min(algorithm, bus) <= 0 or (rounding := _HALF_DIGIT / algorithm + _HALF_DIGIT / bus) > _COARSEST:
        return None
    return _Ratio(bus / algorithm, rounding)


def _wrong(words: Sequence[str], head: Sequence[str], where: str) -> int:
    """Return how many values of a row were wrong, as far as the version counts them.

    Raises:
        ValueError: what stands there is no count.
    """
    counted = [words[at] for at, name in enumerate(head) if name == "#wrong" and at < len(words)]
    try:
        return sum(int(float(word)) for word in counted if word != "N/A")
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: {' '.join(counted)} is no number of wrong values; expected {PRINTED}") from None
