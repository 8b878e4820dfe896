"""What the endpoints of one virtual cluster share: its clock, what things cost there, and what lies between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import simpy

from harness.core.addresses import Address
from harness.engines.shared.fault_draws import FaultDraws
from harness.engines.virtual.cores import Cores
from harness.engines.virtual.messages import Interface, MeetingPoint
from harness.engines.virtual.servers import ServerWays
from harness.engines.virtual.slow import StepCosts

if TYPE_CHECKING:
    from harness.api.strategy import Codec
    from harness.engines.shared.setup import Setup
    from harness.engines.virtual.executor import Executor
    from harness.engines.virtual.prices import Costs
    from harness.engines.virtual.spans import Tracer


UNKNOWN_CODEC = "encoding and decoding count as no time: nothing is known of how fast a device goes over its memory"


@dataclass(eq=False)
class VirtualCluster:
    """What the endpoints of one cell share.

    Attributes:
        executor: what computes.
        tracer: keeps spans; None without a trace.
        steps: costs of gradients.
        ways: to servers that the scenario describes; None: a server is an endpoint like any other.
        cores: of the host, where its devices share them.
        present: everybody who takes part, by address.
        meetings: means that some workers have called and others have not yet, by number.
        met_s: when the last one began.
    """

    setup: Setup
    costs: Costs
    executor: Executor
    tracer: Tracer | None = None
    env: simpy.Environment = field(default_factory=simpy.Environment)
    interfaces: dict[Hashable, Interface] = field(default_factory=dict)
    present: Mapping[Address, Any] = field(default_factory=dict)
    meetings: dict[int, MeetingPoint] = field(default_factory=dict)
    met_s: float = 0.0
    bytes_sent: float = 0.0
    unawaited: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    recorded: dict[str, float] = field(default_factory=dict)
    updates_log: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        cell, layout, runtime = self.setup.cell, self.setup.layout, self.costs.cluster.runtime
        self.faults = FaultDraws(cell)
        # A cell with more devices than this machine has cores is on a larger one.
        self.cores = None if runtime.cores is None else Cores(max(runtime.cores, cell.gpus * runtime.threads))
        described = self.costs.cluster.servers is not None and cell.servers > 0
        self.ways = ServerWays(self.costs, self.setup, self.interface_at) if described else None
        costs, waiting = (self.costs, None) if self.ways is None else (self.ways.costs, self.ways.waiting_s)
        self.steps = StepCosts(costs, layout, cell.micro_batch_size, waiting)

    def interface_of(self, address: Address) -> Interface:
        """Return an endpoint's own interface, or its node's where there are several nodes."""
        node = self.costs.node_of(address, self.setup.layout)
        return self.interface_at(("endpoint", address) if node is None else ("node", node))

    def interface_at(self, place: Hashable) -> Interface:
        """Return the interface of a place."""
        return self.interfaces.setdefault(place, Interface())

    @property
    def apply_s(self) -> float:
        """One update at a server, once a gradient is there; asked for anew each time: costs may draw it."""
        return self.costs.apply_s if self.ways is None else self.ways.apply_s

    def load_s(self, num_bytes: float) -> float:
        """Return the seconds of putting weights into a model, where their way did not end in it."""
        return 0.0 if self.ways is not None and self.ways.at_devices else self.costs.load_s(num_bytes)

    def codec_s(self, codec: Codec, num_bytes: float, decodes: bool) -> float:
        """Return what encoding, or decoding, a value of so many bytes takes; a note says where nobody can tell."""
        if not self.costs.knows_passes and UNKNOWN_CODEC not in self.notes:
            self.notes.append(UNKNOWN_CODEC)
        return self.costs.passes_s(num_bytes, codec.decode_passes if decodes else codec.encode_passes)

    def on_cores(self, cores: Cores, address: Address, began_s: float, seconds: float) -> float:
        """Return how long a word takes that starts then, given who else uses this host's cores."""
        devices = self.setup.layout.devices if address >= 0 else 1
        return cores.occupy(address, began_s, seconds, devices * self.costs.cluster.runtime.threads)

    def lost_by_serving(self, cores: Cores, num_bytes: float) -> float:
        """Return by how much a server's answer is late: more where workers and servers fight for this host's cores."""
        cell, runtime = self.setup.cell, self.costs.cluster.runtime
        crowded = cell.gpus * runtime.threads + cell.servers > cores.count
        return (runtime.served if crowded else runtime.served_apart).at(num_bytes)
