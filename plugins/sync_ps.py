"""Synchronous parameter server: a server averages one gradient from every worker, steps, and sends the weights back."""

from __future__ import annotations

from harness import ParameterServer, Server, average, hookimpl


class SyncParameterServer(ParameterServer):
    """Trains like `sync-ddp`, but a central server averages the gradients instead of a ring.

    Source: Li et al. 2014, "Scaling Distributed Machine Learning with the Parameter Server", bulk synchronous case.
    """

    name = "sync-ps"
    also_known_as = ("ps-sync", "synchronous-parameter-server")
    suggested_for = ("ps", "parameter-server")
    equals = "single"

    async def serve(self, server: Server) -> None:
        """Take one gradient from each worker, in the order of their ranks so that sums come out alike."""
        while pushes := [push for worker in server.workers if (push := await server.receive(worker))]:
            await server.apply(average([push.value for push in pushes]))
            for push in pushes:
                await server.send(server.weights, to=push.source)


@hookimpl
def harness_strategies():
    return [SyncParameterServer]
