"""A mistake that people make: batches that are not full are left out."""

from harness import Strategy, Worker, hookimpl


class LeavesOutTheLastBatch(Strategy):
    """Batches that are not full are left out.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "leaves-out-the-last-batch"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            full = 24 // len(worker.workers)
            if len(batch.indices) == full:
                await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [LeavesOutTheLastBatch]
