"""Parameter servers in virtual time: where a message to or from equal shards passes, and how long shards add."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from harness.core.addresses import Address
from harness.costs.profiles import LinkFigures, Servers
from harness.costs.steps import ServerTimes, adding_bytes_per_s, hidden_at_servers, server_times, shards, waiting_s
from harness.engines.virtual.messages import Interface

if TYPE_CHECKING:
    from harness.engines.shared.setup import Setup
    from harness.engines.virtual.prices import Costs


class Place(NamedTuple):
    """Interfaces that a message occupies, each for as long.

    Attributes:
        near: on the worker's side: a push leaves through them, and comes into all others.
        spared: one of them that holds its shard itself.
    """

    interfaces: Sequence[Interface]
    seconds: float
    near: bool
    spared: Interface | None = None


class Passage(NamedTuple):
    """When a message has left every interface, and when it is there, or added to what the servers hold."""

    through_s: float
    arrival_s: float


class ServerWays:
    """The ways between workers and the equal shards that one server of a strategy stands for.

    Every interface works on messages from the moment they are sent, in that order, and a message is through when the
    slowest of its interfaces has done with it. All gradients sent at once so take as long as the busiest interface
    has to do: `max(S / B_worker, W S / (K B_server))` with K dedicated shards. Computing costs what it costs one of
    several workers. Where ways overlap with computing, a push counts from when its first layers left, and weights are
    there once what is still to come does not hold up the forward pass.

    Source: closed forms of Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server".

    Args:
        interface_at: the interface of ("node", number), ("endpoint", worker), or any other place.
    """

    def __init__(self, costs: Costs, setup: Setup, interface_at: Callable[[Hashable], Interface]) -> None:
        cell = setup.cell
        self.cluster, self.workers = costs.cluster, cell.workers
        self.servers = costs.cluster.servers or Servers()
        self.devices = setup.layout.devices
        self.synchronous = setup.strategy.synchrony == "synchronous"
        self.node_of = [costs.node_of(rank, setup.layout) or 0 for rank in range(cell.workers)]
        self.local = Counter(self.node_of)
        self.between = self.cluster.node_link or self.cluster.bus.link
        self.slot = self.cluster.host_link or self.cluster.bus.link
        self.at = interface_at
        self._known: dict[tuple[str, int], Sequence[Interface]] = {}
        self.costs = costs.slowed_alike(1 + self.cluster.crowded_fraction(cell.gpus))
        # Who waits for all waits for the slowest.
        self._meeting = cell.workers if self.synchronous else 1
        self._add_bytes_per_s = adding_bytes_per_s(self.cluster, cell.workers)
        # Where nobody says how fast servers are, each shard updates its part as a device would.
        nobody_says = self._add_bytes_per_s == float("inf")
        self.apply_s = costs.apply_s / shards(self.cluster, cell.workers) if nobody_says else 0.0
        self._hidden, self._weights_bytes = ServerTimes(0.0, 0.0), self.costs.profile.shape.parameter_bytes
        if self.servers.overlap and cell.workers > 1 and self._weights_bytes:
            samples = min(int(cell.micro_batch_size), -(-cell.global_batch_size // cell.workers))
            self._hidden = hidden_at_servers(self.costs.profile, self.cluster, self._meeting, samples)

    def waiting_s(self, compute_s: float) -> float:
        """Return how long a worker waits for the slowest of those that it meets."""
        return waiting_s(self.cluster.constants.spread_fraction, compute_s, self._meeting)

    @property
    def at_devices(self) -> bool:
        """Whether what servers send needs no further copy to be in a device's memory."""
        return self.servers.placement != "dedicated"

    def carry(self, now: float, worker: Address, server: Address, num_bytes: float, push: bool) -> Passage:
        """Send a message to the servers (`push`) or from them; its interfaces are busy for that long."""
        push_hidden_s, pull_hidden_s = self._hidden_of(num_bytes)
        started = now - push_hidden_s * push
        through = now
        for place in self._places(worker, server, num_bytes):
            seconds, outward, spared = place.seconds, place.near == push, place.spared
            for interface in place.interfaces:
                if interface is not spared and (done := interface.occupy(started, seconds, outward)) > through:
                    through = done
        if self.synchronous and not push:
            # Answers of one moment share every interface alike: none is through long before the others.
            through = max(through, now + server_times(self.cluster, self.workers, num_bytes).pull_s)
        if not push:
            through = max(now, through - pull_hidden_s)
        return Passage(through, through + self._link(worker).latency_s)

    def added(self, now: float, passage: Passage, server: Address, num_bytes: float) -> Passage:
        """Return a gradient's passage with the time until shards have added it: one gradient after the other."""
        seconds, hidden_s = num_bytes / self._add_bytes_per_s, self._hidden_of(num_bytes).push_s
        queue = self.at(("adding", server)).occupy(now - hidden_s, seconds, outward=False)
        # What comes layer by layer is added layer by layer; what comes at once, once it is there.
        return passage._replace(arrival_s=max(passage.arrival_s + (0.0 if hidden_s else seconds), queue))

    def _hidden_of(self, num_bytes: float) -> ServerTimes:
        """Return how much of a message's ways computing hides: of gradients and weights, not of short messages."""
        share = min(1.0, num_bytes / self._weights_bytes) if self._weights_bytes else 0.0
        return ServerTimes(share * self._hidden.push_s, share * self._hidden.pull_s)

    def sent_bytes(self, worker: Address, num_bytes: float) -> float:
        """Return what of a message leaves the worker's device, or its node where there are several."""
        if self.servers.placement == "gpu":
            return num_bytes * (self.workers - 1) / self.workers
        if self.servers.placement == "co-located" and len(self.local) > 1:
            return num_bytes * self._remote(worker)
        return num_bytes

    # -- interfaces ----------------------------------------------------------------------------------------------

    def _places(self, worker: Address, server: Address, num_bytes: float) -> Iterator[Place]:
        places = {
            "cpu": self._through_host,
            "gpu": self._through_devices,
            "co-located": self._through_nodes,
            "dedicated": self._through_own,
        }
        return places[self.servers.placement](worker, server, num_bytes)

    def _through_own(self, worker: Address, server: Address, num_bytes: float) -> Iterator[Place]:
        yield self._node(worker, self.between.seconds(num_bytes))
        link = self.servers.link or self.between
        yield Place([self.at(("servers", server))], link.seconds(num_bytes / self.servers.count), False)

    def _through_host(self, worker: Address, server: Address, num_bytes: float) -> Iterator[Place]:
        yield self._in_slot(worker, num_bytes)
        yield self._in_memory(0, num_bytes)
        if self.node_of[worker]:
            yield self._node(worker, self.between.seconds(num_bytes))
            yield Place([self.at(("node", 0))], self.between.seconds(num_bytes), False)

    def _through_nodes(self, worker: Address, server: Address, num_bytes: float) -> Iterator[Place]:
        yield self._in_slot(worker, num_bytes)
        yield self._in_memory(self.node_of[worker], num_bytes)
        if len(self.local) == 1:
            return
        own = self._node(worker, self.between.seconds(num_bytes * self._remote(worker)))
        yield own
        part = self.between.seconds(num_bytes * self._share(worker) / self._holders)
        yield Place(self._of_all("node", self._holders), part, False, spared=own.interfaces[0])

    def _through_devices(self, worker: Address, server: Address, num_bytes: float) -> Iterator[Place]:
        part, bus, own = num_bytes / self.workers, self.cluster.bus.link, self.node_of[worker]
        devices = self._of_all("endpoint", self.workers)
        yield Place([devices[worker]], bus.seconds(part * (self.workers - 1)), True)
        yield Place(devices, bus.seconds(part), False, spared=devices[worker])
        if len(self.local) > 1:
            yield self._node(worker, self.between.seconds(part * (self.workers - self.local[own])))
            for node, held in self.local.items():
                if node != own:
                    yield Place([self.at(("node", node))], self.between.seconds(part * held), False)

    def _node(self, worker: Address, seconds: float) -> Place:
        return Place([self.at(("node", self.node_of[worker]))], seconds, True)

    def _of_all(self, kind: str, count: int) -> Sequence[Interface]:
        """Return the interfaces of the first so many places of a kind."""
        if (kind, count) not in self._known:
            self._known[kind, count] = [self.at((kind, number)) for number in range(count)]
        return self._known[kind, count]

    def _in_slot(self, worker: Address, num_bytes: float) -> Place:
        """Occupy the slot of a device: those that share it wait for each other."""
        node, in_node = divmod(worker * self.devices, self.cluster.gpus_per_node)
        slot = ("slot", node, in_node // self.cluster.host_shared_by)
        return Place([self.at(slot)], self.slot.seconds(num_bytes), True)

    def _in_memory(self, node: int, num_bytes: float) -> Place:
        """Occupy a host's memory, which adds up gradients and is read for what goes back."""
        rate = self.cluster.constants.host_add_bytes_per_s
        return Place([self.at(("memory", node))], num_bytes / rate, False)

    # -- shares --------------------------------------------------------------------------------------------------

    @property
    def _holders(self) -> int:
        """Nodes that hold shards."""
        return min(self.servers.count, len(self.local))

    def _share(self, worker: Address) -> float:
        """Return what a message is of its node's: replicas add up first where all wait for all, and share answers."""
        return 1 / self.local[self.node_of[worker]] if self.synchronous else 1.0

    def _remote(self, worker: Address) -> float:
        """Return the part of a message that shards on other nodes hold."""
        holders = self._holders
        return self._share(worker) * (holders - (self.node_of[worker] < holders)) / holders

    def _link(self, worker: Address) -> LinkFigures:
        """Return the link whose latency a message waits for."""
        placement, several = self.servers.placement, len(self.local) > 1
        if placement == "dedicated" or (several and placement != "cpu") or self.node_of[worker]:
            return self.between
        return self.cluster.bus.link if placement == "gpu" else self.slot
