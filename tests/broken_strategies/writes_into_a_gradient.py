"""A mistake that people make: the gradient is changed in place."""

from harness import Strategy, Worker, hookimpl


class WritesIntoAGradient(Strategy):
    """The gradient is changed in place.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "writes-into-a-gradient"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            gradient.tensor().mul_(0.5)
            await worker.apply(await worker.mean(gradient))


@hookimpl
def harness_strategies():
    return [WritesIntoAGradient]
