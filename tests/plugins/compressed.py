"""Strategies that put values on the wire in codecs of their own, right and wrong ones."""

from __future__ import annotations

from harness import SERVER, Codec, Server, Strategy, Worker, average, hookimpl


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


class Above(Codec):
    """Numbers above a threshold and where they are: every worker has another number of them."""

    def __init__(self, threshold):
        self.threshold = threshold

    def encode(self, layer, name):
        """Return numbers and places."""
        flat = layer.reshape(-1)
        places = (flat.abs() > self.threshold).nonzero().view(-1)
        return flat[places], places

    def decode(self, parts, shape, name):
        """Put the numbers in their places."""
        numbers, places = parts
        return numbers.new_zeros(shape.numel()).index_copy(0, places, numbers).view(shape)


class AboveThreshold(Strategy):
    """Gather values of different sizes."""

    name = "above"

    async def work(self, worker: Worker) -> None:
        """Exchange what is large."""
        for batch in worker.batches():
            sent = await worker.encode(await worker.gradient(batch), Above(0.01))
            gathered = await worker.gather(sent)
            worker.record(different=len({value.num_bytes for value in gathered}))
            await worker.apply(average(gathered))


class WeightedHalves(Strategy):
    """Average encoded weights, each worker by what it has seen."""

    name = "weighted-halves"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        """Train a batch, meet."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            mean = await worker.mean(await worker.encode(worker.weights, Halves()), by_samples=True)
            await worker.load(mean)


class EncodedServer(Strategy):
    """Push and pull encoded values."""

    name = "encoded-ps"
    model_at = "server"

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Push large numbers, pull rounded weights."""
        for batch in worker.batches():
            await worker.send(await worker.encode(await worker.gradient(batch), Above(0.02)), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        """Take one gradient from each worker in turn."""
        while True:
            pushes = [await server.receive(worker) for worker in server.workers]
            if not any(pushes):
                return
            await server.apply(average([push.value for push in pushes if push]))
            weights = await server.encode(server.weights, Halves())
            for push in pushes:
                if push:
                    await server.send(weights, to=push.source)


class GathersPlainly(Strategy):
    """Gather values as they are."""

    name = "gathers"

    async def work(self, worker: Worker) -> None:
        """Exchange gradients."""
        for batch in worker.batches():
            await worker.apply(average(await worker.gather(await worker.gradient(batch))))


class Mistaken(Codec):
    """Numbers without what makes them a tuple."""

    def encode(self, layer, name):
        """Return a tensor where a tuple of tensors belongs."""
        return layer

    def decode(self, parts, shape, name):
        """Never come here."""
        raise AssertionError


class Misshaped(Halves):
    """Decodes to another shape."""

    def decode(self, parts, shape, name):
        """Forget the shape."""
        return parts[0].reshape(-1)[:1]


class Held(Halves):
    """Holds a tensor, which no message carries."""

    def __init__(self, tensor):
        self.tensor = tensor


class Doubled(Halves):
    """More on the wire than without a codec."""

    def encode(self, layer, name):
        """Say everything twice."""
        return layer, layer

    def decode(self, parts, shape, name):
        """Return the first."""
        return parts[0]


class Whole(Halves):
    """Says that whole numbers are linear."""

    def encode(self, layer, name):
        """Round."""
        return (layer.mul(100).int(),)


class Writes(Halves):
    """Writes into what it was lent."""

    def encode(self, layer, name):
        """Round in place."""
        return (layer.round_(),)


async def _encode(worker, gradient, codec):
    return await worker.encode(gradient, codec)


async def _apply(worker, gradient, codec):
    await worker.apply(await worker.encode(gradient, codec))


async def _mean(worker, gradient, codec):
    await worker.mean(await worker.encode(gradient, codec))


async def _send(worker, gradient, codec):
    await worker.send(await worker.encode(gradient, codec), to=(worker.rank + 1) % 2)
    await worker.receive()


async def _write(worker, gradient, codec):
    next(iter((await worker.encode(gradient, codec)).parts.values()))[0].zero_()


MISTAKES = {
    "no-tuple": (_encode, lambda gradient: Mistaken()),
    "no-codec": (_encode, lambda gradient: Halves),
    "misshaped": (_apply, lambda gradient: Misshaped()),
    "not-linear": (_mean, lambda gradient: Above(0.1)),
    "whole": (_mean, lambda gradient: Whole()),
    "holds-tensor": (_send, lambda gradient: Held(gradient.tensor())),
    "doubled": (_send, lambda gradient: Doubled()),
    "writes": (_encode, lambda gradient: Writes()),
    "writes-parts": (_write, lambda gradient: Halves()),
}


def mistake(called, word, codec):
    """Return a strategy that makes one mistake."""

    class Makes(Strategy):
        name = called

        async def work(self, worker: Worker) -> None:
            for batch in worker.batches():
                gradient = await worker.gradient(batch)
                await word(worker, gradient, codec(gradient))

    return Makes


@hookimpl
def harness_strategies():
    made = [mistake(called, *makes) for called, makes in MISTAKES.items()]
    return [AboveThreshold, WeightedHalves, EncodedServer, GathersPlainly, *made]
