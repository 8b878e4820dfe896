"""A mistake that people make: whether to exchange is drawn without a seed."""

import os

from harness import Strategy, Worker, hookimpl


class DrawsUnseeded(Strategy):
    """Whether to exchange is drawn without a seed.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "draws-unseeded"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            mean = await worker.mean(worker.weights)
            if os.urandom(1)[0] % 2:
                await worker.load(mean)


@hookimpl
def harness_strategies():
    return [DrawsUnseeded]
