"""The words of Worker and Server on real devices."""

from __future__ import annotations

import math
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist

from harness.api.strategy import ANY, Batch, Codec, Message, Server, Value, Worker
from harness.core.addresses import Address
from harness.core.budget import Decision, Evaluation, Marks, Referee
from harness.core.errors import Impossible
from harness.core.outcome import StepRow
from harness.core.span import COMMUNICATION
from harness.core.step_parts import Part
from harness.engines.processes.standstill import Standstill
from harness.engines.processes.status import StatusLine
from harness.engines.real.clock import Ledger
from harness.engines.real.exchanges import EVERYBODY, Gathered, Sums
from harness.engines.real.layouts.one_device import OneDevice, mean_over_ranks
from harness.engines.real.meetings import Meetings, first_rank
from harness.engines.real.messages import Post, Receive
from harness.engines.real.wire import from_bytes, to_bytes
from harness.engines.shared.codec_checks import as_codec, check_linear, check_sent
from harness.engines.shared.displacement import early_displacement
from harness.engines.shared.encoded import EncodedFlat, Form, as_sent, encode, sent_tensors
from harness.engines.shared.endpoint import Course, Endpoint, check_address
from harness.engines.shared.fault_draws import FaultDraws
from harness.engines.shared.flat import Flat, force
from harness.engines.shared.parcel import Parcel
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.engines.shared.started_words import Ready, as_value, awaited
from harness.engines.shared.waits import Wait
from harness.workloads.accelerator import ALLOCATED, RESERVED, forget_peaks, has_queue, peak_bytes

RESOLVE_EVERY = 256
"""Steps after which a worker without marks reads its stamps; chosen: seldom enough to cost nothing."""

MOST_UNREAD = 1024
"""Steps after which stamps and losses are read where no mark came before; chosen: losses of so many steps take half a
MiB of a GPU's memory, whose least block is 512 bytes (torch, CUDACachingAllocator.h)."""

HOST = torch.device("cpu")

DECISIONS: tuple[Decision | None, ...] = (None, *Decision)


