"""A layout's own `reduce` in virtual time: the programs of all replicas for one bucket, exchange by exchange.

Nothing here waits: a bucket's programs depend on nobody but each other, so they are run at once, and what they take is
told to the law of the step, which lays them beside the backward pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from harness.api.strategy import Codec, Encoded, Value
from harness.core.errors import PluginError
from harness.costs.steps import ReducedBucket
from harness.engines.shared.codec_checks import check_linear
from harness.engines.shared.reduce_program import Holds, ReduceProgram, ReplicaMemory
from harness.engines.shared.started_words import Ready, Waiting, Word, as_value, awaited, foreign

if TYPE_CHECKING:
    from harness.engines.shared.endpoint import Endpoint
    from harness.engines.virtual.cluster import VirtualCluster


Program = Coroutine[object, None, object]


class BucketPrograms:
    """Runs the programs of one worker's replicas.

    Where nothing is computed all replicas do the same, and the first one stands for them.
    """

    def __init__(self, worker: Endpoint, cluster: VirtualCluster) -> None:
        self.worker, self.cluster = worker, cluster
        setup = self.cluster.setup
        assert setup.layout.reduce is not None
        self.reduce, self.replicas = setup.layout.reduce, setup.layout.data
        self._memories: list[ReplicaMemory] = []
        self.took: list[ReducedBucket] = []

    def memory(self, rank: int) -> ReplicaMemory:
        """Return what a replica keeps from step to step."""
        while len(self._memories) <= rank:
            number = len(self._memories)
            self._memories.append(ReplicaMemory(self.cluster.setup.cell.seed, self.worker.rank, number, self.replicas))
        return self._memories[rank]

    def run(self, form: Holds, gradients: Sequence[Value]) -> object:
        """Run the programs of a bucket; what they took is added to `took`.

        Args:
            form: of the bucket.
            gradients: of each replica that is run.

        Raises:
            PluginError: replicas exchange other things than each other, or return other values.
        """
        exchanges: list[_Exchange] = []
        buckets = [
            _VirtualBucket(form, each, self, rank, (len(gradients), exchanges)) for rank, each in enumerate(gradients)
        ]
        programs = [self.reduce(bucket) for bucket in buckets]
        try:
            results = _together(programs, exchanges)
        finally:
            for program in programs:
                program.close()
        self.took.append(
            ReducedBucket(
                form.num_bytes,
                max(bucket.now_s for bucket in buckets),
                max(bucket.computed_s for bucket in buckets),
                fmean(bucket.bytes_sent for bucket in buckets),
            )
        )
        values = [result for result in results if isinstance(result, Value)]
        if any(value is not values[0] and not form.same(values[0], value) for value in values[1:]):
            raise PluginError(
                "reduce returned other numbers on one replica than on another; return what all have in common, such as "
                "a mean"
            )
        return results[0]


def _together(programs: Sequence[Program], exchanges: Sequence[_Exchange]) -> list[object]:
    """Run programs to their ends, each as far as it comes before others do."""
    results: dict[int, object] = {}
    before = (-1, -1, -1)
    while len(results) < len(programs):
        met = sum(exchange.over for exchange in exchanges)
        if before == (before := (len(results), len(exchanges), met)):
            waiting = next(rank for rank in range(len(programs)) if rank not in results)
            last = next(exchange for exchange in exchanges if not exchange.over)
            raise PluginError(
                f"replica {waiting} waits in {last.name} for replicas that never come there; all replicas must take "
                "part in every exchange of a bucket"
            )
        for rank, program in enumerate(programs):
            if rank in results:
                continue
            try:
                yielded = program.send(None)
            except StopIteration as end:
                results[rank] = end.value
            else:
                if not isinstance(yielded, _Exchange):
                    raise foreign(program, yielded)
    return [results[rank] for rank in range(len(programs))]


class _Exchange:
    """One exchange of a bucket's replicas.

    Attributes:
        values: of those who have come, by rank.
        end_s: when it is over, from the start of the bucket.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.values: dict[int, Value] = {}
        self.start_s = self.end_s = 0.0
        self.result: Value | list[Value] = []
        self.over = False


