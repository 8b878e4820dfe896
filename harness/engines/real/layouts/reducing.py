"""A layout's own `reduce` on real devices: a program for each bucket of gradients, beside the backward pass.

Programs run one after another, in the order in which DDP hands buckets over, which is the same on every replica: two of
them at once would exchange in whatever order their parts end. On a CPU a thread runs them, whose exchanges have a
process group of their own; on a device with a queue they are given to a stream of their own.
"""

from __future__ import annotations

import queue
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.distributed as dist

from harness.api.strategy import Codec, Value
from harness.engines.real.exchanges import Gathered, Sums
from harness.engines.real.meetings import Meetings
from harness.engines.real.wire import from_bytes, to_bytes
from harness.engines.shared.buckets import BucketForm
from harness.engines.shared.codec_checks import check_linear
from harness.engines.shared.encoded import EncodedFlat, Form, as_sent, sent_tensors
from harness.engines.shared.endpoint import Endpoint
from harness.engines.shared.flat import Flat
from harness.engines.shared.reduce_program import ReduceProgram, ReplicaMemory
from harness.engines.shared.replica import Replica
from harness.engines.shared.setup import Setup
from harness.engines.shared.started_words import Ready, as_value, awaited, foreign
from harness.workloads.accelerator import SideStream, has_queue

if TYPE_CHECKING:
    from harness.engines.real.clock import Ledger, Stamp


LAST_PROGRAM_S = 10.0
"""For the thread to end what it has begun; chosen: it is idle then, unless a replica is gone and nobody answers it."""


class Ran(NamedTuple):
    """What a trace shows of a bucket, and when the device computed for it."""

    number: int
    start: Stamp
    end: Stamp
    computing: Sequence[tuple[Stamp, Stamp]]


