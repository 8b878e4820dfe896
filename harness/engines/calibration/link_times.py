"""`harness calibrate`: measure the links of this machine and what runs beside them, fit, keep, and show."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness.core.errors import MachineError
from harness.core.machine import Machine
from harness.core.records import Json
from harness.costs.cells import MeasuredLinks, hardware, keep_links
from harness.costs.profiles import Cluster, Messages, Runtime
from harness.engines.calibration import group_times as group
from harness.engines.calibration import laws as fit
from harness.engines.calibration import message_times as messages
from harness.engines.calibration.meeting_times import losses
from harness.engines.calibration.pipeline_times import pipeline_overhead
from harness.engines.processes.forking import fork_server, temporary_folder
from harness.engines.processes.slots import Descriptor, make_slot_file
from harness.engines.processes.tasks import answers, started

GROUP_S = 25.0
"""A group of processes, in words to the user only; measured (2 EPYC cores, 2026-11-20): 15 to 25 s."""

MESSAGES_S = 120.0
"""The transport, pipelines and servers, in words to the user only; measured (2 EPYC cores, 2026-11-20)."""

PATIENCE_S = 900.0
"""For one group of processes; chosen: thirty times what it takes here."""

SMALLEST_ERROR = 0.1
"""Least relative uncertainty stated for measured communication, one standard deviation; measured (2 EPYC cores,
2026-11-20): medians of the same collective differed by so much between runs minutes apart."""

Say = Callable[[str], None]


def devices_of(machine: Machine, device: str, threads: int) -> int:
    """Return how many devices of this kind can talk to each other here."""
    return machine.gpus if device == "cuda" else machine.cores // threads


def group_sizes(devices: int) -> list[int]:
    """Return 2, 4, 8, ... and all devices."""
    powers = [2**k for k in range(1, devices.bit_length()) if 2**k < devices]
    return [*powers, devices] if devices > 1 else []


def calibrate(machine: Machine, device: str, threads: int, say: Say) -> Cluster:
    """Measure, keep and return this machine as costs see it; say first how long it takes.

    Raises:
        MachineError: there is only one device, or a process failed.
    """
    sizes = group_sizes(devices_of(machine, device, threads))
    if not sizes:
        raise MachineError("calibrating links needs at least two devices; this machine has one")
    seconds = GROUP_S * len(sizes) + MESSAGES_S
    say(f"calibrating {_kind(device)} over groups of {', '.join(map(str, sizes))}: about {seconds:.0f} s")
    groups = {}
    for ranks in sizes:
        began = time.monotonic()
        groups[ranks] = measure_group(ranks, device, threads)
        say(f"  {ranks} processes: {time.monotonic() - began:.1f} s")
    sides, host = measure_transport(threads)
    message_s = groups[min(groups)]["collectives"]["point-to-point"][0][1]
    action_s = pipeline_overhead(machine, threads, message_s) if device == "cpu" else 0.0
    cluster = cluster_of(machine, device, threads, groups, sides, host, action_s)
    raw = {"groups": groups, "transport": sides, "host": host, "action_s": action_s}
    if device == "cpu":
        lost: Json = {field: fit.curve(table) for field, table in losses(machine, threads, cluster).items()}
        cluster = replace(cluster, runtime=replace(cluster.runtime, **lost))
    links = MeasuredLinks(cluster, json.loads(json.dumps(raw)), time.time())
    keep_links(machine, device, threads, links)
    return cluster


def _kind(device: str) -> str:
    return "NCCL" if device == "cuda" else "gloo"


def measure_group(ranks: int, device: str, threads: int) -> Json:
    """Return what the first of a group of processes saw.

    Raises:
        MachineError: one of them failed, or took too long.
    """
    with temporary_folder() as folder:
        store = str(Path(folder) / "store")
        tasks = [(group.measure_group, (rank, ranks, store, device)) for rank in range(ranks)]
        with started(tasks, threads) as connections:
            found: Json = answers(connections, f"calibrating {ranks} processes", PATIENCE_S)[0]
    return found


def measure_transport(threads: int) -> tuple[list[dict[int, Any]], Json]:
    """Return what both ends of the transport saw by size, and what the host's memory does.

    Raises:
        MachineError: one of the processes failed, or took too long.
    """
    first, second = fork_server().Pipe()
    descriptors = [make_slot_file(), make_slot_file()]
    try:
        there, back = (Descriptor(each) for each in descriptors)
        tasks: list[Any] = [
            (messages.measure_messages, (0, (there, back), first)),
            (messages.measure_messages, (1, (back, there), second)),
        ]
        with started(tasks, threads) as connections:
            first.close()
            second.close()
            sides = answers(connections, "calibrating the transport", PATIENCE_S)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
    with started([(messages.measure_host, ())], threads) as connections:
        (host,) = answers(connections, "calibrating memory", PATIENCE_S)
    return sides, host


# -- what was found ----------------------------------------------------------------------------------------------------


def cluster_of(
    machine: Machine,
    device: str,
    threads: int,
    groups: dict[int, Json],
    sides: list[dict[int, Any]],
    host: Json,
    action_s: float,
) -> Cluster:
    """Put together what was measured."""
    bus = fit.bus_of({ranks: found["collectives"] for ranks, found in groups.items()})
    first = groups[min(groups)]
    all_reduce = fit.curve(first["collectives"]["all-reduce"])
    wrapper, bucket, copying = fit.wrapper_of(first["wrapper"], all_reduce)
    runtime = Runtime(
        cores=machine.cores if device == "cpu" else None,
        threads=threads,
        wrapper_s=wrapper,
        bucket_s=bucket,
        bucket_s_per_byte=copying,
        action_s=action_s,
        hop=fit.hop_curve(first["collectives"]["point-to-point"], bus.link.latency_s),
        messages=messages_of(sides),
        load=fit.curve(host["load"]),
        add=fit.curve(host["add"]),
        stall=fit.level(first["stall"]),
    )
    facts = hardware(machine, device)
    name = facts["gpu"] if device == "cuda" else f"{threads} of {machine.cores} cores of {facts['cpu']}"
    text = f"{_kind(device)} and the harness's transport, measured here by `harness calibrate`"
    return Cluster(name, max(groups), bus, text=text, error=SMALLEST_ERROR, runtime=runtime)


def messages_of(sides: list[dict[int, Any]]) -> Messages:
    """Return what a message costs, from (send, round) of one end and (take, one way) of the other."""
    begin, answer = sides
    sends = [(size, begin[size][0]) for size in begin]
    takes = [(size, answer[size][0]) for size in begin]
    arrivals = [(size, max(0.0, answer[size][1] - answer[size][0])) for size in begin]
    return Messages(fit.curve(sends), fit.curve(arrivals), fit.curve(takes))
