"""A mistake that people make: the mean gradient is divided by the workers once more."""

from harness import Strategy, Worker, hookimpl


class DividesAgain(Strategy):
    """The mean gradient is divided by the workers once more.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "divides-again"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            mean = await worker.mean(await worker.gradient(batch))
            await worker.apply(mean * (1 / len(worker.workers)))


@hookimpl
def harness_strategies():
    return [DividesAgain]
