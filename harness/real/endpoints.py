"""The words of Worker and Server on real devices."""

from __future__ import annotations

import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist

from harness.real.clock import Ledger
from harness.real.layouts import OneDevice, mean_over_ranks
from harness.real.status import Status
from harness.real.transport import Parcel, Post
from harness.strategy import ANY, Address, Batch, Message, Server, Value, Worker
from harness.training.budget import Evaluation, Marks, Referee
from harness.training.endpoint import Course, Endpoint, check_address
from harness.training.replica import Replica
from harness.training.setup import Setup
from harness.training.values import Flat, force
from harness.training.words import Ready, awaited

DECISIONS = (None, "target", "seconds", "diverged")


class RealEndpoint(Endpoint):
    """State and words that workers and servers share.

    Attributes:
        replica: parameters and optimizer of this process.
        version: of this endpoint's weights.
    """

    def __init__(self, setup: Setup, rank: Address, replica: Replica, ledger: Ledger, post: Post, status: Status):
        super().__init__(setup, rank, post.gone, [], {})
        self.replica = replica
        self.ledger, self.post, self.status = ledger, post, status
        self.version = 0
        self.referee = Referee(setup.budget)
        self.decision: str | None = None
        self.ended_s: float | None = None
        self.evaluation_s = 0.0
        self.test: tuple[float, float] | None = None
        self.bytes_sent = 0
        self.unawaited: Counter[str] = Counter()
        self.final: torch.Tensor | None = None
        self._lent: list[weakref.ref[Flat]] = []

    # -- what a program sees -------------------------------------------------------------------------------------

    @property
    def weights(self) -> Flat:
        """The live parameters, handed out without a copy; whoever changes them copies them for the holders first."""
        lent = Flat(
            self.replica.parameters, self.replica.buffer_vector(), version=self.version, num_samples=self.samples
        )
        self._lent.append(weakref.ref(lent))
        return lent

    def load(self, weights: Value) -> Ready:
        flat = force(awaited(weights))
        self._before_change()
        with self.ledger.span("communication_s"):
            self.replica.load(flat)
        self.version = flat.version
        return self._done("load")

    def send(self, value: Any, to: Address) -> Ready:
        value = awaited(value)
        check_address(self.setup, self.rank, to)
        with self.ledger.span("communication_s"):
            sent = self.post.send(to, value, time.monotonic(), self.ledger.paused_s, self.stopped)
        self.bytes_sent += sent
        return self._done("send")

    def receive(self, source: Address | None = ANY, leavers: bool = False) -> Ready:
        name = "receive()" if source is ANY else f"receive({source})"
        return Ready(name, self.unawaited, lambda: self._receive(name, source, leavers))

    def _receive(self, name: str, source: Address | None, leavers: bool) -> Message | None:
        began = time.monotonic()
        over, parcel = self.post.match(source, leavers)
        while not over:
            if not self.post.pump(0):
                self.status.waiting(name)
                self.post.pump(None)
                self.status.running()
            over, parcel = self.post.match(source, leavers)
        if parcel is None:
            return None
        self._account_wait(parcel, began, time.monotonic())
        return self._take(parcel)

    def _account_wait(self, parcel: Parcel, began: float, ended: float) -> None:
        """Before the message left, this endpoint was idle; after that it was on the wire. Pauses are neither."""
        pause = max(0.0, parcel.paused_s - self.ledger.paused_s)
        self.ledger.paused_s += pause
        waited = max(0.0, ended - began - pause)
        idle = min(waited, max(0.0, parcel.sent_s - began - pause))
        self.ledger.host("idle_s", idle)
        self.ledger.host("communication_s", waited - idle)

    def _take(self, parcel: Parcel) -> Message:
        self.stopped = self.stopped or parcel.stop
        return Message(parcel.source, parcel.value)

    def arrived(self) -> list[Message]:
        return [self._take(parcel) for parcel in self.post.poll()]

    def compute(self, function: Callable[..., Any], *args: Any) -> Ready:
        with self.ledger.span("compute_s"):
            answer = function(*[awaited(a) for a in args])
        return self._done("compute", answer)

    # -- what the engine sees ------------------------------------------------------------------------------------

    def _done(self, name: str, answer: Any = None) -> Ready:
        return Ready(name, self.unawaited, lambda: answer)

    def _before_change(self) -> None:
        for reference in self._lent:
            holder = reference()
            if holder is not None and holder.pieces is self.replica.parameters:
                holder.detach_from_engine()
        self._lent.clear()

    def evaluate(self, replica: Replica, moment: float, finite: bool = True) -> str | None:
        """Evaluate off the clock and let the referee decide."""
        began = time.monotonic()
        loss = accuracy = None
        if self.setup.budget.evaluates:
            loss, accuracy = replica.evaluate("validation")
        decision = self.referee.judge(Evaluation(self.samples, self.updates, moment, loss, accuracy), finite)
        self.evaluation_s += time.monotonic() - began
        return decision

    def finish(self, replica: Replica) -> None:
        """Use the test split, once."""
        began = time.monotonic()
        if self.setup.budget.evaluates:
            self.test = replica.evaluate("test")
        self.final = replica.vector().cpu()
        self.evaluation_s += time.monotonic() - began


