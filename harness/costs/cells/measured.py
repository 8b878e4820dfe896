"""What was measured on this machine: under which key it is kept, and how it becomes a profile and a cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.core import cache
from harness.core.cell import Loading, Workload
from harness.core.environment import describe_environment
from harness.core.machine import Machine, detect_machine
from harness.core.records import Json, Unreadable, from_json, to_json
from harness.core.words import counted
from harness.costs.cells.given import is_given
from harness.costs.profiles.cluster_figures import Cluster
from harness.costs.profiles.device_profile import LayerTime, Profile, TimeCurve
from harness.costs.profiles.node_links import NodeLinks
from harness.costs.profiles.shape import ModelShape
from harness.workloads.user_files import is_user_function

if TYPE_CHECKING:
    from harness.core.cell import Cell

LEAST_MEASURED_ERROR = 0.03
"""Least relative uncertainty stated for a measured profile, one standard deviation; measured (2 shared EPYC cores,
2026-11-20, n = 3): the median step of one cell differed by 1 to 4 % between runs minutes apart."""


@dataclass(frozen=True)
class MeasuredStep:
    """A step of `single` over one number of samples, as it was measured here.

    Attributes:
        forward_s, backward_s: of each layer of the shape.
        input_s: of bringing the samples to the device, in the process that trains.
        optimizer_s, step_s, launch_s, memory_bandwidth_bytes_per_s: as `Profile` has them.
        spread: how much the machine was disturbed, relative.
        steps: how many were measured.
        neighbours: busy processes beside it.
        device: what was measured on, in words.
    """

    shape: ModelShape
    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    input_s: float
    optimizer_s: float
    step_s: float
    spread: float
    steps: int
    launch_s: float
    memory_bandwidth_bytes_per_s: float
    neighbours: int
    device: str


@dataclass(frozen=True)
class MeasuredLinks:
    """What `harness calibrate` found.

    Attributes:
        raw: what the figures were fitted to: tables by the size of the group, and of the transport.
        measured_at: seconds since the epoch.
    """

    cluster: Cluster
    raw: Json
    measured_at: float


@dataclass(frozen=True)
class MeasuredHere:
    """All that was measured of a machine and that a cell is simulated with, to be simulated with on another machine.

    Attributes:
        steps: of `single`, by the number of samples.
        links: None where they were never measured.
        node_links: between machines like this one; None where they were never measured, or the cell fills one only.
    """

    steps: dict[int, MeasuredStep]
    links: MeasuredLinks | None
    node_links: NodeLinks | None = None


def measured_here(cell: Cell, machine: Machine) -> MeasuredHere:
    """Return what was measured here of what a cell is simulated with."""
    found = {size: _stored(cell, machine, size) for size in sizes_of(cell)}
    steps = {size: step for size, step in found.items() if step is not None}
    return MeasuredHere(steps, load_links(machine, cell.device, cell.threads_per_device), node_links_of(cell, machine))


def keep_measured(cell: Cell, machine: Machine, measured: MeasuredHere) -> None:
    """Keep what was measured elsewhere as if this machine had: in a cache of that cell's own, never in the user's."""
    for size, step in measured.steps.items():
        keep_step(cell, machine, size, step)
    if measured.links is not None:
        keep_links(machine, cell.device, cell.threads_per_device, measured.links)
    if measured.node_links is not None:
        keep_node_links(machine, cell.threads_per_device, measured.node_links)


def hardware(machine: Machine, device: str) -> Json:
    """Return what decides how fast a device of this kind computes and talks here."""
    facts = describe_environment(machine.one_node)
    kept: tuple[str, ...] = ("cpu", "cores", "system", "torch", "python")
    kept += ("gpu", "gpus", "driver", "nvidia-nccl-cu12", "nvidia-nccl-cu13") if device == "cuda" else ()
    return {"device": device, **{name: facts.get(name, "") for name in kept}}


def neighbours_of(cell: Cell, machine: Machine) -> int:
    """Return how many busy processes a device of this cell has beside it, as far as this machine has cores for them."""
    if cell.device != "cpu":
        return 0
    return max(0, min(cell.gpus, machine.one_node.cores // cell.threads_per_device) - 1)


def sizes_of(cell: Cell) -> tuple[int, ...]:
    """Return the numbers of samples to measure: what passes forward at once, and half of it for what is left over."""
    return tuple(sorted({max(1, cell.micro_batch_size // 2), cell.micro_batch_size}))


def profile_key(cell: Cell, machine: Machine, size: int) -> Json:
    """Return everything that the time of a step of `single` over `size` samples follows from."""
    written = to_json(cell.workload)
    workload = {name: written[name] for name in ("model", "dataset", "optimizer", "precision", "loss", "clip_norm")}
    return {
        "hardware": hardware(machine, cell.device),
        "threads": cell.threads_per_device,
        "workload": workload,
        "code": [cell.code.get(kind, "") for kind in ("model", "dataset")],
        "neighbours": neighbours_of(cell, machine),
        "size": size,
        **{name: written[name] for name in _ONLY_WHERE_SET if written[name] != getattr(Workload, name)},
        **({} if (kept := cell.workload.loading.resident) == Loading.resident else {"resident": kept}),
        **({"layers": "blocks"} if is_user_function(cell.workload.model.name) else {}),  # once they were one layer
    }


_ONLY_WHERE_SET = ("step", "channels_last", "tf32")
"""Keys of a workload that a profile depends on and that came later."""


def needs_measuring(cell: Cell) -> bool:
    """Whether a cell is simulated with times of this machine, of a model that can be run here."""
    return cell.engine == "virtual" and cell.cluster.device is None and not is_given(cell.workload.model)


def measured_id(cell: Cell) -> str:
    """Return a hash of the measurements behind a cell; nothing where this machine has not made them all."""
    machine = detect_machine()
    profile, cluster = load_profile(cell, machine), load_cluster(cell.device, cell.threads_per_device, machine)
    if profile is None:
        return ""
    links = node_links_of(cell, machine)
    behind = [to_json(profile), cluster and to_json(cluster), *([to_json(links)] if links else [])]
    return hashlib.sha256(json.dumps(behind, sort_keys=True).encode()).hexdigest()[:16]


def missing_sizes(cell: Cell, machine: Machine) -> tuple[int, ...]:
    """Return the sizes of a cell that were never measured here."""
    return tuple(size for size in sizes_of(cell) if _stored(cell, machine, size) is None)


def keep_step(cell: Cell, machine: Machine, size: int, step: MeasuredStep) -> None:
    """Keep what was measured of one size for later runs."""
    cache.save("profile", profile_key(cell, machine, size), to_json(step))


def _stored(cell: Cell, machine: Machine, size: int) -> MeasuredStep | None:
    """Return what is kept of one size; what another version kept, which measured something else, counts as absent."""
    content = cache.load("profile", profile_key(cell, machine, size))
    try:
        return None if content is None else from_json(MeasuredStep, content)
    except Unreadable:
        return None


def load_profile(cell: Cell, machine: Machine | None = None) -> Profile | None:
    """Return the measured profile of a cell's workload, or None where one of its sizes is missing."""
    machine = machine or detect_machine()
    found = {size: _stored(cell, machine, size) for size in sizes_of(cell)}
    steps = {size: step for size, step in found.items() if step is not None}
    return replace(make_profile(steps), readers=_readers(cell)) if len(steps) == len(found) else None


