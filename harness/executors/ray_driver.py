"""What talks to Ray: a process of its own, which a run starts, tells what to run, and hears from over a pipe.

Not the run's own process, for four reasons. `ray.init` can hang for ever, and no signal gets through to it (an address
where nothing listens: more than 150 s, measured with Ray 2.60). It takes over SIGTERM. Its C++ part writes to the error
stream whatever it is told, twenty lines when a node dies. And the run forks processes, which threads of Ray's would not
survive. When this process ends, however, Ray ends its tasks.

Tasks are never retried by Ray, but by the run: only so it is known how often a cell was tried.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import socket
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING

from harness.core.errors import HarnessError
from harness.core.version import __version__
from harness.executors.ray_words import Begun, Done, Order, RayTrouble, Room, TaskLost, WholeNode

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

PIPE_S = 0.05
"""Between two looks at the pipe while tasks run; chosen: far below what a task takes, and it costs nothing."""

NODES_S = 2.0
"""Between two looks at which nodes there are; chosen."""

IDLE_S = 2.0
"""How long a node stays held that measures nothing; chosen: the next cell is heard of in milliseconds, and a
node that was let go has to start its processes anew, 10 s."""

SHUN_S = 60.0
"""How long a node is not held again that never ran what it was held for; chosen: Ray lists a dead one for a while."""

HELLO_S = 60.0
"""For all nodes to answer before anything runs; chosen: a node's first process imports Python and Ray in 2 to 10 s."""


@dataclass(frozen=True)
class RayNode:
    """A node of the cluster that lives.

    Attributes:
        node_id: Ray's: several nodes may have one address.
        address: of its interface, as Ray knows it.
    """

    node_id: str
    address: str
    host: str
    cpus: int
    gpus: int

    def fits(self, needs: WholeNode) -> bool:
        """Whether it is large enough."""
        return self.cpus >= needs.cpus and self.gpus >= needs.gpus


def connect(address: str) -> None:
    """Connect this process to a cluster, quietly.

    Args:
        address: HOST:PORT of its head; empty: as Ray finds one: RAY_ADDRESS, the cluster of this machine, or a new one.

    Raises:
        HarnessError: Ray cannot, in its words: versions differ, or this machine is no node of that cluster.
    """
    import ray

    try:
        ray.init(address=address or None, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError, OSError, ray.exceptions.RayError) as error:
        raise HarnessError(f"Ray: {error}") from error


