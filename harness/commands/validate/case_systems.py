"""System blocks of cases.toml, and the clusters that they describe."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from harness.commands.validate.published import TableRow, Tables, TomlTable
from harness.core.units import GIGA
from harness.costs.profiles import Bus, Cluster, Constants, LinkFigures, MeasuredTable, Servers

MICRO = 1e-6

PCIE3_X16_BYTES_PER_S = 15.75e9
"""One direction of a slot. Source: PCI Express Base Specification 3.0: 16 lanes of 8 GT/s, 128b/130b coding."""

UNKNOWN_LINK_BYTES_PER_S = 12e9
"""Between devices whose link nobody states: a PCIe 3 slot after protocol; chosen, the least of data-centre machines."""

UNKNOWN_NODE_BYTES_PER_S = 12.5e9
"""Between machines whose network nobody states: one adapter of 100 Gbit/s; chosen, usual beside A100 and V100."""


class Unpredictable(Exception):
    """A row cannot be predicted from what the directory holds; the message says what is missing."""


def block_of(published: Tables, row: TableRow) -> TomlTable:
    """Return the system block that a row belongs to: the first whose filters all match.

    Raises:
        Unpredictable: none matches.
    """
    filters = {"series": row.block_series, "models": row.model, "strategies": row.strategy}
    for block in published.cases[row.case].get("systems", ()):
        if all(name not in block or value in block[name] for name, value in filters.items()):
            return dict(block)
    raise Unpredictable(f"no system block of case {row.case} matches the row")


def row_cluster(published: Tables, row: TableRow, constants: Constants) -> Cluster:
    """Return the cluster that a row was measured on, as far as its block says.

    Raises:
        Unpredictable: no block, or a key that is needed has no value.
    """
    block = block_of(published, row)
    per_node = int(block["gpus_per_node"])
    return Cluster(
        device=block["device"],
        gpus_per_node=per_node,
        bus=_bus(published, block, constants),
        node_link=_node_link(block, constants, _nodes(row, per_node)),
        host_link=_host_link(block.get("host_link")),
        host_shared_by=int(block.get("host_link", {}).get("shared_by", 1)),
        servers=_servers(block, row),
        algorithm=block.get("algorithm", "auto"),
        constants=constants,
        dies_per_board=2 if str(block["device"]).endswith("-die") else 1,
        shared_host=str(block["device"]).startswith("CPU"),
    )


def _nodes(row: TableRow, per_node: int) -> int:
    return row.nodes or -(-(row.gpus or 1) // per_node)


def _bus(published: Tables, block: TomlTable, constants: Constants) -> Bus:
    link = block["link"]
    latency = link.get("latency_us")
    latency_s = constants.bus_latency_s if latency is None else latency * MICRO
    tables = measured_tables(published, link.get("collectives", ""))
    graph = published.link_graphs.get(link.get("graph", ""))
    groups = {}
    if graph:
        rates = graph_bytes_per_s(graph, int(block["gpus_per_node"]))
        groups = {size: LinkFigures(latency_s, rate * constants.bus_fraction) for size, rate in rates.items()}
    if "GBps_per_gpu_per_direction" not in link:
        return Bus(LinkFigures(latency_s, UNKNOWN_LINK_BYTES_PER_S), groups, tables)
    # A guess is of the bandwidth that an all-reduce reaches; other figures are what links carry at best.
    share = 1.0 if link.get("origin") == "calibrate" else constants.bus_fraction
    rate = link["GBps_per_gpu_per_direction"] * GIGA * share / link.get("shared_by", 1)
    group, figure = int(link.get("group_size", 0)), link.get("GBps_between_groups", link["GBps_per_gpu_per_direction"])
    across = LinkFigures(latency_s, figure * GIGA * share) if 0 < group < int(block["gpus_per_node"]) else None
    if across:
        # A ring over more devices than a group holds leaves it, and comes back, over that link.
        narrow = LinkFigures(latency_s, min(rate, across.bandwidth_bytes_per_s))
        sizes = range(2, int(block["gpus_per_node"]) + 1)
        groups = {size: LinkFigures(latency_s, rate) if size <= group else narrow for size in sizes}
    return Bus(LinkFigures(latency_s, rate), groups, tables, group_size=group if across else 0, across=across)


@lru_cache(maxsize=64)
def measured_tables(published: Tables, name: str) -> dict[int, MeasuredTable]:
    """Return the all-reduces of a table such as "K1:V100" by group size."""
    case, _, chip = name.partition(":")
    found: dict[int, list[tuple[float, float]]] = {}
    for row in published.rows:
        if row.num_bytes and (row.case, row.block_series) == (case, chip):
            found.setdefault(row.gpus or 1, []).append((row.num_bytes, row.value))
    return {ranks: tuple(sorted(points)) for ranks, points in found.items()}


def graph_bytes_per_s(graph: TomlTable, devices: int) -> dict[int, float]:
    """Return the bus bandwidth of rings over the first n devices: rings use every link of the device that has fewest.

    Source: Luo et al. 2020, "Plink", section 2: NCCL builds as many rings as the group's links allow.
    """
    rate = graph["GBps_per_link_per_direction"] * GIGA
    found = {}
    for size in range(2, devices + 1):
        inside = [0] * size
        for a, b, bonded in graph["links"]:
            if a < size and b < size:
                inside[a] += bonded
                inside[b] += bonded
        if min(inside):
            found[size] = min(inside) * rate
    return found


def _node_link(block: TomlTable, constants: Constants, nodes: int) -> LinkFigures | None:
    link = block.get("node_link")
    if link is None and nodes == 1:
        return None
    link = link or {}
    if link.get("kind") == "none":
        return None
    latency = link.get("latency_us")
    figure = link.get("GBps_per_node_per_direction")
    rate = UNKNOWN_NODE_BYTES_PER_S if figure is None else figure * GIGA
    return LinkFigures(constants.node_latency_s if latency is None else latency * MICRO, rate * constants.node_fraction)


def _host_link(link: TomlTable | None) -> LinkFigures | None:
    if link is None:
        return None
    figure = link.get("GBps_per_direction")
    rate = PCIE3_X16_BYTES_PER_S if figure is None else figure * GIGA
    return LinkFigures(link.get("latency_us", 0.0) * MICRO, rate)


def _servers(block: TomlTable, row: TableRow) -> Servers:
    servers = block.get("servers", {})
    entry = first_match(servers.get("counts", ()), row)
    return Servers(servers.get("placement", "cpu"), int((entry or servers).get("count", 1)))


def first_match(entries: Sequence[TomlTable], row: TableRow) -> TomlTable | None:
    """Return the first entry of a list in a block whose conditions all match the row."""
    for entry in entries:
        wanted = (
            ("models" not in entry or row.model in entry["models"])
            and ("series" not in entry or row.block_series in _listed(entry["series"]))
            and ("gpus" not in entry or row.gpus == entry["gpus"])
            and ("microbatches" not in entry or row.microbatches == entry["microbatches"])
        )
        if wanted:
            return entry
    return None


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]
