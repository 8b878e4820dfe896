"""A mistake that people make: all batches are drawn before the first is trained on, so that no stop is seen."""

from harness import Strategy, Worker, hookimpl


class ListsAllBatches(Strategy):
    """All batches are drawn before the first is trained on, so that no stop is seen.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "lists-all-batches"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in list(worker.batches()):
            await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [ListsAllBatches]
