"""`harness calibrate --import`: what nccl-tests printed elsewhere, as what is measured here is told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.commands.node_links_text import Rated, describe_nodes
from harness.core.errors import InputError, one_of
from harness.core.words import change_in_percent, counted, listed
from harness.costs.cells import NCCL_TESTS, PrintedRun, read_runs
from harness.costs.profiles import InterfaceFacts, NodeLinks

IN_PLACE_APART = 0.1
"""Relative difference between in place and out of place that is worth a note; chosen: twice what runs differ by."""


def describe_imported(written: Sequence[str], inside: Rated | None, between: Rated | None) -> str:
    """Return the text of what files hold that nccl-tests printed.

    Args:
        written: FILE, or EXCHANGE=FILE of a version that does not say what it measured.
        inside, between: what the links are rated at.

    Raises:
        InputError: a file is wrong, or two files are not of the same machines.
    """
    runs, problems = [], []
    for each in written:
        name, path = _parted(each)
        try:
            runs += read_runs(path, name)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise InputError(problems)
    origin = f"read from {listed(str(_parted(each)[1]) for each in written)}"
    return describe_nodes(links_of(runs), origin, inside, between, list(_notes(runs)))


def _parted(written: str) -> tuple[str, Path]:
    """Return what a file is said to be of, and its path; a file of that whole name goes before.

    Raises:
        InputError: nothing has such a name.
    """
    name, equals, path = written.partition("=")
    if not equals or Path(written).exists():
        return "", Path(written)
    name = NCCL_TESTS.get(name.removesuffix("_perf"), name)
    if name not in NCCL_TESTS.values():
        raise InputError([f"--import {written}: {one_of(name, NCCL_TESTS.values())} goes before the ="])
    return name, Path(path)


def links_of(runs: Sequence[PrintedRun]) -> NodeLinks:
    """Return runs of one cluster as links; the run with the most ranks says how many each machine has."""
    largest = max(runs, key=lambda run: run.times.ranks).times
    hosts = dict.fromkeys(host for run in runs for host in run.times.hosts)
    return NodeLinks(
        device="cuda",
        backend="nccl",
        per_node=largest.ranks // largest.nodes,
        exchanges=tuple(run.times for run in runs),
        nodes=tuple(InterfaceFacts(host) for host in hosts),
        measured_at=0.0,
    )


def _notes(runs: Sequence[PrintedRun]) -> Iterator[str]:
    for run in runs:
        name = f"{run.times.exchange} over {counted(run.times.ranks, 'rank')}"
        if run.wrong:
            yield f"{name}: the test found {counted(run.wrong, 'wrong value')}; do not trust its times"
        if run.in_place:
            (num_bytes, seconds), (_, there) = run.in_place[-1], run.times.table[-1]
            if abs(seconds / there - 1) > IN_PLACE_APART:
                change = change_in_percent(seconds / there)
                yield f"{name}: in place {num_bytes:,.0f} bytes take {change}; the table is out of place"