class RealEndpoint(Endpoint):
    """State and words that workers and servers share.

    Attributes:
        replica: parameters and optimizer of this process.
        version: updates behind this endpoint's weights.
        own_samples: behind the gradients that it has applied itself; loading weights does not change it.
        peaks: of the device's allocator, evaluations left out; none on a CPU.
    """

    def __init__(self, setup: Setup, rank: Address, replica: Replica, ledger: Ledger, post: Post, status: StatusLine):
        super().__init__(setup, rank, post.gone, [], {})
        self.replica = replica
        self.ledger, self.post, self.status = ledger, post, status
        self.version = self.own_samples = 0
        self.peaks: dict[str, int] = {}
        self.form = post.form = Form(replica.shapes, replica.parameters_like)
        self._receives: list[Receive] = []
        self.referee = Referee(setup.budget)
        self.decision: Decision | None = None
        self.ended_s: float | None = None
        self.evaluation_s = 0.0
        self.test: tuple[float, float] | None = None
        self.bytes_sent = 0
        self.sum_rounding = 0.0  # of the coarsest type in which several workers' values were summed
        self.unawaited: Counter[str] = Counter()
        self.final: torch.Tensor | None = None
        self._lent: list[weakref.ref[Flat]] = []

    # -- what a program sees -------------------------------------------------------------------------------------

    @property
    def weights(self) -> Flat:
        """The live parameters, handed out without a copy; whoever changes them copies them for the holders first."""
        lent = Flat(
            self.replica.parameters, self.replica.buffer_vector(), version=self.version, num_samples=self.own_samples
        )
        self._lent.append(weakref.ref(lent))
        return lent

    def note_peak(self) -> None:
        """Keep the allocator's peaks of training; called before anything is evaluated on the device.

        What is reserved counts up to the first evaluation: the allocator keeps the blocks of that, used or not.
        """
        now = peak_bytes(self.replica.device)
        if now and self.peaks:
            used = max(now[ALLOCATED], self.peaks[ALLOCATED])
            now = {ALLOCATED: used, RESERVED: max(used, self.peaks[RESERVED])}
        self.peaks = now

    def load(self, weights: Value) -> Ready:
        flat = force(as_value(weights, "load"))
        self._before_change()
        with self.ledger.span(Part.COMMUNICATION, "load"):
            self.replica.load(flat)
        self.version = flat.version
        return self._done("load")

    def send(self, value: Any, to: Address) -> Ready:
        self._refuse_messages("send")
        value = awaited(value)
        check_address(self.setup, self.rank, to)
        check_sent(value, self.post.whole_bytes)
        with self.ledger.span(Part.COMMUNICATION, "send", COMMUNICATION):
            sent = self.post.send(to, value, self.ledger.clock(), self.stopped)
        self.bytes_sent += sent
        return self._done("send")

    def receive(self, source: Address | None = ANY, leavers: bool = False) -> Ready:
        self._refuse_messages("receive")
        name = "receive()" if source is ANY else f"receive({source})"
        started = Receive(source, leavers)
        self._receives.append(started)
        return Ready(name, self.unawaited, lambda: self._finish_receive(started))

    def _finish_receive(self, started: Receive) -> Message | None:
        began = self.ledger.clock()
        self._match_receives()
        while not started.over:
            if not self.post.pump(0):
                self.status.waiting(Wait.RECEIVE, started.source)
                self.post.pump(None)
                self.status.running()
            self._match_receives()
        if started.parcel is None:
            return None
        self._account_wait(started.parcel, began, self.ledger.clock())
        return self._take(started.parcel)

    def _match_receives(self) -> None:
        """Give what is here to the receives in the order in which they were started, not awaited."""
        for started in list(self._receives):
            started.over, started.parcel = self.post.match(started.source, started.leavers)
            if started.over:
                self._receives.remove(started)

    def _account_wait(self, parcel: Parcel, began: float, ended: float) -> None:
        """Before the message left, this endpoint was idle; after that it was on the wire."""
        waited = max(0.0, ended - began)
        idle = min(waited, max(0.0, parcel.sent_s - began))
        self.ledger.waited(idle, waited - idle)

    def _take(self, parcel: Parcel) -> Message:
        self.stopped = self.stopped or parcel.stop
        if isinstance(parcel.value, (Flat, EncodedFlat)) and has_queue(self.replica.device):
            parcel.value.move_to(self.replica.device)
        self._decode([parcel.value])
        return Message(parcel.source, parcel.value)

    def _refuse_messages(self, word: str) -> None:
        """Refuse messages where they cannot be carried."""

    def arrived(self) -> list[Message]:
        return [self._take(parcel) for parcel in self.post.poll()]

    def layers(self, value: Value) -> dict[str, torch.Tensor]:
        return self.replica.named(force(as_value(value, "layers")))

    def encode(self, value: Value, codec: Codec) -> Ready:
        flat, codec = force(as_value(value, "encode")), as_codec(codec)
        with self.ledger.span(Part.COMPUTE, "encode"):
            encoded = encode(flat, self.replica.named(flat), codec)
        return self._done("encode", encoded)

    def _decode(self, values: Sequence[object]) -> None:
        """Decode what has come, so that it is accounted for as what it is."""
        encoded = [value for value in values if isinstance(value, EncodedFlat) and value.codec.decode_passes]
        if encoded:
            with self.ledger.span(Part.COMPUTE, "decode"):
                for value in encoded:
                    value.force()

    def compute(self, function: Callable[..., Any], *args: Any) -> Ready:
        with self.ledger.span(Part.COMPUTE, "compute"):
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

    def evaluate(self, replica: Replica, moment: float, finite: bool = True) -> Decision | None:
        """Evaluate off the clock and let the referee decide."""
        began = time.monotonic()
        loss = metric = None
        if self.setup.budget.evaluates:
            loss, metric = replica.evaluate("validation")
            self.status.evaluated(loss)
        moved = early_displacement(self.setup, replica.vector, len(self.referee.evaluations))
        decision = self.referee.judge(Evaluation(self.samples, self.updates, moment, loss, metric, moved), finite)
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
        self.log: list[StepRow] = []
        self.standstill = Standstill(self.status)
        self._finite = True
        self.make_evaluator: Callable[[], Replica] = lambda: self.replica
        self._evaluator: Replica | None = None

    def begin(self) -> None:
        """Look for the other processes while their first gradients are computed, and not at the first mark."""
        if self.setup.server_counts:
            self.standstill.find_others()

    def evaluation_replica(self) -> Replica:
        """Return a replica with the present weights on the cell's device; made once, when first needed."""
        if self._evaluator is None:
            self._evaluator = self.make_evaluator()
        if self._evaluator is not self.replica:
            self._evaluator.load(self.replica.snapshot().on(self._evaluator.device))
        return self._evaluator

    def apply(self, gradient: Value, scale: float = 1.0) -> Ready:
        flat = force(as_value(gradient, "apply"))
        if self.stopped:
            return self._done("apply")
        self._before_change()
        rate = self.learning_rate * scale
        with self.ledger.span(Part.COMPUTE, "apply"):
            self.replica.step(flat, rate)
        self.own_samples += flat.num_samples
        self._count(flat)
        if self.rank == -1 and self.setup.server_counts:
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
        entry |= {"staleness": staleness, "samples": gradient.num_samples, "time_s": self.ledger.now()}
        self.log.append(entry | (gradient.spread._asdict() if gradient.spread else {}))

    def _mark(self) -> None:
        spent = self.setup.budget.spent(self.samples, self.updates)
        moment = self.ledger.now()
        if self.marks.reached(self.samples) or spent:
            self._stop(self._judge(moment), moment)
        if spent:
            self._stop(Decision.BUDGET, moment)

    def _judge(self, moment: float) -> Decision | None:
        if not self.setup.budget.evaluates:
            return self.evaluate(self.replica, moment, self._finite)
        with self.standstill.kept():
            return self.evaluate(self.evaluation_replica(), moment, self._finite)

    def _stop(self, decision: Decision | None, moment: float) -> None:
        if decision is not None and self.decision is None:
            self.decision, self.ended_s = decision, moment
        self.stopped = self.decision is not None


