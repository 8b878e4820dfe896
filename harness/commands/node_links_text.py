"""Measured links in words: what they carry of what they are rated at, where to look, and as a scenario's [cluster]."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.core.errors import InputError, one_of
from harness.core.given_cluster import LinkFigures
from harness.core.units import RATE_FORMS, parse_rate
from harness.core.words import (
    aligned,
    bandwidth,
    bit_rate,
    counted,
    duration,
    exact_duration,
    listed,
    memory_size,
    share_in_percent,
)
from harness.costs.catalogue import CARRIED, medium_of
from harness.costs.profiles import ExchangeTimes, InterfaceFacts, NodeLinks, send_figures

if TYPE_CHECKING:
    from harness.api.host import Host

LITTLE = 0.8
"""Of what large messages usually get of a link, below which it is said where to look; chosen: shares of links of one
kind differ by a tenth."""

UNEVEN = 0.85
"""Of the fastest pair, below which the slowest is named; chosen: runs of one pair differ by a twentieth."""

STANDARD_MTU = 1500
FAST_BYTES_PER_S = 10e9 / 8
"""From where on packets of 1,500 bytes keep a processor busy; chosen: 10 Gb/s are 800,000 of them a second."""

WINDOW_BYTES = 4 * 2**20
"""In flight of one connection, as Linux allows where nobody raised it (the third figure of net.ipv4.tcp_wmem)."""


@dataclass(frozen=True)
class Rated:
    """What a link is said to be able to.

    Attributes:
        usual: share of it that large messages usually get, 0..1.
        source: who says so, in words.
    """

    bytes_per_s: float
    usual: float
    source: str


def rated_links(intra_node: str | None, inter_node: str | None) -> tuple[Rated | None, Rated | None]:
    """Return what links inside a machine and between machines are rated at, as the options of the command say.

    Raises:
        InputError: one is neither a link nor a rate.
    """
    if intra_node is None and inter_node is None:
        return None, None
    from harness.api.host import load_host  # late: it imports every plugin

    host = load_host()
    inside = None if intra_node is None else rated_as_written("--intra-node", intra_node, True, host)
    between = None if inter_node is None else rated_as_written("--inter-node", inter_node, False, host)
    return inside, between


def rated_as_written(option: str, written: str, inside: bool, host: Host) -> Rated:
    """Return what a user says of a link: a name of the catalogue or a rate.

    Raises:
        InputError: it is neither.
    """
    if written[:1].isalpha():
        if written not in host.links:
            near = one_of(written, sorted(host.links), "harness plugins")
            raise InputError([f'{option} {written}: {near}; or give a rate such as "25 Gb/s"'])
        link = host.links[written]
        return Rated(link.nominal_bytes_per_s, CARRIED[link.kind], written)
    try:
        rate = parse_rate(written)
    except ValueError:
        rate = 0.0
    if rate <= 0:
        raise InputError([f"{option} {written}: expected a link such as ethernet-25g, or {RATE_FORMS}"])
    return Rated(rate, CARRIED[medium_of(rate, inside)], "given")


def rated_by_machines(links: NodeLinks) -> Rated | None:
    """Return what the machines say of the links between them, the least of it; None where one says nothing.

    InfiniBand and RoCE adapters count where NCCL may use them, all of a machine together.
    """
    found = [_own_rate(facts, links.backend) for facts in links.nodes]
    known = [each for each in found if each is not None]
    return min(known, key=lambda each: each.bytes_per_s) if known and len(known) == len(found) else None


def _own_rate(facts: InterfaceFacts, backend: str) -> Rated | None:
    if backend == "nccl" and facts.adapters and facts.environment.get("NCCL_IB_DISABLE", "0") in ("", "0"):
        names = listed(sorted(facts.adapters))
        return Rated(sum(facts.adapters.values()), CARRIED["infiniband"], f"what {names} of {facts.host} say")
    if facts.rated_bytes_per_s is None:
        return None
    return Rated(facts.rated_bytes_per_s, CARRIED["ethernet"], f"what {facts.interface} of {facts.host} says")


# -- all of it ---------------------------------------------------------------------------------------------------------


def age_of(links: NodeLinks, now_s: float | None = None) -> str:
    """Return how long ago they were measured, in words; `now_s` is the time that is counted to, by default now."""
    age = max(0.0, (time.time() if now_s is None else now_s) - links.measured_at)
    return f"measured {exact_duration(age, 3)} ago"


def describe_nodes(
    links: NodeLinks, origin: str, inside: Rated | None = None, between: Rated | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the text of links that were measured over machines.

    Args:
        origin: where the figures are from, in words.
        inside, between: what the links are said to be able to; default: between machines what these say themselves.
        notes: what else there is to say of the figures.
    """
    hosts = [facts.host for facts in links.nodes]
    each = counted(links.per_node, "rank")
    lines = [
        f"{counted(len(hosts), 'machine')} ({listed(hosts)}) with {each} each, {links.device} over {links.backend}: "
        f"{origin}",
        *(f"  {note}" for note in notes),
    ]
    lines += _link(links, between or rated_by_machines(links), between=True)
    lines += _link(links, inside, between=False)
    for title, exchanges in _groups(links):
        lines += ["", f"  {title}: time of one, and its bus bandwidth", *table_of(exchanges)]
    return "\n".join([*lines, "", "In a scenario:", *cluster_lines(links)])


