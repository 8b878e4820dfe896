"""Elastic averaging: workers explore on their own, and a spring ties each of them to a centre."""

from __future__ import annotations

from pydantic import Field

from harness import SERVER, Options, Server, Strategy, Worker, hookimpl


class ElasticAveraging(Strategy):
    """Every `steps` batches a worker and the centre move towards each other, by the same part of what lies between.

    The part is pull / workers. Nobody waits for another worker. What is evaluated is the mean of the workers.

    Source: Zhang, Choromanska and LeCun 2015, "Deep learning with Elastic Averaging SGD", algorithm 1 (asynchronous
    EASGD), whose beta is `pull`, 0.9 there, and whose tau is `steps`.
    """

    name = "elastic-averaging"
    also_known_as = ("easgd", "elastic-averaging-sgd")
    suggested_for = ("elastic",)
    synchrony = "asynchronous"
    batches = "own"
    alone = None
    model_at = "mean"

    class Options(Options):
        """How rarely, and how strongly, workers are pulled."""

        steps: int = Field(4, ge=1, description="batches that a worker trains on between two pulls")
        pull: float = Field(0.9, gt=0, le=1, description="part of the way to the centre that all workers go together")

    def servers(self, workers: int) -> int:
        """Keep one centre."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Train alone; every few batches, be pulled."""
        part = self.options.pull / len(worker.workers)
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            if (batch.step + 1) % self.options.steps == 0:
                await worker.send(worker.weights, to=SERVER)
                centre = (await worker.receive(SERVER)).value
                await worker.load(worker.weights - part * (worker.weights - centre))

    async def serve(self, server: Server) -> None:
        """Answer with the centre as it was, then move it."""
        part = self.options.pull / len(server.workers)
        while message := await server.receive():
            await server.send(server.weights, to=message.source)
            await server.load(server.weights + part * (message.value - server.weights))


@hookimpl
def harness_strategies():
    return [ElasticAveraging]