def live_nodes() -> list[RayNode]:
    """Return the nodes of the cluster that can run something; a node that has just died is among them for a while."""
    import ray

    return [
        RayNode(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerHostname"],
            int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes()
        if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
    ]


def _work(key: int, parcel: bytes, herald: ActorHandle) -> bytes:
    """Run a task on its node."""
    from harness.executors.travel import run_parcel

    herald.say.remote(Begun(key, socket.gethostname(), os.getpid()))
    try:
        return pickle.dumps(run_parcel(pickle.loads(parcel)))
    except HarnessError as error:  # in words: not every one of them can be pickled
        return pickle.dumps(RayTrouble(f"on {socket.gethostname()}: {error}"))


class _Station:
    """Holds a whole node, and runs there what measures it, one task after another."""

    def work(self, key: int, parcel: bytes, herald: ActorHandle) -> bytes:
        return _work(key, parcel, herald)


class _Herald:
    """Hears from tasks on all nodes, and hands on what they say as soon as somebody asks."""

    def __init__(self) -> None:
        import asyncio

        self.heard: list[Begun] = []
        self.any = asyncio.Event()

    async def say(self, begun: Begun) -> None:
        self.heard.append(begun)
        self.any.set()

    async def listen(self) -> list[Begun]:
        await self.any.wait()
        self.any.clear()
        heard, self.heard = self.heard, []
        return heard


def _over_nodes(key: int, parcel: bytes, herald: ActorHandle, needs: WholeNode) -> bytes:
    """Run a task over several nodes; this process only waits for the one that leads them."""
    import ray

    from harness.executors.ray_nodes import spread

    try:
        with spread(needs.nodes, needs.cpus, needs.gpus) as group:
            herald.say.remote(Begun(key, group.places[0].host, 0))
            led: bytes = ray.get(group.run_over(parcel))
            return led
    except HarnessError as error:
        return pickle.dumps(RayTrouble(str(error)))
    except ray.exceptions.RayActorError as error:
        # As it is, it would come home as what this task raised: a bug. The node of its leader went.
        raise ray.exceptions.WorkerCrashedError from error


@dataclass
class _Held:
    """A node that is held for tasks that measure it.

    Attributes:
        up: whether it has run something: then the node is really ours.
        key: of the task that it has; None: it is free, since `free_s`.
    """

    node: RayNode
    actor: ActorHandle
    up: bool = False
    key: int | None = None
    free_s: float = 0.0


@dataclass
class RayDriver:
    """Places orders on nodes, and reports what comes of them."""

    pipe: Connection
    orders: queue.SimpleQueue[Order | None] = field(default_factory=queue.SimpleQueue)
    nodes: list[RayNode] = field(default_factory=list)
    looked_s: float = 0.0
    told: Room | None = None
    beside: deque[Order] = field(default_factory=deque)
    alone: deque[Order] = field(default_factory=deque)
    stations: dict[str, _Held] = field(default_factory=dict)
    shunned: dict[str, float] = field(default_factory=dict)  # nodes that could not be held, and since when
    running: dict[ObjectRef, int] = field(default_factory=dict)
    spread_key: int | None = None  # of the task that has several nodes

    def serve(self) -> None:
        """Work until the run closes the pipe."""
        import ray

        self.task = ray.remote(num_cpus=1, max_retries=0, scheduling_strategy="SPREAD")(_work)
        self.leader = ray.remote(num_cpus=0, max_retries=0)(_over_nodes)
        self.station = ray.remote(max_restarts=0, max_task_retries=0)(_Station)
        here = ray.get_runtime_context().get_node_id()
        self.herald = ray.remote(num_cpus=0, max_restarts=-1)(_Herald).options(scheduling_strategy=_on(here)).remote()
        self.listening = self.herald.listen.remote()
        threading.Thread(target=self._listen, name="orders", daemon=True).start()
        while self._take_orders():
            self._look()
            self._place()
            self._wait()

    # -- orders --------------------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Take orders from the pipe as they come: left there, both sides could wait to write to each other."""
        try:
            while True:
                self.orders.put(self.pipe.recv())
        except (EOFError, OSError):
            self.orders.put(None)

    def _take_orders(self) -> bool:
        """Sort the orders that have come, waiting a moment where nothing runs; say whether the run is still there."""
        with contextlib.suppress(queue.Empty):
            order = self.orders.get(timeout=None if self.running else PIPE_S, block=not self.running)
            while order is not None:
                (self.beside if order.needs is None else self.alone).append(order)
                order = self.orders.get_nowait()
            return False
        return True

    # -- nodes ---------------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """See which nodes there are, and tell how much room they have."""
        now = time.monotonic()
        if now - self.looked_s >= NODES_S:
            self.nodes, self.looked_s = live_nodes(), now
        beside = sum(node.cpus for node in self.nodes if node.node_id not in self.stations)
        room = Room(beside, len(self.nodes) + 1)  # one waits, so that no node does
        if room != self.told:
            self.told = room
            self.pipe.send(room)

    def _place(self) -> None:
        """Start what there is room for: first what needs a node of its own."""
        while self.alone and self._several(self.alone[0]):
            order = self.alone.popleft()
            self.spread_key = order.key
            self.running[self.leader.remote(order.key, order.parcel, self.herald, order.needs)] = order.key
        if self.spread_key is not None:
            return  # its nodes are being cleared, or measured
        while self.alone and (held := self._station_for(self.alone[0])) is not None:
            order = self.alone.popleft()
            held.key = order.key
            self.running[held.actor.work.remote(order.key, order.parcel, self.herald)] = order.key
        idle_since = time.monotonic() - IDLE_S
        for held in [held for held in self.stations.values() if held.key is None and held.free_s < idle_since]:
            self._let_go(held)
        # While a node is being cleared nothing starts: Ray would fill up its CPUs one by one as they get free.
        clearing = any(not held.up for held in self.stations.values())
        while self.beside and not clearing:
            order = self.beside.popleft()
            self.running[self.task.remote(order.key, order.parcel, self.herald)] = order.key

    def _several(self, order: Order) -> bool:
        """Say whether a task takes several nodes, and may have them now: one such task at a time, beside no other.

        Raises:
            HarnessError: there are not so many nodes that are large enough.
        """
        needs = order.needs
        if needs is None or needs.nodes == 1 or self.spread_key is not None or self.running:
            return False
        for held in list(self.stations.values()):
            self._let_go(held)
        large = [node for node in self.nodes if node.fits(needs)]
        if len(large) < needs.nodes and self.nodes:
            raise HarnessError(
                f"a cell needs {needs.nodes} nodes with {needs.cpus} CPUs and {needs.gpus} GPUs each, and this Ray "
                f"cluster has {len(large)}; add nodes, or leave the cell out (harness run --only)"
            )
        return True

    def _station_for(self, order: Order) -> _Held | None:
        """Return a node that is held and free, hold another one, or None where one has to be waited for.

        Raises:
            HarnessError: no node is large enough.
        """
        needs = order.needs
        assert needs is not None
        free = [held for held in self.stations.values() if held.key is None and held.node.fits(needs)]
        if free:
            return free[0]
        large = [node for node in self.nodes if node.fits(needs)]
        if not large and self.nodes:
            most = max(self.nodes, key=lambda node: (node.gpus, node.cpus))
            raise HarnessError(
                f"a cell that is measured needs a node with {needs.cpus} CPUs and {needs.gpus} GPUs, and the largest "
                f"of this Ray cluster has {most.cpus} and {most.gpus}; add such a node, or leave the cell out "
                "(harness run --only)"
            )
        lost_after = time.monotonic() - SHUN_S
        shunned = {node_id for node_id, lost_s in self.shunned.items() if lost_s > lost_after}
        others = [node for node in large if node.node_id not in {*self.stations, *shunned}]
        if not others:
            return None
        # The smallest that will do: the largest may be needed by the next.
        node = min(others, key=lambda node: (node.gpus, node.cpus))
        whole = {"num_cpus": node.cpus, "num_gpus": node.gpus, "scheduling_strategy": _on(node.node_id)}
        held = self.stations[node.node_id] = _Held(node, self.station.options(**whole).remote())
        return held

    def _let_go(self, held: _Held) -> None:
        import ray

        del self.stations[held.node.node_id]
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(held.actor)

    # -- what comes ----------------------------------------------------------------------------------------------------

    def _wait(self) -> None:
        """Wait a moment for whatever comes first, and report it."""
        import ray

        if not self.running:
            return
        refs = [self.listening, *self.running]
        ready, _ = ray.wait(refs, timeout=PIPE_S)
        if ready:
            ready, _ = ray.wait(refs, num_returns=len(refs), timeout=0)
        if self.listening in ready:
            self._hear()
        for ref in ready:
            if ref in self.running:
                self._take(ref, self.running.pop(ref))

    def _hear(self) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError):  # the herald has died, and is started again
            for begun in ray.get(self.listening):
                for held in self.stations.values():
                    held.up = held.up or held.key == begun.key
                self.pipe.send(begun)
        self.listening = self.herald.listen.remote()

    def _take(self, ref: ObjectRef, key: int) -> None:
        """Report what came of a task; what it raised is a bug of ours."""
        import ray

        of = next((held for held in self.stations.values() if held.key == key), None)
        if key == self.spread_key:
            self.spread_key = None
        try:
            ended = ray.get(ref)
        except (ray.exceptions.RayTaskError, ray.exceptions.RuntimeEnvSetupError, ray.exceptions.AuthenticationError):
            raise
        except ray.exceptions.RayError as error:  # its process, its node, or where its result lay
            if of is not None:
                self._let_go(of)
                if not of.up:
                    self.shunned[of.node.node_id] = time.monotonic()
            self.looked_s = 0.0
            self.pipe.send(TaskLost(key, type(error).__name__))
            return
        if of is not None:
            of.key, of.up, of.free_s = None, True, time.monotonic()
        self.pipe.send(Done(key, ended))


