"""A mistake that people make: workers count their steps themselves, and stop after a few."""

from harness import SERVER, Server, Strategy, Worker, hookimpl


class StopsByItself(Strategy):
    """Workers count their steps themselves, and stop after a few.

    Source: Chen et al. 2016, "Revisiting Distributed Synchronous SGD", section 2, with a mistake.
    """

    name = "stops-by-itself"
    synchrony = "asynchronous"
    batches = "own"
    model_at = "server"

    def servers(self, workers):
        return 1

    async def work(self, worker: Worker) -> None:
        for batch in worker.batches():
            if batch.step == 10:
                return
            await worker.send(await worker.gradient(batch), to=SERVER)
            await worker.load((await worker.receive(SERVER)).value)

    async def serve(self, server: Server) -> None:
        while message := await server.receive():
            await server.apply(message.value)
            await server.send(server.weights, to=message.source)


@hookimpl
def harness_strategies():
    return [StopsByItself]