class Reducing:
    """Runs `reduce` on one replica.

    Args:
        group: of the replicas; None: all processes, or a replica alone.

    Attributes:
        rounding: of the coarsest type in which several replicas' values were summed.
        bytes_sent: by this replica.
    """

    def __init__(
        self, setup: Setup, replica: Replica, ledger: Ledger, place: tuple[int, int], group: dist.ProcessGroup | None
    ) -> None:
        worker, number = place
        assert setup.layout.reduce is not None
        self.reduce = setup.layout.reduce
        self.memory = ReplicaMemory(setup.cell.seed, worker, number, setup.layout.data)
        self.replica, self.ledger, self.group = replica, ledger, group
        self.sink = Endpoint(setup, worker, set(), [], {})
        self.rounding = self.bytes_sent = 0.0
        self.unawaited: Counter[str] = Counter()
        self._places = {id(parameter): place for place, parameter in enumerate(replica.parameters)}
        self._forms: dict[tuple[int, ...], BucketForm] = {}
        self._results: dict[int, torch.Tensor] = {}
        self._ran: list[Ran] = []
        self._failure: BaseException | None = None
        self._stream = SideStream(replica.device) if has_queue(replica.device) else None
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    # -- buckets as they come --------------------------------------------------------------------------------------

    def hook(self, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
        """Begin the program of a bucket; what DDP's `register_comm_hook` takes.

        DDP averages nothing then. What the program returns is taken from here by `results`; the future says when.
        """
        places = [self._places[id(parameter)] for parameter in bucket.parameters()]
        gradients = dict(zip(places, bucket.gradients(), strict=True))
        future: torch.futures.Future[torch.Tensor] = torch.futures.Future()
        buffer, number = bucket.buffer(), bucket.index()

        def run() -> None:
            self._guarded(number, places, gradients)
            future.set_result(buffer)

        if self._stream is not None:
            with self._stream:
                self._guarded(number, places, gradients)
            future.set_result(buffer)
        else:
            self._on_thread(run)
        return future

    def _on_thread(self, run: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="reduce", daemon=True)
            self._thread.start()
        self._waiting.put(run)

    def _serve(self) -> None:
        while (run := self._waiting.get()) is not None:
            run()

    def afterwards(self, forms: Sequence[BucketForm], gradients: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Exchange gradients that are all there; return them by parameter."""
        held = dict(enumerate(gradients))
        for form in forms:
            self._guarded(form.number, form.places, held)
        return self.results()

    def results(self) -> list[torch.Tensor]:
        """Return what the programs of a step have returned, by parameter.

        Raises:
            BaseException: what a program raised.
        """
        if self._stream is not None:
            self._stream.wait_for()
        if self._failure is not None:
            raise self._failure
        shapes = self.replica.shapes.values()
        found = [self._results[place].view(shape) for place, shape in enumerate(shapes)]
        self._results = {}
        return found

    # -- one bucket --------------------------------------------------------------------------------------------------

    def _guarded(self, number: int, places: Sequence[int], gradients: Mapping[int, torch.Tensor]) -> None:
        """Run a program; what it raises is raised by `results`, in the thread that computes."""
        if self._failure is not None:
            return
        try:
            with torch.no_grad():
                self._one(self._form(number, places), gradients)
        except BaseException as error:
            self._failure = error

    def _form(self, number: int, places: Sequence[int]) -> BucketForm:
        key = (number, *places)
        if key not in self._forms:
            self._forms[key] = BucketForm(self.replica, number, places)
        return self._forms[key]

    def _one(self, form: BucketForm, gradients: Mapping[int, torch.Tensor]) -> None:
        start = self.ledger.stamp()
        bucket = _RealBucket(form, form.gradient(gradients), self)
        program = self.reduce(bucket)
        try:
            yielded = program.send(None)
        except StopIteration as end:
            self._results |= form.parts(end.value)
        else:
            error = foreign(program, yielded)
            program.close()
            raise error
        self._ran.append(Ran(form.number, start, self.ledger.stamp(), bucket.computing))

    # -- what the runner asks ----------------------------------------------------------------------------------------

    def account(self, ready: Stamp, end: Stamp) -> None:
        """Show the buckets of a step, and count what was computed for them after its backward pass as computing.

        Args:
            ready: when the last gradient was computed.
            end: when the last bucket was done; the time between counts as communication so far.
        """
        for ran in self._ran:
            self.ledger.beside(f"bucket {ran.number}", ran.start, ran.end)
            for began, ended in ran.computing if self._stream is None else ():
                exposed_s = min(ended, end) - max(began, ready)
                if exposed_s > 0:
                    self.ledger.recount(exposed_s)
        self._ran = []

    def report_to(self, worker: Endpoint, unawaited: Counter[str]) -> None:
        """Let a worker keep what programs record and note from now on, and words that nobody waited for."""
        self.sink, self.unawaited = worker, unawaited

    def forget(self) -> None:
        """Begin anew after a warm-up."""
        self.memory.forget()
        self.bytes_sent = 0.0
        self._ran = []

    def close(self) -> None:
        """End the thread, and let go of the process group."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join(LAST_PROGRAM_S)
        self.group = None


class _RealBucket(ReduceProgram):
    """A bucket of gradients on a real device.

    Attributes:
        computing: when the device computed for the exchange.
    """

    def __init__(self, form: BucketForm, gradient: Flat, reducing: Reducing) -> None:
        super().__init__(form, gradient, reducing.memory, reducing.sink)
        self._all = reducing
        self._like = Form(form.shapes, gradient.vector()[:0])
        self.computing: list[tuple[Stamp, Stamp]] = []

    @contextmanager
    def _computed(self) -> Iterator[None]:
        start = self._all.ledger.stamp()
        yield
        self.computing.append((start, self._all.ledger.stamp()))

    def _done(self, name: str, answer: object) -> Ready:
        return Ready(name, self._all.unawaited, lambda: answer)

    def encode(self, value: Value, codec: Codec) -> Ready:
        with self._computed():
            encoded = self.encoded(value, codec)
        return self._done("encode", encoded)

    def compute(self, function: Callable[..., object], *args: object) -> Ready:
        with self._computed():
            answer = function(*[awaited(a) for a in args])
        return self._done("compute", answer)

    def mean(self, value: Value) -> Ready:
        sent = as_sent(as_value(value, "mean"))
        if isinstance(sent, EncodedFlat):
            check_linear(sent)
        if self.replicas == 1:
            return self._done("mean", sent)
        sums = Sums([part.reshape(-1) for part in sent_tensors(sent)], Meetings(workers=self._all.group))
        self._all.rounding = max(self._all.rounding, sums.rounding)
        self._all.bytes_sent += 2 * (self.replicas - 1) * sent.num_bytes / self.replicas
        return Ready("mean", self._all.unawaited, lambda: self._meant(sums, sent))

    def _meant(self, sums: Sums, like: Flat | EncodedFlat) -> Value:
        results = [result / self.replicas for result in sums.wait()]
        if isinstance(like, EncodedFlat):
            return self._decoded([like.averaged(results, None, 0, 0)])[0]
        return Flat(results)

    def gather(self, value: Value) -> Ready:
        sent = as_sent(as_value(value, "gather"))
        if self.replicas == 1:
            return self._done("gather", [sent])
        exchanged = Gathered(to_bytes(sent), self.replicas, self._all.group)
        self._all.bytes_sent += (self.replicas - 1) * sent.num_bytes
        return Ready("gather", self._all.unawaited, lambda: self._gathered(exchanged, sent))

    def _gathered(self, exchanged: Gathered, sent: Flat | EncodedFlat) -> list[Value]:
        codec = sent.codec if isinstance(sent, EncodedFlat) else None
        everybody = enumerate(exchanged.wait())
        return self._decoded([sent if k == self.rank else from_bytes(raw, self._like, codec) for k, raw in everybody])

    def _decoded(self, values: list[Value]) -> list[Value]:
        encoded = [value for value in values if isinstance(value, EncodedFlat) and value.codec.decode_passes]
        if encoded:
            with self._computed():
                for value in encoded:
                    value.force()
        return values
