"""The words of Worker and Server in virtual time."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import simpy

from harness.api.strategy import ANY, Batch, Codec, Encoded, Message, Server, Value, Worker
from harness.core.addresses import Address
from harness.core.budget import Decision, Marks
from harness.core.step_parts import Part
from harness.engines.shared.codec_checks import as_codec, check_linear, check_sent
from harness.engines.shared.endpoint import Endpoint, check_address, everybody
from harness.engines.shared.parcel import Parcel
from harness.engines.shared.started_words import Unawaited, Waiting, Word, as_value, awaited
from harness.engines.shared.waits import Wait, Waits
from harness.engines.virtual.bucket_programs import BucketPrograms
from harness.engines.virtual.clock import Ledger
from harness.engines.virtual.messages import MeetingPoint, Post, Receive, message

if TYPE_CHECKING:
    import torch

    from harness.costs.steps import ReducedBucket
    from harness.engines.shared.flat import Flat
    from harness.engines.virtual.cluster import VirtualCluster
    from harness.engines.virtual.executor import State
    from harness.engines.virtual.lazy import Gradient
    from harness.engines.virtual.servers import ServerWays

_COMPUTE, _COMMUNICATION = Part.COMPUTE, Part.COMMUNICATION
"""Looked up once: Python 3.11 takes 0.2 us to find a member of an enumeration, which counts in a word."""

EXCHANGES = ("mean", "gather")
"""Words that meet all workers."""

HEADER_BYTES = 64
"""A message without a value on the wire: what the real transport's header takes."""


class Arbiter(Protocol):
    """Who decides at marks whether the run goes on.

    Attributes:
        decision: why the run has ended; None while it goes on.
    """

    decision: Decision | None

    def arrive(self, mark: int, worker: VirtualWorker) -> None:
        """Note that a worker stands at a mark; the last one there brings about the evaluation."""

    def judge(self, model: Flat, samples: int, updates: int, moment: float) -> None:
        """Evaluate while the clock stands, and decide."""

    def stop(self, decision: Decision, moment: float) -> None:
        """End the run: nothing is applied or counted any more."""


class Met(NamedTuple):
    """What comes of a meeting.

    Attributes:
        result: the same for all.
        num_bytes: that all workers together send.
    """

    result: Value | list[Value]
    seconds: float
    num_bytes: float


class EventWord(Word):
    """A word that waits for a SimPy event."""

    def __init__(self, name: str, unawaited: Unawaited, event: simpy.Event, kind: str) -> None:
        super().__init__(name, unawaited)
        self.event = event
        event.harness_kind = kind  # type: ignore[attr-defined]

    def _wait(self) -> Waiting:
        answer = yield self.event
        return answer

    def taken_over(self) -> simpy.Event:
        """Return the event, for an engine that waits in the program's place."""
        self._awaited = True
        return self.event


class ReceiveWord(EventWord):
    """A word that waits for a message, and then for its copy."""

    def __init__(self, name: str, event: simpy.Event, endpoint: VirtualEndpoint) -> None:
        super().__init__(name, endpoint.cluster.unawaited, event, "receive")
        self._endpoint = endpoint

    def _wait(self) -> Waiting:
        parcel = yield self.event
        copied = self._endpoint.copied(parcel)
        if copied is not None:
            yield copied
        return self._endpoint.take(parcel)


class ExchangeWord(EventWord):
    """A word that waits for all workers, and then decodes what has come from them."""

    def __init__(self, name: str, event: simpy.Event, endpoint: VirtualEndpoint) -> None:
        super().__init__(name, endpoint.cluster.unawaited, event, name)
        self._endpoint = endpoint

    def _wait(self) -> Waiting:
        answer = yield self.event
        decoded = self._endpoint.decoded(answer if isinstance(answer, list) else [answer])
        if decoded is not None:
            yield decoded
        return answer


def bytes_of(value: Any) -> int:
    """Return what a message takes on the wire."""
    return value.num_bytes if isinstance(value, Value) else HEADER_BYTES


