"""A mistake that people make: all gradients are kept in a list."""

from harness import Strategy, Worker, hookimpl


class KeepsEveryGradient(Strategy):
    """All gradients are kept in a list.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "keeps-every-gradient"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        history = []
        for batch in worker.batches():
            history.append(await worker.mean(await worker.gradient(batch)))
            await worker.apply(history[-1])


@hookimpl
def harness_strategies():
    return [KeepsEveryGradient]
