"""n-softsync: a server that averages a share of all workers' gradients before it steps: staleness is about n."""

from __future__ import annotations

from pydantic import Field

from harness import Options, ParameterServer, Server, average, hookimpl


class SoftSync(ParameterServer):
    """Asynchronous, but the server averages several gradients a step: staler than `sync-ps`, less than `async-ps`.

    The server steps along the mean of every workers // n gradients; nobody waits for the others. With
    `divide_by_staleness` a gradient that is tau updates old is divided by tau before it enters the mean.

    Source: Zhang, Gupta, Lian and Liu 2016, "Staleness-aware Async-SGD", equations 3 to 5.
    """

    name = "softsync"
    also_known_as = ("n-softsync", "soft-sync")
    suggested_for = ("staleness-aware",)
    synchrony = "asynchronous"
    batches = "own"

    class Options(Options):
        """How soft, and what the server may do about staleness."""

        n: int = Field(1, ge=1, description="mean staleness: an update waits for workers // n gradients, at least one")
        divide_by_staleness: bool = Field(False, description="divide a stale gradient by its staleness")

    async def serve(self, server: Server) -> None:
        """Collect gradients, step when there are enough, answer every push at once."""
        collected = []
        while message := await server.receive():
            staleness = server.weights.version - message.value.version
            divisor = max(1, staleness) if self.options.divide_by_staleness else 1
            collected.append(message.value * (1 / divisor) if divisor > 1 else message.value)
            if len(collected) >= max(1, len(server.workers) // self.options.n):
                await server.apply(average(collected))
                collected = []
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [SoftSync]
