"""A mistake that people make: every worker applies its own gradient, and nobody exchanges any."""

from harness import Strategy, Worker, hookimpl


class ForgetsToAverage(Strategy):
    """Every worker applies its own gradient, and nobody exchanges any.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "forgets-to-average"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))


@hookimpl
def harness_strategies():
    return [ForgetsToAverage]
