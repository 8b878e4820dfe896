"""A mistake that people make: gradients of uneven shares are weighed by their size, which they are already."""

from harness import Strategy, Worker, hookimpl


class WeighsSharesAgain(Strategy):
    """Gradients of uneven shares are weighed by their size, which they are already.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "weighs-shares-again"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            share = len(batch.indices) * len(worker.workers) / batch.size
            await worker.apply(await worker.mean(gradient * share))


@hookimpl
def harness_strategies():
    return [WeighsSharesAgain]
