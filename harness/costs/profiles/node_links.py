"""Links inside and between machines as they were measured, and what each machine says of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.core.given_cluster import LinkFigures
from harness.costs.profiles.exchange_times import ExchangeTimes, ring_figures, send_figures


@dataclass(frozen=True)
class InterfaceFacts:
    """The interface that a machine's processes meet over, and what else may explain how fast they do.

    Attributes:
        host: name of the machine.
        interface: its name; empty where only the backend knows.
        mtu: bytes of a packet; None where unknown.
        rated_bytes_per_s: what it says it is able to; None where it says nothing or is not a real one.
        driver: of the interface; empty where unknown.
        offloads: what the adapter is to do for the processor, by ethtool's short names (tso, gso, gro), and whether
            it does.
        others: interfaces that are up and able to more, with their rates in bytes a second.
        adapters: InfiniBand and RoCE adapters that are up, with their rates in bytes a second.
        environment: variables that decide how processes reach each other (GLOO_*, NCCL_*).
    """

    host: str
    interface: str = ""
    mtu: int | None = None
    rated_bytes_per_s: float | None = None
    driver: str = ""
    offloads: Mapping[str, bool] = field(default_factory=dict)
    others: Mapping[str, float] = field(default_factory=dict)
    adapters: Mapping[str, float] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NodeLinks:
    """What `harness calibrate` found over one machine or several.

    Attributes:
        device: "cpu" or "cuda".
        backend: that carried the exchanges.
        per_node: ranks of each machine.
        exchanges: what was measured, in the order of measuring.
        nodes: each machine in its own words, in the order of the ranks.
        measured_at: seconds since the epoch.
    """

    device: str
    backend: str
    per_node: int
    exchanges: tuple[ExchangeTimes, ...]
    nodes: tuple[InterfaceFacts, ...]
    measured_at: float

    def sends(self, between: bool) -> list[ExchangeTimes]:
        """Return the sends between machines, or those inside one, slowest first."""
        found = [each for each in self.exchanges if each.exchange == "send" and (each.nodes > 1) == between]
        return sorted(found, key=lambda each: send_figures(each.table).bandwidth_bytes_per_s)

    def link(self, between: bool) -> LinkFigures | None:
        """Return delay and rate of the slowest link between machines, or inside one; None where none was measured.

        The slowest, since that is what everybody waits for in a collective.
        """
        sends = self.sends(between)
        return send_figures(sends[0].table) if sends else None

    def all_reduces(self, between: bool) -> list[ExchangeTimes]:
        """Return the all-reduces over all ranks of the machines, or over all of one of them."""
        return [
            each
            for each in self.exchanges
            if each.exchange == "all-reduce"
            and (each.nodes > 1) == between
            and each.ranks == each.nodes * self.per_node
        ]

    def rings(self, between: bool) -> dict[int, LinkFigures]:
        """Return what rings get by their number of ranks, as these all-reduces say."""
        return {each.ranks: ring_figures(each.ranks, each.table) for each in self.all_reduces(between)}
