"""The cluster of a scenario in figures: a preset from the catalogue, and what single keys change of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.core.errors import one_of
from harness.core.given_cluster import (
    THIS_MACHINE,
    ClusterFigures,
    DeviceFigures,
    GivenLink,
    GivenServers,
    LinkFigures,
    StepFigures,
)
from harness.core.words import bandwidth, bit_rate, exact_bandwidth, exact_duration, figure, memory_size
from harness.costs.catalogue import Device, Link, Preset, find_devices
from harness.scenario.mistakes import Source
from harness.scenario.value_types import ByName, LinkTable, link_of_groups

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.scenario.schema import ClusterSection, ServersSection

GPUS_OF_A_NODE = 8
"""Where a catalogue device is named without a node size: what most servers of data centres hold."""


def resolve(section: ClusterSection, host: Host, folder: Path, source: Source) -> ClusterFigures | None:
    """Return the cluster with every name replaced by figures, as a cell keeps it; None after adding problems."""
    before = len(source.problems)
    preset = _preset(section.preset, host, source)
    count, device = _device(section.device, preset, host, source)
    intra_node = _link("intra_node", section.intra_node, host, folder, source)
    inter_node = _link("inter_node", section.inter_node, host, folder, source)
    if len(source.problems) > before:
        return None
    named = device if isinstance(device, DeviceFigures) else None
    per_node = section.gpus_per_node or count or (preset.gpus_per_node if preset else None)
    cluster = ClusterFigures(
        preset=section.preset,
        device=device,
        gpus_per_node=per_node or (GPUS_OF_A_NODE if named else None),
        intra_node=intra_node,
        inter_node=inter_node,
    )
    if named:
        cluster = _of_device(cluster, named)
    if preset:
        cluster = _completed(cluster, preset, host)
    elif named and intra_node is None:
        cluster = replace(cluster, intra_node=_figures(host.links[named.link].link(), named.link))
    if section.servers is not None:
        cluster = replace(cluster, servers=_servers(section.servers, cluster, host, folder, source))
    return cluster if len(source.problems) == before else None


def _servers(
    section: ServersSection, cluster: ClusterFigures, host: Host, folder: Path, source: Source
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
        link=_link("servers.link", section.link, host, folder, source),
    )


def _of_device(cluster: ClusterFigures, device: DeviceFigures) -> ClusterFigures:
    """Return the cluster with what holds of a device however fast it is said to be."""
    return replace(cluster, chip=device.chip, usable_bytes=device.usable_bytes, dies_per_board=device.dies_per_board)


def _completed(cluster: ClusterFigures, preset: Preset, host: Host) -> ClusterFigures:
    """Fill in what the preset says and no key did."""
    other = cluster.catalogue_device  # figures of a step are of the preset's own device
    if other is None or other.name == preset.device:
        cluster, other = _of_device(cluster, host.devices[preset.device].figures()), None
    if cluster.intra_node is None and other is None:
        intra_node = _measured(preset, host.links[preset.intra_node])
        cluster = replace(cluster, intra_node=intra_node, intra_shared_by=preset.intra_shared_by)
    elif cluster.intra_node is None and other is not None:
        # Another device in these nodes: its own link is not the one that was measured with the preset's.
        cluster = replace(cluster, intra_node=_figures(host.links[other.link].link(), other.link))
    if cluster.inter_node is None and preset.inter_node:
        inter_node = _figures(host.links[preset.inter_node].link(preset.adapters), preset.inter_node)
        cluster = replace(cluster, inter_node=inter_node)
    host_link = _figures(host.links[preset.host_link].link(), preset.host_link)
    return replace(cluster, host_link=host_link, host_shared_by=preset.host_shared_by)


def _measured(preset: Preset, link: Link) -> GivenLink:
    groups = {ranks: LinkFigures(latency_s, rate) for ranks, (latency_s, rate) in preset.by_group.items()}
    return replace(_figures(link.link(), link.name), by_group=groups)


def _figures(link: LinkFigures, name: str) -> GivenLink:
    return GivenLink(link.latency_s, link.bandwidth_bytes_per_s, name)


def _preset(name: str, host: Host, source: Source) -> Preset | None:
    if name == THIS_MACHINE or name in host.clusters:
        return host.clusters.get(name)
    known = [THIS_MACHINE, *sorted(host.clusters)]
    source.problem(("cluster", "preset"), one_of(name, known, "harness plugins"), name)
    return None


def _device(
    written: ByName | StepFigures | None, preset: Preset | None, host: Host, source: Source
) -> tuple[int | None, DeviceFigures | StepFigures | None]:
    """Return the devices of a node where the name says so ("4 x A100"), and the device."""
    if written is None:
        return None, host.devices[preset.device].figures() if preset else None
    if isinstance(written, StepFigures):
        return None, written
    count, found = find_devices(written.name, host.devices.values())
    if len({device.chip for device in found}) == 1:
        return count, found[0].figures()
    source.problem(("cluster", "device"), _unknown_device(written.name, found, host.devices.values()), written.name)
    return None, None


def _unknown_device(name: str, found: list[Device], known: Iterable[Device]) -> str:
    names = [device.name for device in (found or known)]
    chips = [device.chip.lower() for device in known]
    allowed = f"one of {', '.join(names)}" if found else one_of(name, names, "harness plugins", chips)
    return (
        f"{allowed}; or give the device's own figures: "
        '{ samples_per_second = 52, batch_size = 16 } or { step_time = "312 ms", batch_size = 64 }'
    )


def _link(
    key: str, written: ByName | LinkTable | GivenLink | None, host: Host, folder: Path, source: Source
) -> GivenLink | None:
    """Return a link in figures."""
    if written is None or isinstance(written, GivenLink):
        return written
    if isinstance(written, LinkTable):
        return _table(key, written, folder, source)
    known = host.links
    if written.name in known:
        return _figures(known[written.name].link(), written.name)
    problem = f'{one_of(written.name, sorted(known), "harness plugins")}; or give a rate such as "25 Gb/s"'
    source.problem(("cluster", key), problem, written.name)
    return None


def _table(key: str, written: LinkTable, folder: Path, source: Source) -> GivenLink | None:
    from harness.costs.cells import fitted_link, read_tables  # late: most scenarios give no table

    try:
        tables = read_tables(folder / written.table, written.gpu)
    except ValueError as error:
        source.problem(("cluster", key, "table"), str(error), written.table)
        return None
    return link_of_groups({ranks: fitted_link(ranks, table) for ranks, table in tables.items()}, tables)


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
    yield text + (f", each adds gradients at {exact_bandwidth(rate)}" if rate else "")
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
    groups = [f"{size}: {figure(entry.bandwidth_bytes_per_s / 1e9, 4)}" for size, entry in link.by_group.items()]
    return text + (f"; by group size {', '.join(groups)} GB/s" if groups else "")
