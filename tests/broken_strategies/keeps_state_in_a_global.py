"""A mistake that people make: what was left out of the last exchange is kept in the module."""

from harness import Strategy, Worker, hookimpl

KEPT = {}


class KeepsStateInAGlobal(Strategy):
    """What was left out of the last exchange is kept in the module.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "keeps-state-in-a-global"
    alone = None

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            gradient = await worker.gradient(batch)
            if "rest" in KEPT:
                gradient = gradient + KEPT["rest"]
            KEPT["rest"] = gradient * 0.1
            await worker.apply(await worker.mean(gradient * 0.9))


@hookimpl
def harness_strategies():
    return [KeepsStateInAGlobal]
