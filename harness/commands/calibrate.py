"""`harness calibrate`: what is stored of this machine, in words, after measuring it if that is asked for."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from harness.commands.node_links_text import Rated, age_of, describe_nodes, share_of
from harness.core.errors import NothingDone
from harness.core.machine import detect_machine
from harness.core.words import bandwidth, counted, duration, exact_duration, memory_size
from harness.costs.cells import MeasuredLinks, keep_node_links, load_links, load_node_links
from harness.costs.profiles import Cluster, bus_factor
from harness.engines.calibration.laws import alpha_beta, misfit

Links = tuple[Rated | None, Rated | None]
"""What links inside a machine, and those between machines, are rated at."""


def show_or_measure(
    device: str, threads: int, only_show: bool, say: Callable[[str], None], rated: Links = (None, None)
) -> str:
    """Return the text of what is stored, measured anew unless `only_show`: over all machines where there are several.

    Args:
        device: "cpu", "cuda" or "auto".
        threads: of one CPU device.
        say: shows a line while it is measured.
        rated: what the links are said to be able to.

    Raises:
        MachineError: it cannot be measured here.
        NothingDone: nothing is stored.
    """
    machine = detect_machine()
    kind = device if device != "auto" else "cuda" if machine.gpus > 1 else "cpu"
    if not only_show:
        from harness.engines.processes.nodes import nodes_present

        if (nodes := nodes_present()) is not None:
            from harness.engines.calibration.over_nodes import calibrate_nodes

            kind = device if device != "auto" else "cuda" if nodes.machine.gpus else "cpu"
            found = calibrate_nodes(nodes, kind, threads, say)
            keep_node_links(machine, threads, found)
            return describe_nodes(found, age_of(found), *rated)
        from harness.engines.calibration.link_times import calibrate

        calibrate(machine, kind, threads, say)
    links, several = load_links(machine, kind, threads), load_node_links(machine, kind, threads)
    if links is None and several is None:
        raise NothingDone(
            f"{kind} with {counted(threads, 'thread')} was never calibrated on this machine; run `harness calibrate`"
        )
    texts = [describe(links, inside=rated[0])] if links is not None else []
    if several is not None:
        texts.append(describe_nodes(several, age_of(several), *rated))
    return "\n\n".join(texts)


def describe(links: MeasuredLinks, now_s: float | None = None, inside: Rated | None = None) -> str:
    """Return the text of `harness calibrate --show`.

    Args:
        links: as they were measured.
        now_s: the time that ages are counted to; default: now.
        inside: what the link between two devices is rated at.
    """
    cluster = links.cluster
    age = (time.time() if now_s is None else now_s) - links.measured_at
    lines = [f"{cluster.device}: measured {exact_duration(max(0.0, age), 3)} ago"]
    for ranks, found in links.raw["groups"].items():
        lines += [f"  {ranks} processes", *_collectives(found["collectives"], int(ranks))]
    if inside is not None:
        lines.append(f"  {share_of(cluster.bus.link.bandwidth_bytes_per_s, inside)}")
    return "\n".join([*lines, *_runtime(cluster)])


def _collectives(tables: Mapping[str, Any], ranks: int) -> Iterator[str]:
    for name, table in tables.items():
        alpha, beta = alpha_beta(table)
        rate = bandwidth(1 / beta) if beta else "any rate"
        off = 100 * misfit(table, alpha, beta)
        num_bytes, seconds = table[-1]
        bus = num_bytes / seconds * bus_factor("send" if name == "point-to-point" else name, ranks)
        yield (
            f"    {name:<15} {duration(alpha):>9} + bytes / {rate:<11} (median misfit {off:.0f} %); "
            f"{memory_size(num_bytes)}: {duration(seconds)}, bus {bandwidth(bus)}"
        )


def _runtime(cluster: Cluster) -> Iterator[str]:
    runtime = cluster.runtime
    yield f"  DDP adds {duration(runtime.wrapper_s)} to a step, {duration(runtime.bucket_s)} to a bucket"
    yield f"  pipelining adds {duration(runtime.action_s)} each time a micro-batch passes a stage"
    if runtime.messages:
        for size in (2**12, 2**20, 2**26):
            there = runtime.messages.arrive.at(size) + runtime.messages.take.at(size)
            yield f"  a message of {memory_size(size)}: {duration(there)}"
    served = {"the same cores": runtime.served, "its own core": runtime.served_apart}
    losing = {f"with a server on {where}": points for where, points in served.items()}
    for what, lost in (losing | {"of DDP": runtime.exchanged}).items():
        for num_bytes, seconds in lost.points:
            yield f"  a step {what} of {memory_size(num_bytes)} loses {duration(seconds)}"
    for num_bytes, seconds in runtime.sharded.points:
        yield f"  an exchange of FSDP of {memory_size(num_bytes)} takes {duration(seconds)} longer than its collective"
    for gap, seconds in runtime.stall.points[:-1]:
        yield f"  meeting after {exact_duration(gap, 3)} of computing loses {duration(seconds)}"
