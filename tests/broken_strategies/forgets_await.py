"""A mistake that people make: the update is started and never awaited."""

from harness import Strategy, Worker, hookimpl


class ForgetsAwait(Strategy):
    """The update is started and never awaited.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "forgets-await"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [ForgetsAwait]
