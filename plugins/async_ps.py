"""Asynchronous parameter server: every gradient is applied when it arrives, however old the weights it came from."""

from __future__ import annotations

from pydantic import Field

from harness import SERVER, Options, Server, Strategy, Worker, hookimpl


class AsyncParameterServer(Strategy):
    """No worker waits for another. Gradients are stale: by workers - 1 updates on average.

    With `divide_by_staleness` a gradient that is tau updates old steps with rate / tau.

    Source: Dean et al. 2012, "Large Scale Distributed Deep Networks" (Downpour SGD); the division: Zhang, Gupta, Lian
    and Liu 2016, "Staleness-aware Async-SGD", equation 5.
    """

    name = "async-ps"
    also_known_as = ("async", "async-sgd", "asgd", "asynchronous-parameter-server")
    suggested_for = ("ps", "parameter-server", "asynchronous", "downpour")
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    class Options(Options):
        """What the server may do about staleness."""

        divide_by_staleness: bool = Field(False, description="divide the rate of a stale gradient by its staleness")

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Push a gradient, go on with whatever weights the server has by then."""
        for batch in worker.batches():
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        """Apply each gradient as it comes and answer with the weights."""
        while message := await server.receive():
            staleness = server.weights.version - message.value.version
            divisor = max(1, staleness) if self.options.divide_by_staleness else 1
            await server.apply(message.value, scale=1 / divisor)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [AsyncParameterServer]
