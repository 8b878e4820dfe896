"""Synchronous parameter server: a server averages one gradient from every worker, steps, and sends the weights back."""

from __future__ import annotations

from harness import SERVER, Message, Server, Strategy, Worker, average, hookimpl


class SyncParameterServer(Strategy):
    """Trains like `sync-ddp`, but a central server averages the gradients instead of a ring.

    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server", bulk synchronous case.
    """

    name = "sync-ps"
    also_known_as = ("ps-sync", "synchronous-parameter-server")
    suggested_for = ("ps", "parameter-server")
    equals = "single"
    model_at = "server"

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Push a gradient, wait for the weights that everybody's gradients led to."""
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        """Take one gradient from each worker, in the order of their ranks so that sums come out alike."""
        while pushes := await self._one_from_each(server):
            await server.apply(average([push.value for push in pushes]))
            for push in pushes:
                await server.send(server.weights, to=push.source)

    async def _one_from_each(self, server: Server) -> list[Message]:
        pushes = [await server.receive(worker) for worker in server.workers]
        return [push for push in pushes if push]


@hookimpl
def harness_strategies():
    return [SyncParameterServer]
