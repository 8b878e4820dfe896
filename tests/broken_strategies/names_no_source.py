"""A mistake that people make: every worker computes a gradient; all apply their mean."""

from harness import Strategy, Worker, hookimpl


class NamesNoSource(Strategy):
    """Every worker computes a gradient; all apply their mean."""

    name = "names-no-source"
    equals = "single"

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.mean(await worker.gradient(batch)))


@hookimpl
def harness_strategies():
    return [NamesNoSource]
