"""Strategies without a server that average weights in ways the bundled ones do not."""

from __future__ import annotations

from harness import SERVER, Server, Strategy, Worker, hookimpl
from harness.api.host import bundled, load_file


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


class Elastic(Strategy):
    """Workers explore, a server keeps the centre that pulls them back.

    Source: Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD", algorithm 1.
    """

    name = "elastic"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers: int) -> int:
        """Keep one centre."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Train, then move towards the centre."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.send(worker.weights, to=SERVER)
            centre = (await worker.receive(SERVER)).value
            await worker.load(worker.weights - 0.3 * (worker.weights - centre))

    async def serve(self, server: Server) -> None:
        """Move the centre towards whoever calls; never apply a gradient."""
        while message := await server.receive():
            await server.send(server.weights, to=message.source)
            await server.load(server.weights + 0.3 * (message.value - server.weights))


class ElasticMean(Elastic):
    """The same, judged by the workers' mean."""

    name = "elastic-mean"
    model_at = "mean"


class OwnSyncPS(load_file(bundled("plugins") / "sync_ps.py").SyncParameterServer):
    """`sync-ps`, every worker on its own part of the data."""

    name = "own-sync-ps"
    equals = None
    batches = "own"


@hookimpl
def harness_strategies():
    return [BySamples, OwnSynchronous, OwnAsynchronous, Elastic, ElasticMean, OwnSyncPS]
