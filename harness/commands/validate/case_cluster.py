"""The machine of a published row, as the [cluster] of a scenario."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.commands.validate.case_scenario import Keys, csv_lines
from harness.commands.validate.case_systems import (
    UNKNOWN_LINK_BYTES_PER_S,
    UNKNOWN_NODE_BYTES_PER_S,
    block_of,
    first_match,
)
from harness.commands.validate.published import TableRow, Tables, TomlTable
from harness.core.units import GIGA
from harness.costs.catalogue import DEVICES, find_devices

PCIE3_X16_BYTES_PER_S = 15.75e9
"""One direction of a slot. Source: PCI Express Base Specification 3.0: 16 lanes of 8 GT/s, 128b/130b coding."""

_MEDIA: Mapping[str, str] = {
    **{"nvlink-mesh": "nvlink", "nvlink-bridge": "nvlink", "nvswitch": "nvlink", "fabric": "infiniband"},
    "unknown": "pcie",
}
"""Of a link's kind, where it has another name; a network that is only called a fabric is taken for InfiniBand."""


def cluster_keys(published: Tables, row: TableRow, step_s: float = 1.0, batch_size: int = 1) -> dict[str, object]:
    """Return the keys of [cluster] that say what a system block says.

    Args:
        step_s, batch_size: how fast a device computes, before anything is calibrated.

    Raises:
        Unpredictable: no block matches the row.
    """
    block = block_of(published, row)
    name = str(block["device"])
    device: dict[str, object] = {"step_time": f"{step_s!r} s", "batch_size": batch_size}
    if len({found.chip for found in find_devices(name, DEVICES)[1]}) == 1:
        device["name"] = name
    keys: dict[str, object] = {"device": device, "gpus_per_node": int(block["gpus_per_node"])}
    inside = _inside(published, block)
    if inside is not None:
        keys["intra_node"] = inside
    nodes = row.nodes or -(-(row.gpus or 1) // int(block["gpus_per_node"]))
    between = block.get("node_link", {"kind": "infiniband"} if nodes > 1 else None)
    if between is not None and between["kind"] != "none":
        rate = between.get("GBps_per_node_per_direction", UNKNOWN_NODE_BYTES_PER_S / GIGA)
        keys["inter_node"] = _link(between, rate)
    if "algorithm" in block:
        keys["all_reduce"] = block["algorithm"]
    if "host_link" in block:
        host = block["host_link"]
        rate = host.get("GBps_per_direction", PCIE3_X16_BYTES_PER_S / GIGA)
        keys["host_link"] = {**_link({**host, "kind": "pcie"}, rate), "shared_by": host.get("shared_by", 1)}
    if "servers" in block:
        entry = first_match(block["servers"].get("counts", ()), row) or block["servers"]
        placement = block["servers"].get("placement", "cpu")
        keys["servers"] = {"placement": placement} | ({} if placement == "gpu" else {"count": entry.get("count", 1)})
    if name.startswith("CPU"):
        keys["shared_host"] = True
    return keys


def _inside(published: Tables, block: TomlTable) -> Keys | str | None:
    link = block["link"]
    if link["kind"] == "none":
        return None
    if "collectives" in link:
        case, _, chip = link["collectives"].partition(":")
        return {"table": f"{case}.csv", "gpu": chip}
    if "GBps_per_gpu_per_direction" not in link:
        return f"{UNKNOWN_LINK_BYTES_PER_S!r} B/s"
    graph = published.link_graphs.get(link.get("graph", ""))
    if graph:
        return {**_link(link, graph["GBps_per_link_per_direction"]), "graph": graph["links"]}
    keys = _link(link, link["GBps_per_gpu_per_direction"])
    if "group_size" in link:
        between = link.get("GBps_between_groups", link["GBps_per_gpu_per_direction"])
        keys |= {"groups_of": link["group_size"], "between_groups": f"{between} GB/s"}
    return keys | ({"shared_by": link["shared_by"]} if "shared_by" in link else {})


def _link(link: TomlTable, rate: float) -> dict[str, object]:
    """Return a link by what it is sold with; a guess is of what it carries."""
    medium = _MEDIA.get(link["kind"], link["kind"])
    carried = link.get("origin") == "calibrate"
    keys: dict[str, object] = {"bandwidth" if carried else "nominal": f"{rate} GB/s", "medium": medium}
    return keys | ({"latency": f"{link['latency_us']} us"} if "latency_us" in link else {})


def table_lines(published: Tables, case: str) -> str:
    """Return the measured all-reduces of a case as a table that `cluster.intra_node` reads."""
    return reduced_lines([row for row in published.rows if row.num_bytes and row.case == case])


def reduced_lines(rows: Sequence[TableRow]) -> str:
    """Return all-reduces as such a table."""
    head = ("gpu", "n", "bytes", "seconds")
    return csv_lines(head, [(r.block_series, r.gpus or 1, r.num_bytes or 0.0, r.value) for r in rows])