def _on(node_id: str) -> object:
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(node_id, soft=False)


def _hello() -> Callable[[], str]:
    """Return what tells which harness a node has; it travels as code, so that it runs where there is none."""

    def version() -> str:
        try:
            from harness.core.version import __version__ as there
        except ImportError:
            return ""
        return there

    return version


def refuse_strangers(nodes: list[RayNode]) -> None:
    """Ask every node which harness it has.

    Raises:
        HarnessError: one has none or another version, or does not answer.
    """
    import ray

    ask = ray.remote(num_cpus=0, max_retries=0)(_hello())
    asked = [(node, ask.options(scheduling_strategy=_on(node.node_id)).remote()) for node in nodes]
    ready, _ = ray.wait([ref for _, ref in asked], num_returns=len(asked), timeout=HELLO_S)
    for node, ref in asked:
        where = f"Ray's node {node.address} ({node.host})"
        if ref not in ready:
            raise HarnessError(f"{where} gave no answer for {HELLO_S:g} s; look at it with `ray status`")
        try:
            there = ray.get(ref)
        except ray.exceptions.RayError:
            continue  # it has died meanwhile
        if there != __version__:
            has = f"has parallelism-harness {there}" if there else "has no parallelism-harness in Ray's environment"
            raise HarnessError(f"{where} {has}, and here is {__version__}; install this version there, and run again")


def serve_run(descriptor: int, address: str) -> None:
    """Serve a run over a pipe that was inherited."""
    os.setsid()  # Ctrl-C in the run's terminal is the run's
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)  # the guard had them ignored, and what Ray starts would inherit that
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with Connection(descriptor) as pipe:
        try:
            connect(address)
            refuse_strangers(live_nodes())
            RayDriver(pipe).serve()
        except HarnessError as error:
            _tell(pipe, RayTrouble(str(error)))
        except Exception:
            _tell(pipe, RayTrouble(traceback.format_exc(), ours=True))
    import ray

    ray.shutdown()


def _tell(pipe: Connection, broken: RayTrouble) -> None:
    traceback.print_exc()
    with contextlib.suppress(OSError):
        pipe.send(broken)
