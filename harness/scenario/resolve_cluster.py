"""The cluster of a scenario in figures: a preset from the catalogue, and what single keys change of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.core.cell import THIS_MACHINE
from harness.core.errors import nearest
from harness.core.words import bandwidth, bit_rate, exact_bandwidth, exact_duration, figure, memory_size
from harness.costs.catalogue import Device, Link, Preset, find_devices
from harness.costs.cells import fitted_link, read_tables
from harness.costs.profiles import LinkFigures
from harness.scenario.mistakes import Source

if TYPE_CHECKING:
    from harness.api.host import Host
    from harness.scenario.schema import ClusterSection, ServersSection

GPUS_OF_A_NODE = 8
"""Where a catalogue device is named without a node size: what most servers of data centres hold."""


def resolve(section: ClusterSection, host: Host, folder: Path, source: Source) -> dict[str, Any] | None:
    """Return the cluster with every name replaced by figures, as a cell keeps it; None after adding problems.

    Returns:
        preset: its name; device: None (this machine's own), figures of one device, or a catalogue entry;
        gpus_per_node: None where nothing says it; intra_node, inter_node, host_link: latency and bandwidth, and what
        was measured by group size; host_shared_by, intra_shared_by: devices on one slot; chip, usable_bytes,
        dies_per_board: of the device, where the catalogue knows it; servers: where the scenario speaks of them.
    """
    before = len(source.problems)
    preset = _preset(section.preset, host, source)
    count, device = _device(section.device, preset, host, source)
    links = {key: _link(key, getattr(section, key), host, folder, source) for key in ("intra_node", "inter_node")}
    if len(source.problems) > before:
        return None
    named = device if device and "peak_flops_per_s" in device else None
    per_node = section.gpus_per_node or count or (preset.gpus_per_node if preset else None)
    cluster: dict[str, Any] = {
        "preset": section.preset,
        "device": device,
        "gpus_per_node": per_node or (GPUS_OF_A_NODE if named else None),
        **links,
        "host_link": None,
        "host_shared_by": 1,
        "intra_shared_by": 1,
        **_of_device(named or {}),
    }
    if preset:
        cluster = _completed(cluster, preset, host)
    elif named and cluster["intra_node"] is None:
        cluster["intra_node"] = _figures(host.links[named["link"]].link(), named["link"])
    if section.servers is not None:
        cluster["servers"] = _servers(section.servers, cluster, host, folder, source)
    return cluster if len(source.problems) == before else None


def _servers(
    section: ServersSection, cluster: Mapping[str, Any], host: Host, folder: Path, source: Source
) -> dict[str, Any]:
    """Return parameter servers in figures; None stands for what follows from the cell."""
    path = ("cluster", "servers")
    if section.placement == "gpu" and section.count is not None:
        source.problem((*path, "count"), "left out: on devices each one holds an equal share", section.count)
    if section.placement == "dedicated" and cluster["inter_node"] is None:
        problem = "together with cluster.inter_node, such as \"25 Gb/s\": what joins the servers' nodes to the workers'"
        source.problem((*path, "placement"), problem, section.placement)
    if section.placement != "dedicated" and section.link is not None:
        problem = 'left out: only dedicated servers have a link of their own (placement = "dedicated")'
        source.problem((*path, "link"), problem, section.link)
    return {
        "placement": section.placement,
        "count": section.count,
        "apply_bytes_per_s": section.apply_rate,
        "link": _link("servers.link", section.link, host, folder, source),
    }


def _of_device(device: Mapping[str, Any]) -> dict[str, Any]:
    """Return what holds of a device however fast it is said to be."""
    missing = {"chip": "", "usable_bytes": None, "dies_per_board": 1}
    return {key: device.get(key, default) for key, default in missing.items()}


def _completed(cluster: dict[str, Any], preset: Preset, host: Host) -> dict[str, Any]:
    """Fill in what the preset says and no key did."""
    name = cluster["device"].get("name", preset.device)  # figures of a device are of the preset's own
    if name == preset.device:
        cluster |= _of_device(host.devices[name].to_dict())
    if cluster["intra_node"] is None and name == preset.device:
        cluster["intra_node"] = _measured(preset, host.links[preset.intra_node])
        cluster["intra_shared_by"] = preset.intra_shared_by
    elif cluster["intra_node"] is None:
        # Another device in these nodes: its own link is not the one that was measured with the preset's.
        link = cluster["device"]["link"]
        cluster["intra_node"] = _figures(host.links[link].link(), link)
    if cluster["inter_node"] is None and preset.inter_node:
        cluster["inter_node"] = _figures(host.links[preset.inter_node].link(preset.adapters), preset.inter_node)
    cluster["host_link"] = _figures(host.links[preset.host_link].link(), preset.host_link)
    cluster["host_shared_by"] = preset.host_shared_by
    return cluster


def _measured(preset: Preset, link: Link) -> dict[str, Any]:
    figures = _figures(link.link(), link.name)
    if preset.by_group:
        groups = preset.by_group.items()
        figures["by_group"] = {str(n): {"latency_s": lat, "bandwidth_bytes_per_s": rate} for n, (lat, rate) in groups}
    return figures


def _figures(link: LinkFigures, name: str = "") -> dict[str, Any]:
    figures: dict[str, Any] = {"latency_s": link.latency_s, "bandwidth_bytes_per_s": link.bandwidth_bytes_per_s}
    return figures | ({"name": name} if name else {})


def _preset(name: str, host: Host, source: Source) -> Preset | None:
    if name == THIS_MACHINE or name in host.clusters:
        return host.clusters.get(name)
    known = [THIS_MACHINE, *sorted(host.clusters)]
    source.problem(("cluster", "preset"), f"one of {', '.join(known)}{nearest(name, known)}", name)
    return None


def _device(
    written: Mapping[str, Any] | None, preset: Preset | None, host: Host, source: Source
) -> tuple[int | None, dict[str, Any] | None]:
    """Return the devices of a node where the name says so ("4 x A100"), and the device."""
    if written is None:
        return None, host.devices[preset.device].to_dict() if preset else None
    if "name" not in written:
        return None, dict(written)
    count, found = find_devices(written["name"], host.devices.values())
    if len({device.chip for device in found}) == 1:
        return count, found[0].to_dict()
    source.problem(
        ("cluster", "device"), _unknown_device(written["name"], found, host.devices.values()), written["name"]
    )
    return None, None


def _unknown_device(name: str, found: list[Device], known: Iterable[Device]) -> str:
    names = [device.name for device in (found or known)]
    hint = "" if found else nearest(name, [device.chip.lower() for device in known])
    return (
        f"one of {', '.join(names)}{hint}; or the device's own figures: "
        '{ samples_per_second = 52, batch_size = 16 } or { step_time = "312 ms", batch_size = 64 }'
    )


def _link(
    key: str, written: Mapping[str, Any] | None, host: Host, folder: Path, source: Source
) -> dict[str, Any] | None:
    """Return a link in figures; measured groups and tables also have those of their largest group."""
    if written is None or "bandwidth_bytes_per_s" in written:
        return None if written is None else dict(written)
    if "by_group" in written:
        return {**written["by_group"][max(written["by_group"], key=int)], "by_group": dict(written["by_group"])}
    if "table" in written:
        return _table(key, written, folder, source)
    known = host.links
    if written["name"] in known:
        return _figures(known[written["name"]].link(), written["name"])
    names = ", ".join(sorted(known))
    problem = f'one of {names}{nearest(written["name"], known)}; or a rate such as "25 Gb/s"'
    source.problem(("cluster", key), problem, written["name"])
    return None


def _table(key: str, written: Mapping[str, Any], folder: Path, source: Source) -> dict[str, Any] | None:
    try:
        tables = read_tables(folder / written["table"], written.get("gpu"))
    except ValueError as error:
        source.problem(("cluster", key, "table"), str(error), written["table"])
        return None
    groups = {str(ranks): _figures(fitted_link(ranks, table)) for ranks, table in tables.items()}
    measured = {str(ranks): [list(point) for point in table] for ranks, table in tables.items()}
    return {**groups[max(groups, key=int)], "by_group": groups, "tables": measured}


def cluster_in_words(cluster: Mapping[str, Any], host: Host) -> Iterable[str]:
    """Say what was understood of a cluster."""
    device = cluster["device"]
    if device and "peak_flops_per_s" in device:
        yield _device_in_words(device, host)
    elif device and "step_time_s" in device:
        yield f"a device takes {exact_duration(device['step_time_s'])} for {device['batch_size']:g} samples"
    elif device:
        yield f"a device computes {device['samples_per_second']:g} samples/s at {device['batch_size']:g} samples a step"
    if cluster["gpus_per_node"]:
        yield f"a node holds {cluster['gpus_per_node']} devices"
    elif cluster["inter_node"]:
        yield "cluster.gpus_per_node is not given: every device is a node of its own"
    for key in ("intra_node", "inter_node"):
        if cluster[key]:
            yield _link_in_words(key, cluster[key])
    if "servers" in cluster:
        yield from _servers_in_words(cluster["servers"])


_PLACES = {
    "cpu": "in the host memory of the first node",
    "gpu": "on every device, an equal share each",
    "co-located": "on the workers' nodes",
    "dedicated": "outside the workers' nodes",
}


def _servers_in_words(servers: Mapping[str, Any]) -> Iterable[str]:
    count = servers["count"] or (1 if servers["placement"] in ("cpu", "dedicated") else 0)
    shards = {0: "", 1: "one server "}.get(count, f"{count} equal shards ")
    text = f"cluster.servers: {shards}{_PLACES[servers['placement']]}"
    text += ", one on each" if servers["placement"] == "co-located" and not count else ""
    rate = servers["apply_bytes_per_s"]
    yield text + (f", each adds gradients at {exact_bandwidth(rate)}" if rate else "")
    if servers["link"]:
        yield _link_in_words("servers.link", servers["link"])


def _device_in_words(device: Mapping[str, Any], host: Host) -> str:
    others = [other.name for other in host.devices.values() if other.chip == device["chip"]]
    others.remove(device["name"])
    forms = f" (not {', '.join(others)})" if others else ""
    return f"a device is {device['name']}{forms} with {memory_size(device['usable_bytes'])} of memory"


def _link_in_words(key: str, link: Mapping[str, Any]) -> str:
    rate, latency = link["bandwidth_bytes_per_s"], link["latency_s"]
    name = f" ({link['name']})" if "name" in link else ""
    text = f"cluster.{key}{name} carries {bandwidth(rate, 4)} ({bit_rate(rate, 4)})"
    text += f" after {exact_duration(latency, 3)}"
    groups = [
        f"{size}: {figure(entry['bandwidth_bytes_per_s'] / 1e9, 4)}" for size, entry in link.get("by_group", {}).items()
    ]
    return text + (f"; by group size {', '.join(groups)} GB/s" if groups else "")
