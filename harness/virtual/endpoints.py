"""The words of Worker and Server in virtual time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import simpy

from harness.strategy import ANY, Address, Batch, Message, Server, Value, Worker
from harness.training.budget import Marks
from harness.training.endpoint import Endpoint, check_address, everybody
from harness.training.words import Word, awaited
from harness.virtual.network import Inbox, Meeting, Parcel, Waiting, message

if TYPE_CHECKING:
    from harness.training.values import Flat
    from harness.virtual.engine import VirtualEngine
    from harness.virtual.executor import State
    from harness.virtual.values import Gradient

HEADER_BYTES = 64
"""A message without a value on the wire: what the real transport's header takes."""


class EventWord(Word):
    """A word that waits for a SimPy event."""

    def __init__(self, name: str, engine: VirtualEngine, event: simpy.Event, kind: str, unwrap: Any = None) -> None:
        super().__init__(name, engine.unawaited)
        self.event = event
        event.harness_kind = kind  # type: ignore[attr-defined]
        event.harness_name = name  # type: ignore[attr-defined]
        self._unwrap = unwrap

    def _wait(self) -> Generator[Any, Any, Any]:
        answer = yield self.event
        return self._unwrap(answer) if self._unwrap is not None else answer


class VirtualEndpoint(Endpoint):
    """State and words that workers and servers share.

    Attributes:
        state: the weights, immutable; replaced by apply and load.
        optimizer_state: immutable; replaced by apply.
        busy_until: when the compute stream is free; out_free_s, in_free_s: when the network interface is.
        samples, updates: applied here.
    """

    def __init__(self, engine: VirtualEngine, rank: Address, initial: Flat) -> None:
        setup = engine.setup
        self.inbox = Inbox(peers=[address for address in everybody(setup) if address != rank])
        super().__init__(setup, rank, self.inbox.gone, engine.notes, engine.recorded)
        self.engine = engine
        self.state = initial
        self.optimizer_state: State = engine.initial_state
        self.busy_until = self.out_free_s = self.in_free_s = 0.0
        self.alive = True
        self._since = 0.0

    # -- what a program sees -------------------------------------------------------------------------------------

    @property
    def weights(self) -> Flat:
        return self.state

    def load(self, weights: Value) -> Word:
        # How many samples an endpoint has applied itself does not change with the weights that it loads.
        self.state = self.engine.executor.adopt(awaited(weights), self.state.num_samples)
        seconds = self.engine.costs.link.seconds(weights.num_bytes)
        self.charge("communication_s", seconds)
        return self._busy("load", seconds, "load")

    def send(self, value: Any, to: Address) -> Word:
        """Occupy both interfaces for the bytes; the message arrives a latency later."""
        value, link, now = awaited(value), self.engine.costs.link, self.engine.env.now
        if not isinstance(value, Value):
            value = json.loads(json.dumps(value))  # what is no value crosses processes as JSON
        num_bytes = value.num_bytes if isinstance(value, Value) else HEADER_BYTES
        check_address(self.setup, self.rank, to)
        receiver = self.engine.endpoints[to]
        begin = max(now, self.out_free_s, receiver.in_free_s)
        gone = begin + link.seconds(num_bytes)
        self.out_free_s = receiver.in_free_s = gone
        self.engine.bytes_sent += num_bytes
        self._post(receiver, Parcel(self.rank, value, now, stop=self.stopped), gone + link.latency_s)
        return self._word("send", self.engine.env.timeout(gone - now), "communication")

    def _post(self, receiver: VirtualEndpoint, parcel: Parcel, arrival_s: float) -> None:
        arrival = self.engine.env.timeout(arrival_s - self.engine.env.now)
        arrival.callbacks.append(lambda _: receiver.inbox.deliver(parcel))

    def receive(self, source: Address | None = ANY, leavers: bool = False) -> Word:
        event = self.engine.env.event()
        name = "receive()" if source is ANY else f"receive({source})"
        self.inbox.waiting.append(Waiting(source, leavers, event))
        word = EventWord(name, self.engine, event, "receive", self._take)
        self.inbox.serve_waiting()
        return word

    def _take(self, parcel: Parcel | None) -> Message | None:
        if parcel is not None and parcel.stop:
            self.stopped = True
        return message(parcel)

    def arrived(self) -> list[Message]:
        return [m for parcel in self.inbox.poll() if (m := self._take(parcel))]

    def compute(self, function: Callable[..., Any], *args: Any) -> Word:
        """Run the function, and charge what it took on this machine."""
        began = time.perf_counter()
        answer = function(*[awaited(a) for a in args])
        seconds = time.perf_counter() - began
        self.charge("compute_s", seconds)
        return self._busy("compute", seconds, "compute", answer)

    # -- what the engine sees ------------------------------------------------------------------------------------

    def take_step(self, gradient: Value, scale: float) -> None:
        """Apply a gradient to this endpoint's state, now."""
        rate = self.learning_rate * scale
        executor = self.engine.executor
        self.state, self.optimizer_state = executor.step(self.state, gradient, self.optimizer_state, rate)
        self.samples += gradient.num_samples
        self.updates += 1

    def leave(self) -> None:
        """Tell everybody that this endpoint will not send again; the notice travels behind its messages."""
        self.alive = False
        for receiver in self.engine.endpoints.values():
            if receiver is not self:
                arrival = max(self.engine.env.now, self.out_free_s) + self.engine.costs.link.latency_s
                self._post(receiver, Parcel(self.rank, None, self.engine.env.now, leaves=True), arrival)

    def charge(self, part: str, seconds: float) -> None:
        """Account for seconds that the device is busy, when the word starts."""

    def waited(self, event: Any, began: float) -> None:
        """Account for the time between an await and its end."""

    def describe_wait(self) -> str:
        """Say what this endpoint waits for."""
        from harness.virtual.engine import name_of

        if self.inbox.waiting:
            waiting = self.inbox.waiting[0]
            source = "" if waiting.source is ANY else waiting.source
            return f"{name_of(self.rank)} waits in receive({source}) since {self._since:.3g} s"
        return f"{name_of(self.rank)} waits in mean() since {self._since:.3g} s"

    def _busy(self, name: str, seconds: float, kind: str, answer: Any = None) -> Word:
        now = self.engine.env.now
        self.busy_until = max(now, self.busy_until) + seconds
        return self._word(name, self.engine.env.timeout(self.busy_until - now, answer), kind)

    def _word(self, name: str, event: simpy.Event, kind: str) -> Word:
        return EventWord(name, self.engine, event, kind)