class RealServer(RealEndpoint, Server):
    """A parameter server in a process of its own, on the CPU."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.marks = Marks(self.setup.budget.evaluate_every)
        self.log: list[dict[str, Any]] = []
        self.copies: list[tuple[int, int, float, Flat]] = []
        self._finite = True

    def apply(self, gradient: Value, scale: float = 1.0) -> Ready:
        flat = force(awaited(gradient))
        if self.stopped:
            return self._done("apply")
        self._before_change()
        rate = self.learning_rate * scale
        with self.ledger.span("compute_s"):
            self.replica.step(flat, rate)
        self._count(flat)
        if self.rank == -1 and self.setup.strategy.model_at == "server":
            self._mark()
        return self._done("apply")

    def _count(self, gradient: Flat) -> None:
        staleness = self.version - gradient.version
        self.version += 1
        self.updates += 1
        self.samples += gradient.num_samples
        self._finite = self._finite and (gradient.loss is None or math.isfinite(gradient.loss))
        worker, step = getattr(gradient, "origin", (None, None))
        entry = {"update": self.updates, "worker": worker, "step": step, "base_version": gradient.version}
        self.log.append(entry | {"staleness": staleness, "samples": gradient.num_samples, "time_s": self.ledger.now()})

    def _mark(self) -> None:
        spent = self.setup.budget.spent(self.samples, self.updates)
        moment = self.ledger.now()
        if self.marks.reached(self.samples) or spent or not self._finite:
            self._stop(self._judge(moment), moment)
        if spent:
            self._stop("budget", moment)

    def _judge(self, moment: float) -> str | None:
        if self.setup.strategy.synchrony == "synchronous":
            began = time.monotonic()
            decision = self.evaluate(self.replica, moment, self._finite)
            self.ledger.paused_s += time.monotonic() - began
            return decision
        self.copies.append((self.samples, self.updates, moment, self.replica.snapshot(self.version)))
        limit = self.setup.budget.max_seconds
        if not self._finite:
            return "diverged"
        return "seconds" if limit is not None and moment >= limit else None

    def _stop(self, decision: str | None, moment: float) -> None:
        if decision is not None and self.decision is None:
            self.decision, self.ended_s = decision, moment
        self.stopped = self.decision is not None

    def evaluate_copies(self, replica: Replica) -> None:
        """Evaluate what was copied at the marks, now that no training is disturbed."""
        final, samples, updates = replica.snapshot(), self.samples, self.updates
        for copied_samples, copied_updates, moment, copy in self.copies:
            self.samples, self.updates = copied_samples, copied_updates
            replica.load(copy)
            self.evaluate(replica, moment)
        self.samples, self.updates = samples, updates
        replica.load(final)


class RealWorker(RealEndpoint, Worker):
    """One process of a worker; where a worker has several devices, all its processes run the same program."""

    def __init__(
        self,
        setup: Setup,
        rank: Address,
        runner: OneDevice,
        ledger: Ledger,
        post: Post,
        status: Status,
        group_size: int,
    ) -> None:
        super().__init__(setup, rank, runner.replica, ledger, post, status)
        self.runner = runner
        self.group_size = group_size
        self.course = Course(setup, rank)
        self._checked_rows = 0
        self._gradient: weakref.ref[Flat] | None = None
        self.layout_bytes = 0.0
        self.copies: list[tuple[int, int, float, Flat]] = []

    @property
    def progress(self) -> int:
        return self.course.position

    @property
    def leads(self) -> bool:
        """Whether this process evaluates and decides."""
        return self.rank == 0 and self.runner.rank == 0

    # -- batches -------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        for batch in self.course.batches():
            if self.stopped:
                return
            self.ledger.begin(batch.step, self.version)
            yield batch
            self._finish_batch(batch.samples_before + batch.size, batch.step + 1)

    def _finish_batch(self, samples: int, steps: int) -> None:
        if self.setup.cell.servers:
            self.ended_s = self.ledger.now()
            return
        self.samples, self.updates = samples, steps
        if self.course.at_mark(samples, steps):
            if self.course.own and self.setup.strategy.synchrony == "asynchronous":
                self.copies.append((samples, steps, self.ledger.now(), self.replica.snapshot(self.version)))
                self.ended_s = self.ledger.now()
            else:
                self._meet_at_mark(self.course.spent(samples, steps))

    # -- marks ---------------------------------------------------------------------------------------------------

    def _meet_at_mark(self, spent: bool) -> None:
        """Evaluate while all wait and the clock stands; one decides, all obey at the same step."""
        self.ledger.resolve()
        finite = self._all_finite()
        moment, began = self.ledger.now(), time.monotonic()
        model = self._model()
        decision = self.evaluate(model, moment, finite) if self.leads else None
        decision = self._agree(decision)
        if decision is None and spent:
            decision = "budget"
        if decision is not None:
            self.decision, self.ended_s, self.stopped = decision, moment, True
            if self.leads:
                self.finish(model)
        self._restore(model)
        self.ledger.paused_s += time.monotonic() - began

    def _all_finite(self) -> bool:
        """Ask all processes; this is also where they wait for each other, on the clock."""
        rows = self.ledger.rows[self._checked_rows :]
        self._checked_rows = len(self.ledger.rows)
        finite = all(row["loss"] is None or math.isfinite(row["loss"]) for row in rows)
        if self.group_size == 1:
            return finite
        flag = torch.tensor([int(finite)], device=self.replica.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def _model(self) -> Replica:
        if self.setup.strategy.model_at != "mean" or self.group_size == 1:
            return self.runner.whole()
        self._kept = self.replica.snapshot(self.version)
        mean = self.replica.snapshot(self.version)
        mean_over_ranks([mean.tensor(), mean.buffers])
        self.replica.load(mean)
        return self.replica

    def _restore(self, model: Replica) -> None:
        if model is self.replica and self.setup.strategy.model_at == "mean" and self.group_size > 1:
            self.replica.load(self._kept)

    def _agree(self, decision: str | None) -> str | None:
        if self.group_size == 1:
            return decision
        code = torch.tensor([DECISIONS.index(decision)], device=self.replica.device)
        dist.broadcast(code, src=0)
        return DECISIONS[int(code.item())]

    def evaluate_copies(self) -> None:
        """Bring the copies of all workers together, mark by mark, after training."""
        count = torch.tensor([len(self.copies)])
        if self.group_size > 1:
            dist.all_reduce(count, op=dist.ReduceOp.MIN)
        for samples, updates, moment, copy in self.copies[: int(count)]:
            if self.group_size > 1:
                mean_over_ranks([copy.tensor(), copy.buffers])
            self.replica.load(copy)
            self.samples, self.updates = samples * self.setup.cell.workers, updates
            if self.leads:
                self.evaluate(self.replica, moment)
        if self.leads:
            self.finish(self.replica)

    # -- words ---------------------------------------------------------------------------------------------------

    def gradient(self, batch: Batch) -> Ready:
        self._rescue_gradient()
        committed = self.replica.buffer_vector()
        pieces, loss, samples = self.runner.gradient(batch)
        buffers = self.replica.buffer_vector()
        if committed is not None:
            with torch.no_grad():
                self.replica.set_buffers(committed)  # a gradient changes nothing until it is applied
        value = Flat(pieces, buffers, num_samples=len(batch.indices), version=self.version, loss=loss)
        value.origin = (self.rank, batch.step)
        row = self.ledger.row
        row["loss"] = loss
        row["samples"] += samples
        row["base_version"] = self.version
        self.bytes_sent += int(self.layout_bytes)
        self._gradient = weakref.ref(value)
        return self._done("gradient", value)

    def _rescue_gradient(self) -> None:
        """DDP's gradients are views of buckets that the next backward pass overwrites: copy one still in use."""
        value = self._gradient() if self._gradient is not None else None
        if value is not None and self.setup.layout.data > 1:
            value.detach_from_engine()

    def apply(self, gradient: Value, scale: float = 1.0) -> Ready:
        flat = force(awaited(gradient))
        if self.stopped:
            return self._done("apply")
        self._before_change()
        rate = self.learning_rate * scale
        with self.ledger.span("compute_s"):
            self.runner.step(flat, rate)
        self.version += 1
        return self._done("apply")

    def mean(self, value: Value, by_samples: bool = False) -> Ready:
        flat = force(awaited(value))
        if self.group_size == 1:
            return self._done("mean", flat)
        self.ledger.row["_ready_s"] = time.monotonic()
        weight = float(flat.num_samples) if by_samples else 1.0
        parts = [flat.tensor() * weight, *([] if flat.buffers is None else [flat.buffers * weight])]
        counts = flat.tensor().new_tensor([weight, flat.num_samples])
        vector = torch.cat([*parts, counts])
        work = dist.all_reduce(vector, async_op=True)
        self.bytes_sent += 2 * (self.group_size - 1) * flat.num_bytes // self.group_size
        return Ready("mean", self.unawaited, lambda: self._finish_mean(work, vector, flat))

    def _finish_mean(self, work: Any, vector: torch.Tensor, like: Flat) -> Flat:
        self.status.waiting("mean()")
        with self.ledger.span("communication_s"):
            work.wait()
        self.status.running()
        result = vector[:-2] / vector[-2]
        size = self.replica.num_parameters
        buffers = None if like.buffers is None else result[size:]
        return Flat([result[:size]], buffers, num_samples=int(vector[-1]), version=like.version, loss=like.loss)