def operations_of(gradient: Value) -> int:
    """Return how often an average goes over its values: each but the first is added, and their sum divided."""
    count = len(getattr(gradient, "values", ()))
    return count if count > 1 else 0


class VirtualEndpoint(Endpoint):
    """State and words that workers and servers share.

    Attributes:
        post: what has arrived.
        ledger: rows of a worker's steps; a server has none.
        state: the weights, immutable; replaced by apply and load.
        optimizer_state: immutable; replaced by apply.
        busy_until: when the compute stream is free.
        last_arrival_s: of what was sent through this host's memory, or by the ways of parameter servers.
        interface: to the others; the endpoints of one node share that to other nodes.
        samples, updates: applied here.
    """

    def __init__(self, cluster: VirtualCluster, arbiter: Arbiter, rank: Address, initial: Flat) -> None:
        self.post = Post(peers=[address for address in everybody(cluster.setup) if address != rank])
        super().__init__(cluster.setup, rank, self.post.gone, cluster.notes, cluster.recorded)
        self.cluster, self.arbiter = cluster, arbiter
        self.ledger = Ledger(rank)
        self.state = initial
        self.optimizer_state: State = {}
        self.busy_until = self.last_arrival_s = 0.0
        self.node = cluster.costs.node_of(rank, cluster.setup.layout)
        self.interface = cluster.interface_of(rank)
        self.alive = True
        self._since = 0.0
        self._exchanges = Wait.MEAN

    # -- what a program sees -------------------------------------------------------------------------------------

    @property
    def weights(self) -> Flat:
        return self.state

    def load(self, weights: Value) -> Word:
        # How many samples an endpoint has applied itself does not change with the weights that it loads.
        self.state = self.cluster.executor.adopt(as_value(weights, "load"), self.state.num_samples)
        return self._busy("load", self.cluster.load_s(self.state.num_bytes), "load", charged=_COMMUNICATION)

    def send(self, value: Any, to: Address) -> Word:
        """Send through the link, or through this host's memory, where copying keeps the sender busy."""
        value, now = awaited(value), self.cluster.env.now
        if not isinstance(value, Value):
            value = json.loads(json.dumps(value))  # what is no value crosses processes as JSON
        check_address(self.setup, self.rank, to)
        check_sent(value, self.state.num_bytes)
        receiver, parcel = self.cluster.present[to], Parcel(self.rank, value, now, stop=self.stopped)
        if self.cluster.ways is not None and (self.rank < 0) != (to < 0):
            return self._send_by_ways(self.cluster.ways, receiver, parcel)
        self.cluster.bytes_sent += bytes_of(value)
        if self.cluster.costs.messages is None:
            return self._send_by_link(receiver, parcel)
        seconds = self.cluster.costs.messages.send.at(bytes_of(value))
        word = self._busy("send", seconds, "load", charged=_COMMUNICATION)
        arrival = self.busy_until - seconds + self.cluster.costs.messages.arrive.at(bytes_of(value))
        if self.rank < 0 and self.cluster.cores is not None:
            arrival += self.cluster.lost_by_serving(self.cluster.cores, bytes_of(value))
        self.last_arrival_s = max(self.last_arrival_s, arrival)  # messages do not overtake each other
        self._post(receiver, parcel, self.last_arrival_s)
        return word

    def _send_by_ways(self, ways: ServerWays, receiver: VirtualEndpoint, parcel: Parcel) -> Word:
        """Occupy everything between a worker and the servers' shards; shards send beside whatever else they do."""
        now, size, push = self.cluster.env.now, bytes_of(parcel.value), self.rank >= 0
        worker, server = (self.rank, receiver.rank) if push else (receiver.rank, self.rank)
        self.cluster.bytes_sent += ways.sent_bytes(worker, size)
        passage = ways.carry(now, worker, server, size, push)
        if push and isinstance(parcel.value, Value):
            passage = ways.added(now, passage, server, size)
        # A short message does not overtake the gradient before it.
        arrival = max(passage.arrival_s, self.last_arrival_s) if push else passage.arrival_s
        self.last_arrival_s = max(self.last_arrival_s, arrival)
        if push and self.cluster.tracer is not None:  # shards send many at once: each shows where it is received
            self.cluster.tracer.message(self.rank, "send", now, passage.through_s, self.ledger.step)
        self._post(receiver, parcel, arrival)
        return self._word("send", self.cluster.env.timeout(passage.through_s - now if push else 0.0), "communication")

    def _send_by_link(self, receiver: VirtualEndpoint, parcel: Parcel) -> Word:
        """Occupy both interfaces for the bytes; the message arrives a latency later."""
        now, link = self.cluster.env.now, self.cluster.costs.link_between(self.node, receiver.node)
        begin = max(now, self.interface.out_free_s, receiver.interface.in_free_s)
        gone = begin + link.seconds(bytes_of(parcel.value))
        self.interface.out_free_s = receiver.interface.in_free_s = gone
        if self.cluster.tracer is not None:
            self.cluster.tracer.message(self.rank, "send", begin, gone, self.ledger.step)
        self._post(receiver, parcel, gone + link.latency_s)
        return self._word("send", self.cluster.env.timeout(gone - now), "communication")

    def _post(self, receiver: VirtualEndpoint, parcel: Parcel, arrival_s: float) -> None:
        arrival = self.cluster.env.timeout(arrival_s - self.cluster.env.now)
        arrival.callbacks.append(lambda _: receiver.post.deliver(parcel))

    def receive(self, source: Address | None = ANY, leavers: bool = False) -> Word:
        event = self.cluster.env.event()
        name = "receive()" if source is ANY else f"receive({source})"
        self.post.receives.append(Receive(source, leavers, event))
        word = ReceiveWord(name, event, self)
        self.post.serve()
        return word

    def copied(self, parcel: Parcel | None) -> simpy.Event | None:
        """Return the event of having taken a message in: copied out of this host's memory, and decoded.

        None where neither costs anything.
        """
        messages = self.cluster.costs.messages
        if parcel is None or parcel.leaves:
            return None
        taken = None
        if messages is not None:
            seconds = messages.take.at(bytes_of(parcel.value))
            taken = self._busy("take", seconds, "load", charged=_COMMUNICATION).taken_over()
        return self.decoded([parcel.value]) or taken

    def decoded(self, values: Sequence[object]) -> simpy.Event | None:
        """Return the event of having decoded what came encoded; None where nothing did."""
        encoded = [value for value in values if isinstance(value, Encoded) and value.codec.decode_passes]
        if not encoded:
            return None
        num_bytes = self.state.num_bytes
        seconds = sum(self.cluster.codec_s(value.codec, num_bytes, decodes=True) for value in encoded)
        return self._busy("decode", seconds, "compute", charged=_COMPUTE).taken_over()

    def take(self, parcel: Parcel | None) -> Message | None:
        if parcel is not None and parcel.stop:
            self.stopped = True
        return message(parcel)

    def arrived(self) -> list[Message]:
        parcels = self.post.poll()
        for parcel in parcels:
            self.copied(parcel)
        return [m for parcel in parcels if (m := self.take(parcel))]

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        return self.cluster.executor.layers(as_value(value, "layers"))

    def encode(self, value: Value, codec: Codec) -> Word:
        value, codec = as_value(value, "encode"), as_codec(codec)
        encoded = self.cluster.executor.encode(value, codec)
        seconds = self.cluster.codec_s(codec, self.state.num_bytes, decodes=False)
        return self._busy("encode", seconds, "compute", encoded, charged=_COMPUTE)

    def compute(self, function: Callable[..., Any], *args: Any) -> Word:
        """Run the function, and charge what it took on this machine."""
        began = time.perf_counter()
        answer = function(*[awaited(a) for a in args])
        seconds = time.perf_counter() - began
        return self._busy("compute", seconds, "compute", answer, charged=_COMPUTE)

    # -- what the engine sees ------------------------------------------------------------------------------------

    def take_step(self, gradient: Value, scale: float) -> None:
        """Apply a gradient to this endpoint's state, now."""
        rate = self.learning_rate * scale
        executor = self.cluster.executor
        self.state, self.optimizer_state = executor.step(self.state, gradient, self.optimizer_state, rate)
        self.samples += gradient.num_samples
        self.updates += 1

    def leave(self) -> None:
        """Tell everybody that this endpoint will not send again; the notice travels behind its messages."""
        self.alive = False
        # Many leave together, each telling everybody: notices of one moment are one event.
        together: dict[float, list[VirtualEndpoint]] = {}
        for receiver in self.cluster.present.values():
            if receiver is not self and receiver.alive:
                together.setdefault(self._last_arrival(receiver), []).append(receiver)
        for arrival_s, receivers in together.items():
            event = self.cluster.env.timeout(arrival_s - self.cluster.env.now)
            event.callbacks.append(partial(self._notify, receivers, self.cluster.env.now))

    def _notify(self, receivers: Sequence[VirtualEndpoint], sent_s: float, _: simpy.Event) -> None:
        for receiver in receivers:
            if receiver.alive:
                receiver.post.deliver(Parcel(self.rank, None, sent_s, leaves=True))

    def _last_arrival(self, receiver: VirtualEndpoint) -> float:
        """Return when a notice arrives: behind all messages that were sent before."""
        costs, sent = self.cluster.costs, max(self.cluster.env.now, self.interface.out_free_s)
        if costs.messages is None:
            return max(sent + costs.link_between(self.node, receiver.node).latency_s, self.last_arrival_s)
        return max(sent, self.busy_until + costs.messages.arrive.at(HEADER_BYTES), self.last_arrival_s)

    def waited(self, event: Any, began: float) -> None:
        """Account for the time between an await and its end."""

    @property
    def waits(self) -> Waits:
        """What this endpoint waits for, where it waits for others."""
        if self.post.receives:
            return Waits(Wait.RECEIVE, self.post.receives[0].source, self._since)
        return Waits(self._exchanges, None, self._since)

    def _busy(
        self,
        name: str,
        seconds: float,
        kind: str,
        answer: Any = None,
        charged: Part | None = None,
        awake_s: float = 0.0,
    ) -> EventWord:
        """Occupy the compute stream, and this host's cores; account what that takes to a part of the step.

        Args:
            awake_s: for which cores are needed, where that is not all the time: a slowed device of a host sleeps.
        """
        now = self.cluster.env.now
        began = max(now, self.busy_until)
        awake_s = awake_s or seconds
        if self.cluster.cores is not None and awake_s:
            seconds *= self.cluster.on_cores(self.cluster.cores, self.rank, began, awake_s) / awake_s
        if charged is not None:
            self.ledger.add(charged, seconds)
        self.busy_until = began + seconds
        if self.cluster.tracer is not None and kind != "gradient":
            self.cluster.tracer.busy(self.rank, name, charged or _COMPUTE, began, self.busy_until, self.ledger.step)
        return self._word(name, self.cluster.env.timeout(self.busy_until - now, answer), kind)

    def _word(self, name: str, event: simpy.Event, kind: str) -> EventWord:
        return EventWord(name, self.cluster.unawaited, event, kind)


