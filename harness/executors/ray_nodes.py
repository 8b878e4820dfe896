"""Several nodes of a Ray cluster at once: one command on each, as one cell over several machines needs it.

For a process that is connected to Ray already (`ray_driver.connect`). Nodes are told apart by their ids: on one machine
several of them have one address, and what meets at an address has to meet at a port as well.
"""

from __future__ import annotations

import os
import pickle
import secrets
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from harness.core.errors import MachineError
from harness.engines.processes.doors import KEY_VARIABLE
from harness.executors.membership import Membership, all_nodes

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

PLACING_S = 60.0
"""For Ray to find nodes that are free; chosen: with an autoscaler, longer has to be given."""


class PlacedOn(NamedTuple):
    """Where a bundle of the group lies.

    Attributes:
        node_id: Ray's.
        address: of the node's interface, as Ray knows it.
        free_port: that nobody listened at when this was asked.
    """

    node_id: str
    address: str
    host: str
    free_port: int


class _Agent:
    """Runs a command on its node; an actor, so that Ray ends it with the group and tells when its node goes."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[bytes] | None = None

    def where(self) -> tuple[str, str, int]:
        import ray

        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        return ray.get_runtime_context().get_node_id(), socket.gethostname(), port

    def run(self, words: Sequence[str], environment: Mapping[str, str]) -> tuple[int, bytes]:
        """Run this node's Python with these words to its end; return its exit code and what it printed."""
        from harness.core.parents import born_deaf, guarded

        told, telling = os.pipe()
        try:
            with born_deaf():
                self.process = subprocess.Popen(
                    guarded([sys.executable, *words], told),
                    pass_fds=[told],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, **environment},
                )
            printed, _ = self.process.communicate()
            return self.process.returncode, printed
        finally:
            os.close(telling)
            os.close(told)

    def lead(self, parcel: bytes, membership: Membership, key: str) -> bytes:
        """Run a task as the first node, and return what came of it, pickled."""
        from harness.executors.travel import run_parcel

        os.environ[KEY_VARIABLE] = key
        with all_nodes(membership, lambda line: None):
            return pickle.dumps(run_parcel(pickle.loads(parcel)))


@dataclass
class NodeGroup:
    """As many nodes as bundles, held until this context is left; leaving it ends all that runs there.

    Attributes:
        places: of each bundle; the first is where the others meet.
    """

    places: tuple[PlacedOn, ...]
    group: PlacementGroup
    agents: list[ActorHandle]

    def __enter__(self) -> Self:
        """Return the group, which is placed already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the nodes back."""
        import ray

        for agent in self.agents:
            ray.kill(agent)
        ray.util.remove_placement_group(self.group)

    def start(self, commands: Sequence[Sequence[str]], environment: Mapping[str, str] | None = None) -> list[ObjectRef]:
        """Start Python on each node, which may lie elsewhere there than here.

        Args:
            commands: what follows the interpreter's name, such as ("-m", "harness", "run", ...), for each node.
            environment: added to that of Ray's workers.

        Returns:
            A reference for each, to (exit code, what was printed); getting it raises `RayActorError` where the node or
            the agent went, whose place in the list says which.
        """
        added = dict(environment or {})
        return [agent.run.remote(list(words), added) for agent, words in zip(self.agents, commands, strict=True)]

    def run_over(self, parcel: bytes) -> ObjectRef:
        """Run a task over all nodes of the group.

        Args:
            parcel: a `TaskParcel`, pickled.

        Returns:
            A reference to what came of it, pickled.
        """
        first, key, count = self.places[0], secrets.token_hex(16), len(self.places)
        led = self.agents[0].lead.remote(parcel, Membership(count, 0, first.address, first.free_port), key)
        for rank, agent in enumerate(self.agents[1:], start=1):
            words = ["-m", "harness", "run", "-", "--nnodes", str(count), "--node-rank", str(rank)]
            words += ["--rendezvous", f"{first.address}:{first.free_port}"]
            agent.run.remote(words, {KEY_VARIABLE: key})
        return led


def spread(num_nodes: int, cpus: int, gpus: int = 0, timeout_s: float = PLACING_S) -> NodeGroup:
    """Take a bundle of CPUs and GPUs on each of so many different nodes (a placement group, STRICT_SPREAD).

    Raises:
        MachineError: they are not to be had in time.
    """
    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    bundle = {"CPU": float(cpus), **({"GPU": float(gpus)} if gpus else {})}
    group = placement_group([bundle] * num_nodes, strategy="STRICT_SPREAD")
    ready, _ = ray.wait([group.ready()], timeout=timeout_s)
    if not ready:
        ray.util.remove_placement_group(group)
        raise MachineError(
            f"this Ray cluster has not had {num_nodes} nodes with {cpus} CPUs and {gpus} GPUs free in {timeout_s:g} s; "
            "`ray status` shows what is there"
        )
    agent = ray.remote(num_cpus=cpus, num_gpus=gpus, max_restarts=0)(_Agent)
    bundles = (PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=k) for k in range(num_nodes))
    agents = [agent.options(scheduling_strategy=bundle).remote() for bundle in bundles]
    addresses = {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes()}
    placed = ray.get([each.where.remote() for each in agents])
    places = tuple(PlacedOn(node_id, addresses[node_id], host, port) for node_id, host, port in placed)
    return NodeGroup(places, group, agents)
