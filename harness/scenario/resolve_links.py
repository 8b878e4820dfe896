"""A link in figures: what its name, its medium or its measurements say where the scenario does not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from harness.core.errors import one_of
from harness.core.given_cluster import GivenLink, LinkFigures
from harness.costs.catalogue import CARRIED, LATENCY_S, medium_of
from harness.scenario.link_values import WrittenLink
from harness.scenario.mistakes import Source

if TYPE_CHECKING:
    from harness.api.host import Host

LinkPlace = Literal["inside", "between"]
"""Of a link: inside a node, or between nodes."""


def resolve_link(
    path: tuple[str, ...],
    written: WrittenLink | None,
    place: LinkPlace,
    devices: int,
    host: Host,
    folder: Path,
    source: Source,
) -> GivenLink | None:
    """Return a link in figures; None where nothing is written, or after adding a problem.

    Args:
        path: of its key.
        devices: of one node, as far as the shape of a link is between them.
    """
    if written is None:
        return None
    if written.table:
        return _measured(path, written, place, folder, source)
    single = _of_name(path, written, host, source) if written.name else _of_rate(written, place)
    if single is None:
        return None
    link = replace(single, bandwidth_bytes_per_s=single.bandwidth_bytes_per_s * written.adapters)
    return _shaped(path, replace(link, shared_by=written.shared_by), written, devices, source)


def _of_name(path: tuple[str, ...], written: WrittenLink, host: Host, source: Source) -> GivenLink | None:
    known = host.links
    if written.name not in known:
        problem = f'{one_of(written.name, sorted(known), "harness plugins")}; or give a rate such as "25 Gb/s"'
        source.problem(path, problem, written.name)
        return None
    figures = known[written.name].link()
    latency_s = figures.latency_s if written.latency_s is None else written.latency_s
    return GivenLink(latency_s, figures.bandwidth_bytes_per_s, written.name)


def _of_rate(written: WrittenLink, place: LinkPlace) -> GivenLink:
    """Return what a rate says, with the latency of its medium where none is written."""
    rate, nominal = written.bandwidth_bytes_per_s, written.nominal_bytes_per_s
    if rate is None and nominal is None:
        rate = max(group.bandwidth_bytes_per_s for group in written.bus_bandwidth.values())
    medium = written.medium or medium_of(rate or nominal or 0.0, place == "inside")
    if rate is None:
        rate = (nominal or 0.0) * CARRIED[medium]
    if written.latency_s is not None:
        return GivenLink(written.latency_s, rate)
    return GivenLink(LATENCY_S[medium], rate, medium=medium)


def _shaped(
    path: tuple[str, ...], link: GivenLink, written: WrittenLink, devices: int, source: Source
) -> GivenLink | None:
    """Return the link with what rings over fewer devices get of it."""
    from harness.costs.cells import graph_rates, link_of_groups, split_groups  # late: most scenarios have none

    latency_s = link.latency_s
    if written.bus_bandwidth:
        groups = {
            size: LinkFigures(latency_s if group.latency_s is None else group.latency_s, group.bandwidth_bytes_per_s)
            for size, group in written.bus_bandwidth.items()
        }
        single = written.name or written.bandwidth_bytes_per_s is not None
        return replace(link, by_group=groups) if single else link_of_groups(groups, link)
    if written.graph:
        rates = graph_rates(written.graph, link.bandwidth_bytes_per_s, devices)
        if devices not in rates:
            source.problem((*path, "graph"), f"no ring over the {devices} devices of a node: one of them has no link")
            return None
        return link_of_groups({size: LinkFigures(latency_s, rate) for size, rate in rates.items()}, link)
    if written.between_bytes_per_s is not None and written.groups_of < devices:
        share = 1.0 if written.nominal_bytes_per_s is None else CARRIED[written.medium]
        return split_groups(link, written.groups_of, written.between_bytes_per_s * share, devices)
    return link


def _measured(
    path: tuple[str, ...], written: WrittenLink, place: LinkPlace, folder: Path, source: Source
) -> GivenLink | None:
    from harness.costs.cells import fitted_link, link_of_groups, read_tables  # late: most scenarios give no table

    try:
        tables = read_tables(folder / written.table, written.gpu)
    except ValueError as error:
        source.problem((*path, "table"), str(error), written.table)
        return None
    groups = {ranks: fitted_link(ranks, table) for ranks, table in tables.items()}
    if written.bandwidth_bytes_per_s is not None:
        return replace(_of_rate(written, place), by_group=groups, tables=tables)
    return replace(link_of_groups(groups), tables=tables)