class VirtualServer(VirtualEndpoint, Server):
    """A parameter server in virtual time."""

    def __init__(self, engine: VirtualEngine, rank: Address, initial: Flat) -> None:
        super().__init__(engine, rank, initial)
        self.marks = Marks(engine.setup.budget.evaluate_every)

    def apply(self, gradient: Value, scale: float = 1.0) -> Word:
        gradient = awaited(gradient)
        if self.stopped:
            return self._busy("apply", 0.0, "compute")
        staleness = self.state.version - gradient.version
        self.take_step(gradient, scale)
        word = self._busy("apply", self.engine.costs.apply_s, "compute")
        self._log(gradient, staleness)
        if self.rank == -1 and self.setup.server_counts:
            self._mark()
        return word

    def _log(self, gradient: Value, staleness: int) -> None:
        worker, step = getattr(gradient, "origin", (None, None))
        self.engine.updates_log.append(
            {
                "update": self.updates,
                "worker": worker,
                "step": step,
                "base_version": gradient.version,
                "staleness": staleness,
                "samples": gradient.num_samples,
                "time_s": self.busy_until,
            }
        )

    def _mark(self) -> None:
        engine = self.engine
        spent = engine.setup.budget.spent(self.samples, self.updates)
        if self.marks.reached(self.samples) or spent:
            may_stop = engine.setup.strategy.synchrony == "synchronous"
            engine.judge(self.state, self.samples, self.updates, self.busy_until, may_stop)
        if spent:
            engine.stop("budget", self.busy_until)
        self.stopped = engine.decision is not None


