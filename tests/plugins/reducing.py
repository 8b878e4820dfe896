"""Strategies whose layout exchanges gradients by a program of its own, right and wrong ones."""

from __future__ import annotations

from dataclasses import replace

from harness import (
    Bucket,
    Codec,
    DataParallel,
    Layout,
    Options,
    Strategy,
    Value,
    Worker,
    average,
    codecs,
    hookimpl,
    schedules,
)


class Halves(Codec):
    """Every number in 16 bits."""

    linear = True

    def encode(self, layer, name):
        """Round."""
        import torch

        return [layer.to(torch.bfloat16)]

    def decode(self, parts, shape, name):
        """Return the rounded numbers."""
        return parts[0]


class ByPlace(DataParallel):
    """Depends on which numbers are in which bucket, in which order, and on what came in the step before."""

    name = "by-place"

    async def reduce(self, bucket: Bucket) -> Value:
        """Weigh numbers by their place, and by draws; remember; exchange in two ways at once."""
        import torch

        def weighed(value):
            numbers = value.tensor()
            places = torch.arange(numbers.numel(), dtype=numbers.dtype) / numbers.numel()
            noise = codecs.uniform(bucket.random("noise"), numbers) + codecs.uniform(
                bucket.random("all", True), numbers
            )
            return numbers * (1 + 0.1 * bucket.number + 0.1 * places + 0.1 * noise)

        own = bucket.gradient.with_tensor(await bucket.compute(weighed, bucket.gradient))
        kept = bucket.kept.get("last", own.zeros())
        meant, gathered = bucket.mean(own), bucket.gather(0.5 * kept)
        bucket.kept["last"] = own
        bucket.record(buckets=bucket.number + 1)
        late = average(await gathered)
        return await meant + late


class RoundedDDP(DataParallel):
    """A codec's mean, and nothing else."""

    name = "rounded"

    async def reduce(self, bucket: Bucket) -> Value:
        """Average rounded gradients."""
        return await bucket.mean(await bucket.encode(bucket.gradient, Halves()))


class Averages(DataParallel):
    """What DDP does without a program."""

    name = "averages"
    equals = "single"

    async def reduce(self, bucket: Bucket) -> Value:
        """Average."""
        return await bucket.mean(bucket.gradient)


class OverGroups(Strategy):
    """Workers of two replicas each, whose gradients are rounded, average their weights."""

    name = "over-groups"
    model_at = "mean"

    class Options(Options):
        """How many replicas a worker has."""

        replicas: int = 2

    def layout(self, gpus: int) -> Layout:
        """Put so many replicas into a worker."""
        return Layout(data=self.options.replicas, reduce=RoundedDDP.reduce.__get__(self))

    async def work(self, worker: Worker) -> None:
        """Train a batch, meet."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.load(await worker.mean(worker.weights))


class PipedGroups(Strategy):
    """Workers that are pipelines average their weights."""

    name = "piped-groups"
    model_at = "mean"

    def layout(self, gpus: int) -> Layout:
        """Put two stages into a worker."""
        return Layout(pipeline=2, schedule=schedules.gpipe)

    work = OverGroups.work


class SendsFromGroups(Strategy):
    """Workers of two replicas send each other their weights."""

    name = "sends-from-groups"
    model_at = "mean"

    def layout(self, gpus: int) -> Layout:
        """Put two replicas into a worker."""
        return Layout(data=2)

    async def work(self, worker: Worker) -> None:
        """Train a batch, average with the other one."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.send(worker.weights, to=1 - worker.rank)
            message = await worker.receive(1 - worker.rank)
            await worker.load(average({worker.rank: worker.weights, message.source: message.value}))


async def returns_nothing(self, bucket):
    await bucket.mean(bucket.gradient)


async def returns_a_tensor(self, bucket):
    return (await bucket.mean(bucket.gradient)).tensor()


async def returns_a_number_less(self, bucket):
    return (await bucket.mean(bucket.gradient)).tensor()[1:]


async def returns_its_own(self, bucket):
    return bucket.gradient


async def forgets_await(self, bucket):
    return bucket.mean(bucket.gradient)


class Foreign:
    def __await__(self):
        yield "something"


async def awaits_something_else(self, bucket):
    await Foreign()


async def raises(self, bucket):
    return bucket.gradient + bucket.kept["nothing"]


async def meets_alone(self, bucket):
    if bucket.rank == 0:
        await bucket.mean(bucket.gradient)
    return await bucket.mean(bucket.gradient)


async def meets_otherwise(self, bucket):
    await (bucket.mean(bucket.gradient) if bucket.rank else bucket.gather(bucket.gradient))
    return await bucket.mean(bucket.gradient)


async def writes(self, bucket):
    bucket.gradient.tensor().zero_()
    return bucket.gradient


MISTAKES = (
    *(returns_nothing, returns_a_tensor, returns_its_own, forgets_await, awaits_something_else, raises),
    *(meets_alone, meets_otherwise, writes),
)


class Cut(Strategy):
    """A reduce where no replica holds the whole model."""

    name = "cut-and-reduced"

    def layout(self, gpus: int) -> Layout:
        """Shard the parameters."""
        return replace(Layout(data=gpus, shard="parameters"), reduce=RoundedDDP.reduce.__get__(self))


@hookimpl
def harness_strategies():
    made = [
        type(f"Makes{number}", (DataParallel,), {"name": each.__name__.replace("_", "-"), "reduce": each})
        for number, each in enumerate(MISTAKES)
    ]
    return [ByPlace, RoundedDDP, Averages, OverGroups, PipedGroups, SendsFromGroups, Cut, *made]