def _readers(cell: Cell) -> int:
    """Return how many processes read ahead; what stays in memory needs none."""
    loading = cell.workload.loading
    return 0 if loading.resident == "yes" else loading.workers


def make_profile(by_size: Mapping[int, MeasuredStep]) -> Profile:
    """Put together what was measured at several numbers of samples."""
    sizes = sorted(by_size)
    steps = [by_size[size] for size in sizes]
    whole = steps[-1]
    times = tuple(
        LayerTime(
            _curve(sizes, [step.forward_s[k] for step in steps]), _curve(sizes, [step.backward_s[k] for step in steps])
        )
        for k in range(len(whole.forward_s))
    )
    beside = ", with " + counted(whole.neighbours, "other busy device") if whole.neighbours else ""
    return Profile(
        shape=whole.shape,
        times=times,
        input=_curve(sizes, [step.input_s for step in steps]),
        optimizer_s=whole.optimizer_s,
        step_s=whole.step_s,
        launch_s=whole.launch_s,
        memory_bandwidth_bytes_per_s=whole.memory_bandwidth_bytes_per_s,
        origin="measured",
        text=f"single, measured on {whole.device} with batches of {' and '.join(map(str, sizes))} samples{beside}",
        error=max(LEAST_MEASURED_ERROR, *(step.spread for step in steps)),
    )


def _curve(sizes: Sequence[int], seconds: Sequence[float]) -> TimeCurve:
    """Join the points; more samples never take less time, whatever the noise."""
    rising = [max(seconds[: k + 1]) for k in range(len(seconds))]
    return TimeCurve(tuple(zip(map(float, sizes), rising, strict=True)))


def links_key(machine: Machine, device: str, threads: int) -> Json:
    """Return everything that the links of this machine follow from."""
    return {
        "hardware": hardware(machine, device),
        "threads": threads,
        "backend": "nccl" if device == "cuda" else "gloo",
    }


def load_cluster(device: str, threads: int, machine: Machine | None = None) -> Cluster | None:
    """Return this machine as `harness calibrate` measured it, or None."""
    links = load_links(machine or detect_machine(), device, threads)
    return None if links is None else links.cluster


def load_links(machine: Machine, device: str, threads: int) -> MeasuredLinks | None:
    """Return what `harness calibrate` measured of this machine, or None."""
    content = cache.load("links", links_key(machine, device, threads))
    try:
        return None if content is None else from_json(MeasuredLinks, content)
    except Unreadable:
        return None  # kept by another version, which measured something else


def keep_links(machine: Machine, device: str, threads: int, links: MeasuredLinks) -> None:
    """Keep what was measured for later runs."""
    cache.save("links", links_key(machine, device, threads), to_json(links))


def keep_node_links(machine: Machine, threads: int, links: NodeLinks) -> None:
    """Keep what was measured over several machines, in place of what was kept before.

    Args:
        machine: one of them; all are alike.
    """
    cache.save("node-links", links_key(machine, links.device, threads), to_json(links))


def load_node_links(machine: Machine, device: str, threads: int) -> NodeLinks | None:
    """Return what was last measured over machines of which this is one, or None."""
    content = cache.load("node-links", links_key(machine, device, threads))
    try:
        return None if content is None else from_json(NodeLinks, content)
    except Unreadable:
        return None  # kept by another version, which measured something else


def node_links_of(cell: Cell, machine: Machine) -> NodeLinks | None:
    """Return the links of a cell that fills several machines like this one, where nobody gives them; None else."""
    given = cell.cluster
    if cell.nodes < 2 or given.inter_node is not None or given.device is not None:
        return None
    return load_node_links(machine, cell.device, cell.threads_per_device)
