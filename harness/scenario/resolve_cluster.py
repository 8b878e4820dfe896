"""The cluster of a scenario in figures: a preset from the catalogue, and what single keys change of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import one_of
from harness.core.given_cluster import (
    THIS_MACHINE,
    ClusterFigures,
    DeviceFigures,
    GivenLink,
    GivenServers,
    StepFigures,
)
from harness.core.words import bandwidth, bit_rate, exact_bandwidth, exact_duration, figure, memory_size
from harness.costs.catalogue import Device, Preset, find_devices
from harness.scenario.link_values import WrittenLink
from harness.scenario.mistakes import Source
from harness.scenario.resolve_links import resolve_link
from harness.scenario.schema import ClusterSection, ServersSection
from harness.scenario.value_types import ByName, GivenStep

if TYPE_CHECKING:
    from harness.api.host import Host

MEDIA = {
    **{"nvlink": "NVLink", "fabric": "Infinity Fabric", "pcie": "PCIe", "ethernet": "Ethernet", "roce": "RoCE"},
    **{"infiniband": "InfiniBand", "efa": "EFA"},
}

GPUS_OF_A_NODE = 8
"""Where a catalogue device is named without a node size: what most servers of data centres hold."""


def resolve(section: ClusterSection, host: Host, folder: Path, source: Source) -> ClusterFigures | None:
    """Return the cluster with every name replaced by figures, as a cell keeps it; None after adding problems.

    A preset is shorthand for its parts: keys that are written replace its own.
    """
    before = len(source.problems)
    preset = _preset(section.preset, host, source)
    count, named, device = _device(section.device or (ByName(preset.device) if preset else None), host, source)
    if isinstance(device, StepFigures) and named is None and preset:
        named = host.devices[preset.device].figures()  # figures of a step are of the preset's own device
    if preset:
        section = _with_parts(section, preset, named)
    per_node = section.gpus_per_node or count or (GPUS_OF_A_NODE if isinstance(device, DeviceFigures) else None)
    read = partial(resolve_link, devices=per_node or 0, host=host, folder=folder, source=source)
    inside = section.intra_node
    if inside is None and isinstance(device, DeviceFigures):
        inside = WrittenLink(device.link)
    cluster = ClusterFigures(
        preset=section.preset,
        device=device,
        gpus_per_node=per_node,
        intra_node=read(("cluster", "intra_node"), inside, "inside"),
        inter_node=read(("cluster", "inter_node"), section.inter_node, "between"),
        host_link=read(("cluster", "host_link"), section.host_link, "inside"),
        all_reduce=section.all_reduce,
        shared_host=section.shared_host,
        overheads=section.overheads,
    )
    if len(source.problems) > before:
        return None
    if named:
        cluster = replace(
            cluster, chip=named.chip, usable_bytes=named.usable_bytes, dies_per_board=named.dies_per_board
        )
    if section.servers is not None:
        cluster = replace(cluster, servers=_servers(section.servers, cluster, read, source))
    return cluster if len(source.problems) == before else None


def _with_parts(section: ClusterSection, preset: Preset, named: DeviceFigures | None) -> ClusterSection:
    """Return the section with the parts of its preset that no key says otherwise."""
    parts = type(section).model_validate(preset.parts)
    if named is not None and named.name != preset.device:
        # Another device in these nodes: its own link is not the one that was measured with the preset's.
        parts = parts.model_copy(update={"intra_node": WrittenLink(named.link)})
    written = {key: value for key in ClusterSection.model_fields if (value := getattr(section, key)) is not None}
    return parts.model_copy(update=written)


def _servers(
    section: ServersSection, cluster: ClusterFigures, read: Callable[..., GivenLink | None], source: Source
) -> GivenServers:
    """Return parameter servers in figures; None stands for what follows from the cell."""
    path = ("cluster", "servers")
    if section.placement == "gpu" and section.count is not None:
        source.problem((*path, "count"), "not allowed here: on devices, each one holds an equal share", section.count)
    if section.placement == "dedicated" and cluster.inter_node is None:
        problem = (
            "needs cluster.inter_node too, such as \"25 Gb/s\": the link between the servers' nodes and the workers'"
        )
        source.problem((*path, "placement"), problem, section.placement)
    if section.placement != "dedicated" and section.link is not None:
        problem = 'not allowed here: only dedicated servers have their own link (placement = "dedicated")'
        source.problem((*path, "link"), problem)
    return GivenServers(
        placement=section.placement,
        count=section.count,
        apply_bytes_per_s=section.apply_rate,
        link=read((*path, "link"), section.link, "between"),
        overlap=section.overlap,
    )


def _preset(name: str, host: Host, source: Source) -> Preset | None:
    if name == THIS_MACHINE or name in host.clusters:
        return host.clusters.get(name)
    known = [THIS_MACHINE, *sorted(host.clusters)]
    source.problem(("cluster", "preset"), one_of(name, known, "harness plugins"), name)
    return None


def _device(
    written: ByName | GivenStep | None, host: Host, source: Source
) -> tuple[int | None, DeviceFigures | None, DeviceFigures | StepFigures | None]:
    """Return the devices of a node where the name says so ("4 x A100"), the device named, and how fast it is."""
    name = written.name if written else ""
    count, found = find_devices(name, host.devices.values()) if name else (None, [])
    named = found[0].figures() if len({device.chip for device in found}) == 1 else None
    if name and named is None:
        source.problem(("cluster", "device"), _unknown_device(name, found, host.devices.values()), name)
    return count, named, written.figures if isinstance(written, GivenStep) else named


def _unknown_device(name: str, found: list[Device], known: Iterable[Device]) -> str:
    names = [device.name for device in (found or known)]
    chips = [device.chip.lower() for device in known]
    allowed = f"one of {', '.join(names)}" if found else one_of(name, names, "harness plugins", chips)
    return (
        f"{allowed}; or give the device's own figures: "
        '{ samples_per_second = 52, batch_size = 16 } or { step_time = "312 ms", batch_size = 64 }'
    )


def cluster_in_words(cluster: ClusterFigures, host: Host) -> Iterable[str]:
    """Say what was understood of a cluster."""
    device = cluster.device
    if isinstance(device, DeviceFigures):
        yield _device_in_words(device, host)
    elif device and device.step_time_s is not None:
        yield f"a device computes a step of {device.batch_size} samples in {exact_duration(device.step_time_s)}"
    elif device:
        yield f"a device computes {device.samples_per_second:g} samples/s with {device.batch_size} samples a step"
    if cluster.gpus_per_node:
        yield f"a node holds {cluster.gpus_per_node} devices"
    elif cluster.inter_node:
        yield "cluster.gpus_per_node is not set: every device is its own node"
    for key, link in (("intra_node", cluster.intra_node), ("inter_node", cluster.inter_node)):
        if link:
            yield _link_in_words(key, link)
    if cluster.servers:
        yield from _servers_in_words(cluster.servers)


_PLACES = {
    "cpu": "in the host memory of the first node",
    "gpu": "on every device, an equal share each",
    "co-located": "on the workers' nodes",
    "dedicated": "outside the workers' nodes",
}


def _servers_in_words(servers: GivenServers) -> Iterable[str]:
    count = servers.count or (1 if servers.placement in ("cpu", "dedicated") else 0)
    shards = {0: "", 1: "one server "}.get(count, f"{count} equal shards ")
    text = f"cluster.servers: {shards}{_PLACES[servers.placement]}"
    text += ", one on each" if servers.placement == "co-located" and not count else ""
    rate = servers.apply_bytes_per_s
    text += f", each adds gradients at {exact_bandwidth(rate)}" if rate else ""
    yield text + (", exchanged while devices compute" if servers.overlap else ", exchanged between steps")
    if servers.link:
        yield _link_in_words("servers.link", servers.link)


def _device_in_words(device: DeviceFigures, host: Host) -> str:
    others = [other.name for other in host.devices.values() if other.chip == device.chip]
    others.remove(device.name)
    forms = f" (other forms: {', '.join(others)})" if others else ""
    return f"a device is {device.name} with {memory_size(device.usable_bytes)} of usable memory{forms}"


def _link_in_words(key: str, link: GivenLink) -> str:
    rate, latency = link.bandwidth_bytes_per_s, link.latency_s
    name = f" ({link.name})" if link.name else ""
    text = f"cluster.{key}{name} carries {bandwidth(rate, 4)} ({bit_rate(rate, 4)})"
    text += f", latency {exact_duration(latency, 3)}"
    text += f" (of {MEDIA[link.medium]}; set latency or medium to change it)" if link.medium else ""
    groups = [f"{size}: {figure(entry.bandwidth_bytes_per_s / 1e9, 4)}" for size, entry in link.by_group.items()]
    return text + (f"; by group size {', '.join(groups)} GB/s" if groups else "")