def _link(links: NodeLinks, rated: Rated | None, between: bool) -> Iterator[str]:
    sends = links.sends(between)
    if not sends:
        return
    figures, where = send_figures(sends[0].table), "between machines" if between else "inside a machine"
    yield f"  {where}: a message gets {_rate(figures.bandwidth_bytes_per_s)}, delay {duration(figures.latency_s)}"
    fastest = send_figures(sends[-1].table).bandwidth_bytes_per_s
    if figures.bandwidth_bytes_per_s < UNEVEN * fastest:
        yield (
            f"    so it is from {listed(sends[0].hosts, 'to')}; from {listed(sends[-1].hosts, 'to')} it gets "
            f"{_rate(fastest)}"
        )
    if rated is None:
        option = "--inter-node" if between else "--intra-node"
        yield f"    nothing says what this link is rated at; name it to see its share: {option} LINK"
        return
    yield f"    {share_of(figures.bandwidth_bytes_per_s, rated)}"
    if figures.bandwidth_bytes_per_s < LITTLE * rated.usual * rated.bytes_per_s:
        yield "    where to look:"
        yield from (f"      {hint}" for hint in where_to_look(links, figures, rated, between))


def share_of(bytes_per_s: float, rated: Rated) -> str:
    """Return in words which share of its rate a link gives, and which is usual."""
    share = bytes_per_s / rated.bytes_per_s
    return (
        f"this link gives {share_in_percent(share)} of its rate ({bandwidth(rated.bytes_per_s)} or "
        f"{bit_rate(rated.bytes_per_s)}, {rated.source}); large messages usually get {share_in_percent(rated.usual)}"
    )


def _rate(bytes_per_s: float) -> str:
    return f"{bandwidth(bytes_per_s)} ({bit_rate(bytes_per_s)})"


def _groups(links: NodeLinks) -> Iterator[tuple[str, list[ExchangeTimes]]]:
    """Return what was measured over each group of ranks; sends stand with the smallest group that they are in."""
    collectives: dict[tuple[int, int], list[ExchangeTimes]] = {}
    for each in links.exchanges:
        if each.exchange != "send":
            collectives.setdefault((each.ranks, each.nodes), []).append(each)
    for between in (False, True):
        sends = links.sends(between)[:1]
        for ranks, nodes in sorted(key for key in collectives if (key[1] > 1) == between):
            title = f"{counted(ranks, 'rank')} on {counted(nodes, 'machine')}"
            yield title, [*sends, *collectives[ranks, nodes]]
            sends = []
        if sends:
            yield f"2 ranks on {counted(sends[0].nodes, 'machine')}", sends


def table_of(exchanges: Sequence[ExchangeTimes]) -> list[str]:
    """Return the lines of a table: a row for each size, a column for each exchange."""
    sizes = sorted({size for each in exchanges for size, _ in each.table})
    ranks = max(each.ranks for each in exchanges)
    names = [each.exchange if each.ranks == ranks else f"{each.exchange} of {each.ranks}" for each in exchanges]
    head = ["", *names]
    rows = [[memory_size(size), *(_figures(each, size) for each in exchanges)] for size in sizes]
    return [f"    {line}" for line in aligned([head, *rows], right=range(len(head)))]


def _figures(exchange: ExchangeTimes, size: float) -> str:
    sizes = [each for each, _ in exchange.table]
    if size not in sizes:
        return ""
    row = sizes.index(size)
    return f"{duration(exchange.table[row][1])} {bandwidth(exchange.bus_rate(row)):>10}"


# -- as a scenario has it ----------------------------------------------------------------------------------------------


def cluster_lines(links: NodeLinks) -> list[str]:
    """Return the lines of [cluster] that say what was measured.

    Single messages have the rate and the delay of a send. All-reduces stand beside them as they were measured, since no
    rate of single messages tells them.
    """
    found = ["  [cluster]", *([f"  gpus_per_node = {links.per_node}"] if len(links.nodes) > 1 else [])]
    for key, between in (("intra_node", False), ("inter_node", True)):
        if value := link_value(links.link(between), links.rings(between)):
            found.append(f"  {key} = {value}")
    return found


def link_value(single: LinkFigures | None, rings: Mapping[int, LinkFigures]) -> str:
    """Return a link as a scenario writes it; nothing where nothing was measured."""
    parts = _parts(single) if single else []
    if rings:
        groups = ", ".join(f"{ranks} = {{ {', '.join(_parts(ring))} }}" for ranks, ring in sorted(rings.items()))
        parts.append(f"bus_bandwidth = {{ {groups} }}")
    return f"{{ {', '.join(parts)} }}" if parts else ""