class VirtualWorker(VirtualEndpoint, Worker):
    """A worker in virtual time."""

    def __init__(self, engine: VirtualEngine, rank: Address, initial: Flat) -> None:
        super().__init__(engine, rank, initial)
        self.rows: list[dict[str, Any]] = []
        self._means = 0
        self._unchecked: list[list[Any]] = []
        self.course = engine.executor.course(rank)
        self._mark_number = 0

    @property
    def progress(self) -> int:
        return self.course.position

    # -- batches -------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        for batch in self.course.batches():
            if self._ended():
                return
            self._begin_row(batch)
            yield batch
            self._finish_batch(batch.samples_before + batch.size, batch.step + 1)

    def _ended(self) -> bool:
        """Whether this worker knows of the stop: from a server's answer, or from a mark."""
        return self.stopped or (self.engine.decision is not None and not self.setup.server_counts)

    def _finish_batch(self, samples: int, steps: int) -> None:
        if self.setup.server_counts or self.engine.decision is not None:
            return
        self.samples, self.updates = self.course.total(samples, steps), steps
        if self.course.at_mark(samples, steps):
            self._mark_number += 1
            self.engine.arrive(self._mark_number, self)

    # -- words ---------------------------------------------------------------------------------------------------

    def gradient(self, batch: Batch) -> Word:
        setup = self.engine.setup
        weight = batch.shares / batch.size
        origin = (self.rank, batch.step)
        value = self.engine.executor.gradient_of(self.state, batch.indices, weight, origin)
        part = self.engine.costs.step(setup.layout, len(batch.indices), setup.cell.micro_batch_size)
        self._charge(part, value)
        self.engine.bytes_sent += part.bytes_sent
        return self._busy("gradient", part.total_s, "gradient", value)

    def apply(self, gradient: Value, scale: float = 1.0) -> Word:
        gradient = awaited(gradient)
        if self.stopped:
            return self._busy("apply", 0.0, "compute")
        samples, updates = self.samples, self.updates
        self.take_step(gradient, scale)
        self.samples, self.updates = samples, updates  # a worker counts batches, not the parts it applied
        self.charge("compute_s", self.engine.costs.apply_s)
        return self._busy("apply", self.engine.costs.apply_s, "apply")

    def mean(self, value: Value, by_samples: bool = False) -> Word:
        number, self._means = self._means, self._means + 1
        meeting = self.engine.meetings.setdefault(number, Meeting())
        event = self.engine.env.event()
        meeting.values[self.rank] = awaited(value)
        meeting.events[self.rank] = event
        if len(meeting.values) == len(self.engine.workers):
            del self.engine.meetings[number]
            self._settle(meeting, by_samples)
        return EventWord("mean", self.engine, event, "mean")

    def _settle(self, meeting: Meeting, by_samples: bool) -> None:
        """Compute one result for all; it reaches them when the slowest has come and the wire is done."""
        values = [meeting.values[rank] for rank in sorted(meeting.values)]
        total = sum(v.num_samples for v in values)
        shares = [v.num_samples / total for v in values] if by_samples and total else None
        result = self.engine.executor.average(values, shares) if len(values) > 1 else values[0]
        seconds = self.engine.costs.all_reduce_s(len(values), result.num_bytes)
        self.engine.bytes_sent += 2 * (len(values) - 1) * result.num_bytes
        done = self.engine.env.timeout(seconds)
        for event in meeting.events.values():
            event.harness_from_s = self.engine.env.now  # type: ignore[attr-defined]
            done.callbacks.append(partial(_succeed, event, result))

    # -- accounting ----------------------------------------------------------------------------------------------

    def _begin_row(self, batch: Batch) -> None:
        row: dict[str, Any] = {
            "worker": self.rank,
            "device": 0,
            "step": batch.step,
            "start_s": self.engine.env.now,
            "input_s": 0.0,
        }
        row |= {"compute_s": 0.0, "communication_s": 0.0, "idle_s": 0.0, "samples": 0, "loss": None, "staleness": 0}
        row["base_version"] = self.state.version
        self.rows.append(row)

    def _charge(self, part: Any, value: Gradient) -> None:
        row = self.rows[-1]
        row["compute_s"] += part.compute_s
        row["communication_s"] += part.communication_s
        row["idle_s"] += part.idle_s
        row["samples"] += value.num_samples
        row["loss"] = value.loss_box
        row["base_version"] = value.version
        self._unchecked.append(value.loss_box)

    def charge(self, part: str, seconds: float) -> None:
        if self.rows:
            self.rows[-1][part] += seconds

    def waited(self, event: Any, began: float) -> None:
        """Split a wait into transfer and idleness; what keeps the device busy was charged when the word started."""
        self._since = now = self.engine.env.now
        if not self.rows or event.harness_kind not in ("communication", "receive", "mean"):
            return
        began = max(began, min(now, self.busy_until))  # what computing hides is not exposed
        row, waited = self.rows[-1], now - began
        idle = 0.0
        if event.harness_kind == "receive" and event.value is not None:
            idle = min(waited, max(0.0, event.value.sent_s - began))
        elif event.harness_kind == "mean":
            idle = min(waited, max(0.0, event.harness_from_s - began))
        row["idle_s"] += idle
        row["communication_s"] += waited - idle

    def take_losses_finite(self) -> bool:
        """Whether all losses computed since the last call are numbers; those not computed yet are kept."""
        known = [box for box in self._unchecked if box[0] is not None]
        self._unchecked = [box for box in self._unchecked if box[0] is None]
        return all(math.isfinite(float(box[0])) for box in known)

    def finished_rows(self, ended_s: float, staleness: dict[tuple[int, int], int]) -> list[dict[str, Any]]:
        """Return the steps that began before the end, losses read, each with the staleness its push was applied at."""
        kept = [row for row in self.rows if row["start_s"] < ended_s]
        for row in kept:
            box = row["loss"]
            row["loss"] = float(box[0]) if box is not None and box[0] is not None else None
            if self.course.own and self.setup.server_counts:
                row["staleness"] = staleness.get((self.rank, row["step"]))
        return kept


def _succeed(event: simpy.Event, value: Any, _: simpy.Event) -> None:
    event.succeed(value)
