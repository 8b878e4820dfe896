"""Strategies without a server that average weights in ways the bundled ones do not."""

from __future__ import annotations

from harness import Strategy, Worker, hookimpl


class BySamples(Strategy):
    """Average after every batch, each worker weighted by what it has seen."""

    name = "by-samples"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        """Train one batch, meet."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.load(await worker.mean(worker.weights, by_samples=True))


class OwnSynchronous(Strategy):
    """Every worker has data of its own, and they meet after every batch."""

    name = "own-synchronous"
    batches = "own"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        """Train one batch, meet."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.load(await worker.mean(worker.weights))


class OwnAsynchronous(Strategy):
    """Every worker trains on data of its own and never talks; the model is their mean."""

    name = "own-asynchronous"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "mean"

    async def work(self, worker: Worker) -> None:
        """Train alone."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))


@hookimpl
def harness_strategies():
    return [BySamples, OwnSynchronous, OwnAsynchronous]
