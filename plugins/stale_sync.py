"""Stale synchronous parallel: a server lets no worker run further ahead of the slowest than a bound."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from harness import Options, ParameterServer, Server, average, hookimpl


class StaleSync(ParameterServer):
    """A fast worker waits only when it is `slack` batches ahead of the slowest; gradients are as stale as that allows.

    What has come since the server's last answer is averaged into one update. So with slack = 0 it trains like
    `sync-ps` with workers on their own parts of the data, and with slack = "none" it is `async-ps`.

    Source: Ho et al. 2013, "More Effective Distributed ML via a Stale Synchronous Parallel Parameter Server".
    """

    name = "stale-sync"
    also_known_as = ("ssp", "stale-synchronous-parallel")
    suggested_for = ("stale", "bounded-staleness", "stale-synchronous")
    synchrony = "stale-synchronous"
    batches = "own"

    class Options(Options):
        """How far ahead a worker may run."""

        slack: int | Literal["none"] = Field(
            3, description='batches that a worker may be ahead of the slowest, 0 or more; "none": any number'
        )

    async def serve(self, server: Server) -> None:
        """Hold back whoever is too far ahead, until the slowest has come or has left."""
        slack = float("inf") if self.options.slack == "none" else self.options.slack
        pushed = dict.fromkeys(server.workers, 0)
        gradients, held = {}, []
        while message := await server.receive(leavers=True):
            if message.value is None:
                pushed.pop(message.source, None)
            else:
                pushed[message.source] += 1
                gradients[message.source] = message.value
                held.append(message.source)
            limit = min(pushed.values(), default=0) + slack
            free = [worker for worker in held if pushed[worker] <= limit]
            if free and gradients:
                await server.apply(average(gradients))
                gradients = {}
            for worker in free:
                await server.send(server.weights, to=worker)
            held = [worker for worker in held if worker not in free]


@hookimpl
def harness_strategies():
    return [StaleSync]