class VirtualServer(VirtualEndpoint, Server):
    """A parameter server in virtual time."""

    def __init__(self, cluster: VirtualCluster, arbiter: Arbiter, rank: Address, initial: Flat) -> None:
        super().__init__(cluster, arbiter, rank, initial)
        self.marks = Marks(self.setup.budget.evaluate_every)

    def apply(self, gradient: Value, scale: float = 1.0) -> Word:
        gradient = as_value(gradient, "apply")
        if self.stopped:
            return self._busy("apply", 0.0, "compute")
        staleness = self.state.version - gradient.version
        self.take_step(gradient, scale)
        averaged = self.cluster.costs.arithmetic_s(self.state.num_bytes, operations_of(gradient))
        word = self._busy("apply", self.cluster.apply_s + averaged, "compute")
        self._log(gradient, staleness)
        if self.rank == -1 and self.setup.server_counts:
            self._mark()
        return word

    def _log(self, gradient: Value, staleness: int) -> None:
        worker, step = getattr(gradient, "origin", (None, None))
        spread = getattr(gradient, "spread", None)
        entry = {
            "update": self.updates,
            "worker": worker,
            "step": step,
            "base_version": gradient.version,
            "staleness": staleness,
            "samples": gradient.num_samples,
            "time_s": self.busy_until,
        }
        self.cluster.updates_log.append(entry | (spread._asdict() if spread else {}))

    def _mark(self) -> None:
        spent = self.setup.budget.spent(self.samples, self.updates)
        if self.marks.reached(self.samples) or spent:
            self.arbiter.judge(self.state, self.samples, self.updates, self.busy_until)
        if spent:
            self.arbiter.stop(Decision.BUDGET, self.busy_until)
        self.stopped = self.arbiter.decision is not None