class _ExchangeWord(Word):
    """A word that waits for all replicas, and then decodes what has come from them."""

    def __init__(self, exchange: _Exchange, bucket: _VirtualBucket) -> None:
        super().__init__(exchange.name, bucket.cluster.unawaited)
        self._exchange, self._bucket = exchange, bucket

    def _wait(self) -> Waiting:
        while not self._exchange.over:
            yield self._exchange
        return self._bucket.taken(self._exchange)


class _VirtualBucket(ReduceProgram):
    """A bucket of gradients of one replica in virtual time.

    Attributes:
        now_s: of this replica, from the start of the bucket.
        computed_s: of them, in which its device computed.
    """

    def __init__(
        self,
        form: Holds,
        gradient: Value,
        programs: BucketPrograms,
        rank: int,
        meeting: tuple[int, list[_Exchange]],
    ) -> None:
        super().__init__(form, gradient, programs.memory(rank), programs.worker)
        self.cluster: VirtualCluster = programs.cluster
        self._together, self._exchanges = meeting
        self._come = 0
        self.now_s = self.computed_s = self.bytes_sent = 0.0

    def _compute(self, seconds: float) -> None:
        self.now_s += seconds
        self.computed_s += seconds

    def encode(self, value: Value, codec: Codec) -> Ready:
        encoded = self.encoded(value, codec)
        self._compute(self.cluster.codec_s(codec, self.form.num_bytes, decodes=False))
        return self._done("encode", encoded)

    def compute(self, function: Callable[..., object], *args: object) -> Ready:
        began = time.perf_counter()
        answer = function(*[awaited(a) for a in args])
        self._compute(time.perf_counter() - began)
        return self._done("compute", answer)

    def _done(self, name: str, answer: object) -> Ready:
        return Ready(name, self.cluster.unawaited, lambda: answer)

    def mean(self, value: Value) -> Word:
        value = as_value(value, "mean")
        if isinstance(value, Encoded):
            check_linear(value)
        return self._meet("mean", value)

    def gather(self, value: Value) -> Word:
        return self._meet("gather", as_value(value, "gather"))

    def _meet(self, name: str, value: Value) -> Word:
        """Come to this replica's next exchange; the last one there settles it."""
        number, self._come = self._come, self._come + 1
        if number == len(self._exchanges):
            self._exchanges.append(_Exchange(name))
        exchange = self._exchanges[number]
        if exchange.name != name:
            raise PluginError(f"replica {self.rank} calls {name} where another one calls {exchange.name}")
        exchange.values[self.rank] = value
        exchange.start_s = max(exchange.start_s, self.now_s)
        share = 2 * (self.replicas - 1) / self.replicas if name == "mean" else self.replicas - 1
        self.bytes_sent += share * value.num_bytes
        if len(exchange.values) == self._together:
            self._settle(exchange, self._exchanges[number - 1].end_s if number else 0.0)
        return _ExchangeWord(exchange, self)

    def _settle(self, exchange: _Exchange, free_s: float) -> None:
        """Say what comes of an exchange; those before it are on the same wire."""
        costs, layout = self.cluster.costs, self.cluster.setup.layout
        values = [exchange.values[rank] for rank in sorted(exchange.values)]
        if exchange.name == "mean":
            mean = self.cluster.executor.average(values) if len(values) > 1 else values[0]
            exchange.result, seconds = mean, costs.bucket_mean_s(layout, mean.num_bytes)
        else:
            exchange.result = values * (self.replicas // len(values))
            seconds = costs.bucket_gather_s(layout, max(value.num_bytes for value in values))
        exchange.end_s = max(exchange.start_s, free_s) + seconds
        exchange.over = True

    def taken(self, exchange: _Exchange) -> Value | list[Value]:
        """Take what an exchange gave, once it is over, and decode it."""
        self.now_s = max(self.now_s, exchange.end_s)
        answer = exchange.result
        for value in answer if isinstance(answer, list) else [answer]:
            if isinstance(value, Encoded) and value.codec.decode_passes:
                self._compute(self.cluster.codec_s(value.codec, self.form.num_bytes, decodes=True))
        return list(answer) if isinstance(answer, list) else answer
