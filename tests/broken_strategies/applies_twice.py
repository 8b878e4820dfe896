"""A mistake that people make: each mean gradient is applied twice."""

from harness import Strategy, Worker, hookimpl


class AppliesTwice(Strategy):
    """Each mean gradient is applied twice.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "applies-twice"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            mean = await worker.mean(await worker.gradient(batch))
            await worker.apply(mean)
            await worker.apply(mean)


@hookimpl
def harness_strategies():
    return [AppliesTwice]
