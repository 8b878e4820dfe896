"""Programs with the mistakes that people make; every one must be named, none may hang."""

from __future__ import annotations

from harness import SERVER, Server, Strategy, Worker, hookimpl


class WaitsForever(Strategy):
    """The worker asks first, the server only answers: nobody speaks."""

    name = "waits-forever"

    def servers(self, workers: int) -> int:
        """Run one server."""
        return 1

    async def work(self, worker: Worker) -> None:
        """Wait for weights that nobody sends."""
        for _ in worker.batches():
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        """Answer only."""
        while message := await server.receive():
            await server.send(server.weights, to=message.source)


class Raises(Strategy):
    """The author's own mistake."""

    name = "raises"

    async def work(self, worker: Worker) -> None:
        """Divide by zero at the third batch."""
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            1 / (2 - batch.step)


class ForgetsAwait(Strategy):
    """The commonest mistake of all."""

    name = "forgets-await"

    async def work(self, worker: Worker) -> None:
        """Apply a gradient that is still under way."""
        for batch in worker.batches():
            await worker.apply(worker.gradient(batch))


class NeverWaits(Strategy):
    """Starts words and looks away."""

    name = "never-waits"

    async def work(self, worker: Worker) -> None:
        """Leave the update to itself."""
        for batch in worker.batches():
            worker.apply(await worker.gradient(batch))


@hookimpl
def harness_strategies():
    return [WaitsForever, Raises, ForgetsAwait, NeverWaits]
