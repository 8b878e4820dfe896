"""A mistake that people make: gradients are added where they should be averaged."""

from harness import Strategy, Worker, hookimpl


class SumsGradients(Strategy):
    """Gradients are added where they should be averaged.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "sums-gradients"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            mean = await worker.mean(await worker.gradient(batch))
            await worker.apply(mean * len(worker.workers))


@hookimpl
def harness_strategies():
    return [SumsGradients]
