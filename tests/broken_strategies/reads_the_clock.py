"""A mistake that people make: workers meet whenever a hundredth of a second has passed."""

from datetime import datetime

from harness import Strategy, Worker, hookimpl


class ReadsTheClock(Strategy):
    """Workers meet whenever a hundredth of a second has passed.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "reads-the-clock"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            if datetime.now().microsecond % 20_000 < 10_000:
                await worker.load(await worker.mean(worker.weights))


@hookimpl
def harness_strategies():
    return [ReadsTheClock]
