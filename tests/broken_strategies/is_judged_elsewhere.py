"""A mistake that people make: workers train, and what is evaluated is a server that nobody updates."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class IsJudgedElsewhere(Strategy):
    """Workers train, and what is evaluated is a server that nobody updates.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "is-judged-elsewhere"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            await worker.apply(await worker.gradient(batch))
            await worker.send(await worker.mean(worker.weights), to=SERVER)

    async def serve(self, server: Server) -> None:
        while await server.receive():
            pass


@hookimpl
def harness_strategies():
    return [IsJudgedElsewhere]