class VirtualWorker(VirtualEndpoint, Worker):
    """A worker in virtual time."""

    def __init__(self, cluster: VirtualCluster, arbiter: Arbiter, rank: Address, initial: Flat) -> None:
        super().__init__(cluster, arbiter, rank, initial)
        self._meetings = 0
        self.course = cluster.executor.course(rank)
        per_worker = self.setup.layout.devices
        self.devices = range(rank * per_worker, (rank + 1) * per_worker)
        self.lost = False
        self.programs = BucketPrograms(self, cluster) if self.setup.layout.reduce is not None else None
        self._mark_number = 0

    @property
    def progress(self) -> int:
        return self.course.position

    # -- batches -------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        for batch in self.course.batches():
            if self._ended():
                return
            self.cluster.faults.raise_if_lost(self.devices, batch.step, self.cluster.env.now)
            self.ledger.begin(batch.step, self.cluster.env.now, self.state.version)
            yield batch
            self._finish_batch(batch.samples_before + batch.size, batch.step + 1)

    def _ended(self) -> bool:
        """Whether this worker knows of the stop: from a server's answer, or from a mark."""
        return self.stopped or (self.arbiter.decision is not None and not self.setup.server_counts)

    def _finish_batch(self, samples: int, steps: int) -> None:
        if self.setup.server_counts or self.arbiter.decision is not None:
            return
        self.samples, self.updates = self.course.total(samples, steps), steps
        if self.course.at_mark(samples, steps):
            self._mark_number += 1
            self.arbiter.arrive(self._mark_number, self)

    # -- words ---------------------------------------------------------------------------------------------------

    def gradient(self, batch: Batch) -> Word:
        value, reduced = self._computed(batch)
        factors = self.cluster.faults.of(self.devices, batch.step)
        tracer = self.cluster.tracer
        part = self.cluster.steps.of(len(batch.indices), factors, tracer is not None, reduced)
        self.ledger.computed(part, value)
        self.cluster.bytes_sent += part.bytes_sent
        before = max(self.busy_until, self.cluster.env.now)
        awake_s = self.cluster.steps.of(len(batch.indices), (), reduced=reduced).total_s
        word = self._busy("gradient", part.total_s, "gradient", value, awake_s=awake_s)
        self.ledger.add(_COMPUTE, self.busy_until - before - part.total_s)  # what sharing the host's cores adds
        if tracer is not None:
            tracer.gradient(self.rank, part, factors, before, self.busy_until, batch.step)
        return word

    def _computed(self, batch: Batch) -> tuple[Gradient, tuple[ReducedBucket, ...]]:
        """Return the gradient, and what the layout's own `reduce` did for it, where there is one."""
        executor, weight, origin = self.cluster.executor, batch.shares / batch.counted, (self.rank, batch.step)
        if self.programs is None:
            return executor.gradient_of(self.state, batch.indices, weight, origin), ()
        self.programs.took = []
        value = executor.reduced(self.state, batch.indices, weight, origin, self.programs.run)
        return value, tuple(self.programs.took)

    def apply(self, gradient: Value, scale: float = 1.0) -> Word:
        gradient = as_value(gradient, "apply")
        if self.stopped:
            return self._busy("apply", 0.0, "compute")
        samples, updates = self.samples, self.updates
        self.take_step(gradient, scale)
        self.samples, self.updates = samples, updates  # a worker counts batches, not the parts it applied
        return self._busy("apply", self.cluster.costs.update_s(self.setup.layout), "apply", charged=_COMPUTE)

    def mean(self, value: Value, by_samples: bool = False) -> Word:
        value = as_value(value, "mean")
        if isinstance(value, Encoded):
            check_linear(value)
        return self._meet("mean", value, partial(self._mean, by_samples=by_samples))

    def gather(self, value: Value) -> Word:
        return self._meet("gather", as_value(value, "gather"), self._gathered)

    def _meet(self, name: str, value: Value, settle: Callable[[list[Value]], Met]) -> Word:
        """Come to the next exchange of all workers; the last one there settles it.

        One result is computed for all. It reaches them when the slowest has come and the wire is done.
        """
        number, self._meetings, self._exchanges = self._meetings, self._meetings + 1, Wait[name.upper()]
        meeting = self.cluster.meetings.setdefault(number, MeetingPoint())
        event = self.cluster.env.event()
        meeting.values[self.rank] = value
        meeting.events[self.rank] = event
        if len(meeting.values) == self.setup.cell.workers:
            del self.cluster.meetings[number]
            exchange = settle([meeting.values[rank] for rank in sorted(meeting.values)])
            self.cluster.met_s = self.cluster.env.now
            self.cluster.bytes_sent += exchange.num_bytes
            done = self.cluster.env.timeout(exchange.seconds)
            for waiting in meeting.events.values():
                waiting.harness_from_s = self.cluster.env.now  # type: ignore[attr-defined]
                done.callbacks.append(partial(_succeed, waiting, exchange.result))
        return ExchangeWord(name, event, self)

    def _mean(self, values: list[Value], by_samples: bool) -> Met:
        total = sum(v.num_samples for v in values)
        shares = [v.num_samples / total for v in values] if by_samples and total else None
        result = self.cluster.executor.average(values, shares) if len(values) > 1 else values[0]
        since = self.cluster.env.now - self.cluster.met_s
        seconds = self.cluster.costs.mean_s(len(values), self.setup.layout, result.num_bytes, since)
        return Met(result, seconds, 2 * (len(values) - 1) * result.num_bytes)

    def _gathered(self, values: list[Value]) -> Met:
        sizes, since = [value.num_bytes for value in values], self.cluster.env.now - self.cluster.met_s
        seconds = self.cluster.costs.gather_s(len(values), self.setup.layout, max(sizes), since)
        return Met(values, seconds, (len(values) - 1) * sum(sizes))

    def waited(self, event: Any, began: float) -> None:
        """Split a wait into transfer and idleness; what keeps the device busy was charged when the word started."""
        self._since = now = self.cluster.env.now
        kind = event.harness_kind
        if not self.ledger.rows or kind not in ("communication", "receive", *EXCHANGES):
            return
        began = max(began, min(now, self.busy_until))  # what computing hides is not exposed
        idle = 0.0
        if kind == "receive" and event.value is not None:
            idle = min(now - began, max(0.0, event.value.sent_s - began))
        elif kind in EXCHANGES:
            idle = min(now - began, max(0.0, event.harness_from_s - began))
        self.ledger.waited(idle, now - began - idle)
        if self.cluster.tracer is not None:
            self.cluster.tracer.waited(self.rank, kind, began, began + idle, now, self.ledger.step)


def _succeed(event: simpy.Event, value: Any, _: simpy.Event) -> None:
    event.succeed(value)