def _parts(figures: LinkFigures) -> list[str]:
    rate = bandwidth(figures.bandwidth_bytes_per_s, 4).replace(",", "")
    return [f'bandwidth = "{rate}"', f'latency = "{exact_duration(figures.latency_s, 3)}"']


# -- where to look -----------------------------------------------------------------------------------------------------


def where_to_look(links: NodeLinks, found: LinkFigures, rated: Rated, between: bool) -> Iterator[str]:
    """Return what usually makes such a link slow, as far as the machines' own words speak for it; surest first."""
    if not between:
        yield from _inside(links)
        return
    variable = "NCCL_SOCKET_IFNAME" if links.backend == "nccl" else "GLOO_SOCKET_IFNAME"
    said: dict[str, list[str]] = {}
    for facts in links.nodes:
        hints = [*_adapters(facts, links.backend), *_interface(facts, variable), *_adapter_settings(facts, rated)]
        for hint in hints:
            said.setdefault(hint, []).append(facts.host)
    yield from (f"{listed(hosts)}: {hint}" for hint, hosts in said.items())
    mtus = {facts.mtu for facts in links.nodes if facts.mtu}
    if len(mtus) > 1:
        yield f"the MTUs differ ({listed(str(mtu) for mtu in sorted(mtus))}): set the same on all machines"
    in_flight = found.latency_s * rated.bytes_per_s
    if in_flight > WINDOW_BYTES:
        yield (
            f"{memory_size(in_flight)} are in flight on such a link, and one connection may hold "
            f"{memory_size(WINDOW_BYTES)}: raise the last figure of net.ipv4.tcp_rmem and net.ipv4.tcp_wmem"
        )
    if links.backend == "nccl":
        yield "NCCL_DEBUG=INFO has NCCL say what it uses: NET/IB is InfiniBand or RoCE, NET/Socket is TCP"
    hosts = [facts.host for facts in links.nodes]
    yield f"`iperf3 -s` on {hosts[0]} and `iperf3 -c {hosts[0]}` on {hosts[1]} show what it gives without this software"


def _inside(links: NodeLinks) -> Iterator[str]:
    disabled = [
        name
        for name in ("NCCL_P2P_DISABLE", "NCCL_SHM_DISABLE")
        for facts in links.nodes
        if facts.environment.get(name, "0") not in ("", "0")
    ]
    for name in dict.fromkeys(disabled):
        yield f"{name} is set: unset it"
    if links.backend == "nccl":
        yield "`nvidia-smi topo -m` shows how the devices are joined: NV# is NVLink, PHB and SYS pass the processor"
        yield "`nvidia-smi nvlink -s` shows links that are down"
    else:
        yield "gloo copies through the host's TCP stack: other processes on its cores make it slow"


def _adapters(facts: InterfaceFacts, backend: str) -> Iterator[str]:
    if not facts.adapters:
        return
    rates = listed(f"{name} ({bit_rate(rate)})" for name, rate in sorted(facts.adapters.items()))
    if backend != "nccl":
        yield f"{rates} {_are(facts.adapters)} not used by {backend}, which sends by TCP through {facts.interface}"
    elif facts.environment.get("NCCL_IB_DISABLE", "0") not in ("", "0"):
        yield f"NCCL_IB_DISABLE keeps NCCL from {rates}: unset it"
    elif named := facts.environment.get("NCCL_IB_HCA"):
        yield f"NCCL_IB_HCA={named} chooses among {rates}"


def _interface(facts: InterfaceFacts, variable: str) -> Iterator[str]:
    if facts.others:
        name, rate = max(facts.others.items(), key=lambda item: item[1])
        own = f", which says {bit_rate(facts.rated_bytes_per_s)}" if facts.rated_bytes_per_s else ""
        yield (
            f"the others are met over {facts.interface or 'an unknown interface'}{own}; {name} says {bit_rate(rate)}: "
            f"try {variable}={name} on all machines"
        )
    elif facts.interface:
        driver = f", driver {facts.driver}" if facts.driver else ""
        yield f"the others are met over {facts.interface}{driver}; {variable} chooses another"


def _adapter_settings(facts: InterfaceFacts, rated: Rated) -> Iterator[str]:
    if facts.mtu is not None and facts.mtu <= STANDARD_MTU and rated.bytes_per_s >= FAST_BYTES_PER_S:
        yield (
            f"the MTU of {facts.interface} is {facts.mtu}; 9000 on all machines and switches makes a sixth as many "
            "packets"
        )
    off = [name for name, on in facts.offloads.items() if not on]
    if off:
        words = " ".join(f"{name} on" for name in off)
        yield f"{listed(off)} of {facts.interface} {_are(off)} off: ethtool -K {facts.interface} {words}"


def _are(names: Iterable[str]) -> str:
    return "is" if len(list(names)) == 1 else "are"