class RealWorker(RealEndpoint, Worker):
    """One process of a worker; where a worker has several devices, all its processes run the same program."""

    def __init__(
        self,
        setup: Setup,
        rank: Address,
        runner: OneDevice,
        ledger: Ledger,
        post: Post,
        status: StatusLine,
        group_size: int,
        meetings: Meetings = EVERYBODY,
    ) -> None:
        super().__init__(setup, rank, runner.replica, ledger, post, status)
        self.runner = runner
        self.group_size, self.meetings = group_size, meetings
        self.num_workers = setup.cell.workers
        self.course = Course(setup, rank)
        self.faults = FaultDraws(setup.cell)
        number = rank * setup.layout.devices + runner.rank
        self.devices = range(number, number + 1)
        self._checked_rows = 0
        self._gradient: weakref.ref[Flat] | None = None
        self.layout_bytes = 0.0
        self._readied: StepRow | None = None
        self.copies: list[tuple[int, int, float, Flat]] = []

    @property
    def progress(self) -> int:
        return self.course.position

    @property
    def sent_by_device(self) -> float:
        """Bytes that this device adds to its worker's: words once, a layout's `reduce` as the mean of replicas."""
        reducing = self.runner.reducing
        words = self.bytes_sent if self.runner.rank == 0 else 0
        return words + (reducing.bytes_sent / self.setup.layout.devices if reducing is not None else 0.0)

    @property
    def leads(self) -> bool:
        """Whether this process evaluates and decides."""
        return self.rank == 0 and self.runner.rank == 0

    # -- batches -------------------------------------------------------------------------------------------------

    def batches(self) -> Iterator[Batch]:
        for batch in self.course.batches():
            if self.stopped:
                return
            self.faults.raise_if_lost(self.devices, batch.step, self.ledger.now())
            self.ledger.begin(batch.step, self.version)
            yield batch
            self._finish_batch(batch.samples_before + batch.size, batch.step + 1)

    def _finish_batch(self, samples: int, steps: int) -> None:
        self.status.stepped(steps)
        if self.setup.server_counts:
            self.ended_s = self.ledger.now()
            if steps % RESOLVE_EVERY == 0:
                self.ledger.resolve()  # without marks of its own a worker would pile up events and losses
            return
        self.samples, self.updates = self.course.total(samples, steps), steps
        if self.course.at_mark(samples, steps):
            if self.copies_marks:
                self._copy_at_mark(steps)
            else:
                self._meet_at_mark(self.course.spent(samples, steps))
        elif steps % MOST_UNREAD == 0:
            self._read_ledger()

    @property
    def copies_marks(self) -> bool:
        """Whether marks are copied and evaluated afterwards: nobody waits, and no server counts."""
        asynchronous = self.setup.strategy.synchrony == "asynchronous"
        return self.course.own and asynchronous and not self.setup.server_counts

    def _read_ledger(self) -> None:
        """Read stamps and losses, with the clock stopped: a plain loop has none to read."""
        self.ledger.paused_s += self.ledger.resolve()

    def _copy_at_mark(self, steps: int) -> None:
        self._read_ledger()
        self.ended_s = self.ledger.now()
        copy = self.replica.snapshot(self.version)
        # Not beside the training on its device, whose memory is measured, and which has less of it than the host.
        self.copies.append((self.samples, steps, self.ended_s, copy.on(HOST)))
        limit = self.setup.budget.max_seconds
        if not self._finite():
            self.decision, self.stopped = Decision.DIVERGED, True
        elif limit is not None and self.ended_s >= limit:
            self.decision, self.stopped = Decision.SECONDS, True

    # -- marks ---------------------------------------------------------------------------------------------------

    def _meet_at_mark(self, spent: bool) -> None:
        """Evaluate while all wait and the clock stands; one decides, all obey at the same step."""
        self._read_ledger()
        self.note_peak()
        finite = self._all_finite()
        moment, began = self.ledger.now(), self.ledger.clock()
        with self.setup.reading_held():
            self._judge_mark(moment, finite, spent)
        forget_peaks(self.replica.device)
        self.ledger.paused_s += self.ledger.clock() - began

    def _judge_mark(self, moment: float, finite: bool, spent: bool) -> None:
        model = self._model()
        decision = self._agree(self.evaluate(model, moment, finite) if self.leads else None)
        if decision is None and spent:
            decision = Decision.BUDGET
        if decision is not None:
            self.decision, self.ended_s, self.stopped = decision, moment, True
            if self.leads:
                self.finish(model)
        self._restore(model)

    def _all_finite(self) -> bool:
        """Ask all processes; this is also where they wait for each other, on the clock."""
        finite = self._finite()
        if self.group_size == 1:
            return finite
        flag = torch.tensor([int(finite)], device=self.replica.device)
        dist.all_reduce(flag, op=dist.ReduceOp.MIN)
        return bool(flag.item())

    def _finite(self) -> bool:
        """Whether this process's losses since the last mark are numbers."""
        rows = self.ledger.rows[self._checked_rows :]
        self._checked_rows = len(self.ledger.rows)
        return all(row["loss"] is None or math.isfinite(row["loss"]) for row in rows)

    def _model(self) -> Replica:
        if not self._of_all_workers:
            return self.runner.whole()
        self._kept = self.replica.snapshot(self.version)
        self._load_model(self.replica.snapshot(self.version))
        return self.replica

    @property
    def _of_all_workers(self) -> bool:
        """Whether the model is no single worker's: their mean, or an ensemble of them."""
        return self.setup.strategy.model_at in ("mean", "ensemble") and self.num_workers > 1

    def _load_model(self, own: Flat) -> None:
        """Put the mean of all workers' weights into the replica, and where they are an ensemble its members beside it.

        Args:
            own: this worker's weights; they become the mean.
        """
        if self.setup.strategy.model_at == "ensemble":
            self.replica.members = self._members(own)
        mean_over_ranks([own.vector(), own.buffers], self.meetings.workers)
        self.replica.load(own)

    def _members(self, own: Flat) -> list[Flat]:
        """Return all workers' weights where they are evaluated; none elsewhere."""
        group = self.meetings.workers

        def everybodys(part: torch.Tensor) -> list[torch.Tensor]:
            found = [torch.empty_like(part) for _ in range(self.num_workers)] if self.rank == 0 else None
            dist.gather(part, found, dst=first_rank(group), group=group)
            return found or []

        vectors = everybodys(own.vector())
        buffers = [None] * len(vectors) if own.buffers is None else everybodys(own.buffers)
        return [Flat([vector], held) for vector, held in zip(vectors, buffers, strict=True)]

    def _restore(self, model: Replica) -> None:
        if model is self.replica and self._of_all_workers:
            self.replica.load(self._kept)

    def _agree(self, decision: Decision | None) -> Decision | None:
        if self.group_size == 1:
            return decision
        code = torch.tensor([DECISIONS.index(decision)], device=self.replica.device)
        dist.broadcast(code, src=0)
        return DECISIONS[int(code.item())]

    def evaluate_copies(self) -> None:
        """Bring the copies of all workers together, mark by mark, after training.

        The run ends where they decide it: what was trained beyond that mark does not count.
        """
        for samples, updates, moment, kept in self.copies[: int(self._over_ranks(len(self.copies), dist.ReduceOp.MIN))]:
            latest_s = self._over_ranks(moment, dist.ReduceOp.MAX)
            copy = kept.on(self.replica.device)
            if self.num_workers > 1:
                self._load_model(copy)
            else:
                self.replica.load(copy)
            self.samples, self.updates, self.ended_s = samples, updates, latest_s
            decision = self._agree(self.evaluate(self.replica, latest_s) if self.leads else None)
            if decision is not None:
                self.decision = decision
                break
        if self.leads:
            self.finish(self.replica)

    def _over_ranks(self, number: float, operation: dist.ReduceOp) -> float:
        if self.group_size == 1:
            return number
        shared = torch.tensor([number], dtype=torch.float64, device=self.replica.device)
        dist.all_reduce(shared, op=operation)
        return float(shared.item())

    # -- words ---------------------------------------------------------------------------------------------------

    def _refuse_messages(self, word: str) -> None:
        """Refuse a message of a worker of several devices: it would come from each of them.

        Raises:
            Impossible: this worker has several.
        """
        if self.num_workers > 1 and self.setup.layout.devices > 1:
            raise Impossible(
                f"{word}: workers of {self.setup.layout.devices} devices each exchange by mean and gather on real "
                'processes; set engine = "virtual" for messages between them'
            )

    def gradient(self, batch: Batch) -> Ready:
        self._rescue_gradient()
        committed = self.replica.buffer_vector()
        pieces, loss, samples = self._computed(batch)
        buffers = self.replica.buffer_vector()
        if buffers is not None and self.meetings.replicas is not None:
            # The first replica's are the worker's; the others would get them in their next forward pass only.
            dist.broadcast(buffers, src=first_rank(self.meetings.replicas), group=self.meetings.replicas)
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
        if self.runner.reducing is not None:
            self.sum_rounding = max(self.sum_rounding, self.runner.reducing.rounding)
        self._gradient = weakref.ref(value)
        return self._done("gradient", value)

    def _computed(self, batch: Batch) -> tuple[list[torch.Tensor], Any, int]:
        """Compute, and sleep for what faults add: where devices exchange, the others wait for it at their next one."""
        if not self.faults.faults.slows:
            return self.runner.gradient(batch)
        before = self.ledger.computed_s()
        answer = self.runner.gradient(batch)
        (factor,) = self.faults.of(self.devices, batch.step)
        began = self.ledger.clock()
        until = began + (factor - 1) * (self.ledger.computed_s() - before)
        while (left_s := until - self.ledger.clock()) > 0:  # a standstill does not shorten the sleep
            time.sleep(left_s)
        self.ledger.host(Part.COMPUTE, self.ledger.clock() - began, "slowed")
        return answer

    def _rescue_gradient(self) -> None:
        """Copy a gradient still in use that the next backward pass overwrites."""
        value = self._gradient() if self._gradient is not None else None
        if value is not None and self.runner.lends_gradients:
            value.detach_from_engine()

    def apply(self, gradient: Value, scale: float = 1.0) -> Ready:
        flat = force(as_value(gradient, "apply"))
        if self.stopped:
            return self._done("apply")
        self._before_change()
        rate = self.learning_rate * scale
        with self.ledger.span(Part.COMPUTE, "apply"):
            self.runner.step(flat, rate)
        self.version += 1
        self.own_samples += flat.num_samples
        return self._done("apply")

    def mean(self, value: Value, by_samples: bool = False) -> Ready:
        sent = as_sent(as_value(value, "mean"))
        if isinstance(sent, EncodedFlat):
            check_linear(sent)
        if self.num_workers == 1:
            return self._done("mean", sent)
        self._ready_to_exchange()
        weight = float(sent.num_samples) if by_samples else 1.0
        with self.ledger.span(Part.COMMUNICATION, "pack"):
            # Filled in, not copied: a copy from the host would make it wait for the device.
            counts = [self.form.like.new_full((1,), number) for number in (weight, sent.num_samples)]
            sums = Sums([part.reshape(-1) * weight for part in sent_tensors(sent)] + counts, self.meetings)
        self.sum_rounding = max(self.sum_rounding, sums.rounding)
        self.bytes_sent += 2 * (self.num_workers - 1) * sent.num_bytes // self.num_workers
        return Ready("mean", self.unawaited, lambda: self._finish_mean(sums, sent, by_samples))

    def _finish_mean(self, sums: Sums, like: Flat | EncodedFlat, by_samples: bool) -> Value:
        self.status.waiting(Wait.MEAN)
        with self.ledger.span(Part.COMMUNICATION, "mean", COMMUNICATION):
            *results, weight, samples = sums.wait()
            results = [result / weight[0] for result in results]
        self.status.running()
        if by_samples and not samples:
            return like  # nobody has any samples yet: all values are the initial ones
        buffers = None if like.buffers is None else results.pop()
        if isinstance(like, EncodedFlat):
            mean = like.averaged(results, buffers, int(samples), like.version)
            self._decode([mean])
            return mean
        return Flat(results, buffers, num_samples=int(samples), version=like.version, loss=like.loss)

    def gather(self, value: Value) -> Ready:
        sent = as_sent(as_value(value, "gather"))
        if self.num_workers == 1:
            return self._done("gather", [sent])
        self._ready_to_exchange()
        self.status.waiting(Wait.GATHER)
        with self.ledger.span(Part.COMMUNICATION, "pack"):
            packed = to_bytes(sent)
            # Waited for here: whoever awaits two words in another order than others must not exchange in another order.
            exchanged = Gathered(packed, self.num_workers, self.meetings.workers)
        self.status.running()
        self.bytes_sent += (self.num_workers - 1) * sent.num_bytes
        return Ready("gather", self.unawaited, lambda: self._finish_gather(exchanged, sent))

    def _finish_gather(self, exchanged: Gathered, sent: Flat | EncodedFlat) -> list[Value]:
        codec = sent.codec if isinstance(sent, EncodedFlat) else None
        self.status.waiting(Wait.GATHER)
        with self.ledger.span(Part.COMMUNICATION, "gather", COMMUNICATION):
            everybody = exchanged.wait()
            values = [sent if k == self.rank else from_bytes(raw, self.form, codec) for k, raw in enumerate(everybody)]
        self.status.running()
        self._decode(values)
        return values

    def _ready_to_exchange(self) -> None:
        """Note when this worker is ready for a step's first exchange: there it waits for the slowest."""
        if self._readied is not self.ledger.row:
            self._readied = self.ledger.row
            self._readied.pop("_group", None)  # its worker's replicas met before
            self.ledger.moment("_ready_s", self.ledger.stamp())
